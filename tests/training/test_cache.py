"""Runs on photos: whether decoded images are kept, and what becomes of them, changes no result."""

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sdclr.data.sources import FolderSource
from sdclr.errors import InputError
from sdclr.loading.cache import CachedSource
from sdclr.training.config import Runtime
from sdclr.training.interrupts import Interrupted
from sdclr.training.pretrain import Trainer
from sdclr.training.run import Run

Train = Callable[..., Run]

# Newer Pythons warn when a process with threads forks; torch starts threads, and its DataLoader forks.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for number in range(40):
        coarse = np.random.default_rng(number).integers(0, 256, (5, 6, 3), dtype=np.uint8)
        size = (60 + number % 7, 100)
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(tmp_path / f"photos/{number:02d}.jpg")
    return tmp_path / "photos"


def entries(home: Path) -> list[Path]:
    return [path for path in home.rglob("*") if path.is_file()]


def result(run: Run) -> tuple[list[float], bytes]:
    return [row["loss"] for row in run.metrics()], (run.path / "encoder.safetensors").read_bytes()


def interrupted_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop the next session after this step."""
    take_step, todo = Trainer._take_step, [signal.SIGTERM]

    def wrapped(self: Trainer, batch: Any) -> None:
        take_step(self, batch)
        if self.step == step and todo:
            signal.raise_signal(todo.pop())

    monkeypatch.setattr(Trainer, "_take_step", wrapped)


def test_a_resumed_run_is_the_same_with_and_without_a_cache(
    train: Train, photos: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = result(train(FolderSource(photos), "plain", cache_gb=0))
    assert entries(home) == []
    assert result(train(FolderSource(photos), "kept", workers=1)) == plain
    assert len(entries(home)) == 40
    shutil.rmtree(home)
    interrupted_at(3, monkeypatch)
    with pytest.raises(Interrupted):
        train(FolderSource(photos), "cut", workers=1)
    for entry in entries(home)[::2]:
        entry.write_bytes(entry.read_bytes()[:-1])
    assert result(train(FolderSource(photos), "cut")) == plain
    # The next session may do without what the one before has kept.
    interrupted_at(5, monkeypatch)
    with pytest.raises(Interrupted):
        train(FolderSource(photos), "off")
    assert result(train(FolderSource(photos), "off", cache_gb=0)) == plain


def test_a_cache_that_is_too_small_changes_nothing(train: Train, photos: Path, home: Path) -> None:
    plain = result(train(FolderSource(photos), "plain", cache_gb=0))
    with pytest.warns(UserWarning, match="has room for"):
        run = train(FolderSource(photos), "short", cache_gb=2e-5)
    assert result(run) == plain
    assert 0 < len(entries(home)) < 40
    assert sum(entry.stat().st_size for entry in entries(home)) < 2e4


def test_small_images_are_not_kept(train: Train, home: Path) -> None:
    train(changes={"epochs": 2})
    assert not home.exists()


def test_a_negative_limit_is_refused() -> None:
    with pytest.raises(InputError, match="--cache-gb is a number of gigabytes"):
        Runtime(cache_gb=-1)


def test_the_feed_keeps_the_images_that_can_be_used(
    train: Train, photos: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "07.jpg").write_bytes((photos / "07.jpg").read_bytes()[:300])
    seen: list[Any] = []
    take_step = Trainer._take_step

    def watched(self: Trainer, batch: Any) -> None:
        take_step(self, batch)
        seen.append(self.feed.images)

    monkeypatch.setattr(Trainer, "_take_step", watched)
    train(FolderSource(photos), "run", max_bad_fraction=0.5)
    assert isinstance(seen[0], CachedSource)
    assert len(seen[0]) == len(entries(home)) == 39
