"""Fixtures shared by the whole suite."""

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Networks here are tiny: threads would spend their time waiting for each other. Before torch is imported, so that
# processes started by tests follow.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch


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
def _measurements_apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests measure about this machine stays out of the user's cache."""
    folder = tmp_path_factory.mktemp("speed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sdclr.fastest.cache_folder", lambda: folder)
        yield


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def no_synchronisation() -> Any:
    """`with no_synchronisation() as watched: …` lists in `watched.found` what would make the host wait for a GPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path, str(Path(__file__).parent)])
        return importlib.import_module("synchronisation").NoSynchronisation
