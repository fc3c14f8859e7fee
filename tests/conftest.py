"""Fixtures shared by the whole suite."""

import os
from collections.abc import Iterator
from pathlib import Path

# Networks here are tiny: threads would spend their time waiting for each other. Before torch is imported, so that
# processes started by tests follow.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest
import torch

from sdclr.progress import Stage, reporting_to
from synchronization import NoSynchronization

# A busy machine must not fail a test.
hypothesis.settings.register_profile("without deadline", deadline=None)
hypothesis.settings.load_profile("without deadline")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder that holds `data/` and `splits/`; tests that need real data skip where it is absent."""
    root = os.environ.get("SDCLR_DATA")
    if not root:
        pytest.skip("SDCLR_DATA is not set")
    return Path(root)


@pytest.fixture(scope="session")
def cifar10_dir(shared_data: Path) -> Path:
    """CIFAR-10 as parquet files in the Hugging Face layout."""
    return shared_data / "data" / "cifar10"


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests, and processes that they start, keep on disk does not go to the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def no_synchronization() -> type[NoSynchronization]:
    """`with no_synchronization() as watched: …` lists in `watched.found` what would make the host wait for a GPU."""
    return NoSynchronization


class Recorder:
    """A listener that keeps what it is told."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, int, int | None]] = []
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.told: list[str] = []
        self.notes: list[str] = []

    def begin(self, stage: Stage) -> None:
        self.begun.append(stage.name)

    def update(self, stage: Stage) -> None:
        self.steps.append((stage.name, stage.done, stage.total))
        self.notes.append(stage.note)

    def end(self, stage: Stage) -> None:
        self.ended.append(stage.name)

    def tell(self, text: str) -> None:
        self.told.append(text)

    def counts(self) -> list[tuple[int, int | None]]:
        """What was done, of how many, at every report."""
        return [(done, total) for _, done, total in self.steps]


@pytest.fixture
def told() -> Iterator[Recorder]:
    """What is reported while a test runs."""
    recorder = Recorder()
    with reporting_to(recorder):
        yield recorder
