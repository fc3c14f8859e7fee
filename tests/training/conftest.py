"""A run that takes a second: a few digits, a narrow network."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from sdclr.data.sources import ArraySource, ImageSource, SubsetSource, digits
from sdclr.encoders import EncoderConfig, HeadConfig, Preprocessing
from sdclr.features.extract import extract_features
from sdclr.training.config import DamageConfig, PretrainConfig, Runtime
from sdclr.training.optim import OptimConfig
from sdclr.training.pretrain import pretrain
from sdclr.training.run import Run
from sdclr.views.parameters import ViewConfig


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Networks this small gain nothing from a second thread, and lose much where cores are busy."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny() -> PretrainConfig:
    """Twelve steps: four epochs of three batches, on `few_digits`."""
    return PretrainConfig(
        encoder=EncoderConfig(width=4),
        head=HeadConfig(dim=8),
        views=ViewConfig(image_size=8),
        damage=DamageConfig(ratio=0.3),
        optim=OptimConfig(lr=0.1, warmup_epochs=1),
        epochs=4,
        batch_size=16,
    )


@pytest.fixture(scope="session")
def few_digits() -> SubsetSource:
    return SubsetSource(digits(), np.arange(50), name="few")


@pytest.fixture(scope="session")
def runtime() -> Runtime:
    # In full precision, whatever the machine has: tests compare to many digits.
    return Runtime(device="cpu", workers=0, log_steps=2, progress=False, amp="none")


@pytest.fixture(scope="session")
def finished(
    tiny: PretrainConfig, few_digits: SubsetSource, runtime: Runtime, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    """The run, uninterrupted. Do not write into it."""
    return pretrain(few_digits, tiny, run=tmp_path_factory.mktemp("runs") / "finished", runtime=runtime)


@pytest.fixture
def train(tiny: PretrainConfig, few_digits: SubsetSource, runtime: Runtime, tmp_path: Path) -> Callable[..., Run]:
    """`train(source, folder, changes of the configuration, **changes of the runtime)`; the same again goes on."""

    def call(
        source: ImageSource = few_digits,
        folder: str = "run",
        changes: dict[str, Any] | None = None,
        weights: Any = None,
        **how: Any,
    ) -> Run:
        config = dataclasses.replace(tiny, **(changes or {}))
        how_now = dataclasses.replace(runtime, **how)
        return pretrain(source, config, run=tmp_path / folder, runtime=how_now, weights=weights)

    return call


@pytest.fixture(scope="session")
def large_images() -> ArraySource:
    """Images too large to be held in memory."""
    return ArraySource(np.random.default_rng(0).integers(0, 256, (40, 100, 120, 3), dtype=np.uint8), name="large")


@pytest.fixture(scope="session")
def embed_digits() -> Callable[[nn.Module], tuple[NDArray[np.float32], ...]]:
    """Features of the digits to train on, and of those to test on, by an encoder."""

    def call(encoder: nn.Module) -> tuple[NDArray[np.float32], ...]:
        parts = (digits("train"), digits("test"))
        return tuple(
            extract_features(encoder, part, preprocessing=Preprocessing(image_size=8), batch_size=512).values
            for part in parts
        )

    return call
