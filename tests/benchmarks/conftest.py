"""Shared by the tests of benchmarks."""

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
FOLDERS = [str(BENCHMARKS / folder) for folder in ("speed", "evidence", "release")]


@pytest.fixture(scope="module", autouse=True)
def _scripts_import_each_other():
    """Put their folders on the path, as running one of them does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*FOLDERS, *sys.path])
        yield
