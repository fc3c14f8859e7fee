"""Two runs that take a second each, and a collection with images that cannot be decoded."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sdclr.data.sources import SubsetSource, digits
from sdclr.encoders import EncoderConfig, HeadConfig
from sdclr.errors import BadImageError
from sdclr.training.config import DamageConfig, PretrainConfig, Runtime
from sdclr.training.optim import OptimConfig
from sdclr.training.pretrain import pretrain
from sdclr.training.run import Run
from sdclr.views.parameters import ViewConfig

TINY = PretrainConfig(
    encoder=EncoderConfig(width=4),
    head=HeadConfig(dim=8),
    views=ViewConfig(image_size=8),
    damage=DamageConfig(ratio=0.5),
    optim=OptimConfig(lr=0.1, warmup_epochs=0),
    epochs=2,
    batch_size=32,
)
RUNTIME = Runtime(device="cpu", progress=False, amp="none", checkpoint_minutes=0)


class Damaged(SubsetSource):
    """A source of which some images are bad, and which may stop working."""

    def __init__(self, source: SubsetSource, bad: tuple[int, ...] = (), stops_at: int | None = None) -> None:
        super().__init__(source.source, source.indices, name=source.name)
        self.bad, self.stops_at = bad, stops_at
        self.asked: list[int] = []

    def image(self, index: int, *, min_side: int | None = None) -> NDArray[np.uint8]:
        self.asked.append(index)
        if index == self.stops_at:
            raise KeyboardInterrupt
        if index in self.bad:
            raise BadImageError(self.ids[index], "truncated")
        return super().image(index, min_side=min_side)


@pytest.fixture(scope="session")
def collection() -> SubsetSource:
    return SubsetSource(digits(), np.arange(120), name="few")


@pytest.fixture(scope="session")
def sdclr_run(collection: SubsetSource, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("runs") / "sdclr"
    return pretrain(collection, TINY, run=folder, runtime=RUNTIME)


@pytest.fixture(scope="session")
def simclr_run(collection: SubsetSource, tmp_path_factory: pytest.TempPathFactory) -> Run:
    config = dataclasses.replace(TINY, damage=DamageConfig(kind="none"))
    folder = tmp_path_factory.mktemp("runs") / "simclr"
    return pretrain(collection, config, run=folder, runtime=RUNTIME)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "mine"


@pytest.fixture(scope="session")
def damaged() -> type[Damaged]:
    return Damaged
