"""A long tail of digits, a small configuration, and a finished run to start from."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from sdclr.data.sources import Source, SubsetSource, digits
from sdclr.downstream.config import FinetuneConfig
from sdclr.encoders import EncoderConfig, HeadConfig
from sdclr.longtail.splits import long_tail_split
from sdclr.training.config import DamageConfig, PretrainConfig, Runtime
from sdclr.training.optim import OptimConfig
from sdclr.training.pretrain import pretrain
from sdclr.training.run import Run
from sdclr.views.parameters import ViewConfig


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def long_tail(seed: int, max_count: int, imbalance: float) -> SubsetSource:
    train = digits("train")
    drawn = long_tail_split(train.labels, max_count=max_count, imbalance=imbalance, seed=seed, few_shot_fraction=0)
    return SubsetSource(train, drawn.long_tail, name=f"digits-lt-{seed}")


@pytest.fixture(scope="session")
def few_digits() -> SubsetSource:
    """69 images of 10 classes, the rarest 2."""
    return long_tail(1, 20, 10)


@pytest.fixture(scope="session")
def test_digits() -> Source:
    return SubsetSource(digits("test"), np.arange(100), name="digits-test")


@pytest.fixture(scope="session")
def small() -> FinetuneConfig:
    """Four steps an epoch on `few_digits`."""
    encoder = EncoderConfig(name="resnet20", width=4)
    return FinetuneConfig(encoder=encoder, epochs=2, second_epochs=1, batch_size=16, lr=0.05, flip=0.0)


@pytest.fixture(scope="session")
def pretrained(few_digits: SubsetSource, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of one epoch, with a normalization of its own."""
    config = PretrainConfig(
        encoder=EncoderConfig(name="resnet18", width=4, mean=(0.3, 0.3, 0.3), std=(0.4, 0.4, 0.4)),
        head=HeadConfig(dim=8),
        views=ViewConfig(image_size=12),
        damage=DamageConfig(ratio=0.3),
        optim=OptimConfig(lr=0.1, warmup_epochs=0.5),
        epochs=1,
        batch_size=16,
    )
    runtime = Runtime(device="cpu", workers=0, progress=False, amp="none")
    return pretrain(few_digits, config, run=tmp_path_factory.mktemp("runs") / "pretrained", runtime=runtime)


@pytest.fixture
def changed(small: FinetuneConfig):
    """`changed(method=…)`: the small configuration with other values."""
    return lambda **values: dataclasses.replace(small, **values)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"
