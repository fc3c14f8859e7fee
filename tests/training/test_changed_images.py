"""Images that are replaced, deleted, emptied, locked or turned into folders while a run is stopped, or goes on."""

import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from sdclr.data.changes import file_states, warn_of_changes
from sdclr.data.folder import FolderSource
from sdclr.errors import InputError
from sdclr.training import pretrain as loop
from sdclr.training.interrupts import Interrupted


def write(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 10, 3), dtype=np.uint8)
    cv2.imwrite(str(path), cv2.resize(pixels, (120, 100)))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number in range(34):
        write(tmp_path / "photos" / f"{number:02d}.jpg", number)
    return tmp_path / "photos"


def stop_at(monkeypatch, step, then=lambda: None):
    """Let a run do something after a step, and end it there if that raises."""
    take = loop.Trainer._take_step

    def stepped(self, batch):
        take(self, batch)
        if self.step == step:
            then()

    monkeypatch.setattr(loop.Trainer, "_take_step", stepped)


def interrupt():
    raise Interrupted(15, "stopped")


def test_a_resumed_run_says_which_images_were_replaced(train, photos, monkeypatch):
    stop_at(monkeypatch, 3, interrupt)
    with pytest.raises(Interrupted):
        train(FolderSource(photos), checkpoint_minutes=0)
    monkeypatch.undo()
    write(photos / "07.jpg", 100)
    write(photos / "21.jpg", 101)
    with pytest.warns(
        UserWarning, match=r"2 images have changed, first 07.jpg, since .*run was last trained: it continues"
    ):
        assert train(FolderSource(photos), checkpoint_minutes=0).finished


def test_a_listener_is_told_instead(photos, tmp_path, told):
    path, source = tmp_path / "image_files.npy", FolderSource(photos)
    warn_of_changes(path, source, file_states(source), begun=False)
    write(photos / "07.jpg", 100)
    warn_of_changes(path, source, file_states(source), begun=True)
    warn_of_changes(path, source, file_states(source), begun=True)
    (line,) = told.told
    assert line.startswith(f"1 image has changed: 07.jpg since {tmp_path} was last trained")


def test_a_resumed_run_with_the_same_images_says_nothing(train, photos, monkeypatch):
    stop_at(monkeypatch, 3, interrupt)
    with pytest.raises(Interrupted):
        train(FolderSource(photos), checkpoint_minutes=0)
    monkeypatch.undo()
    assert train(FolderSource(photos), checkpoint_minutes=0).finished  # a warning would be an error here


def test_an_older_file_is_another_one(train, photos, monkeypatch):
    stop_at(monkeypatch, 3, interrupt)
    with pytest.raises(Interrupted):
        train(FolderSource(photos), checkpoint_minutes=0)
    monkeypatch.undo()
    os.utime(photos / "07.jpg", (1, 1))  # a clock that was set back, or a copy that keeps the time of another photo
    with pytest.warns(UserWarning, match="1 image has changed: 07.jpg"):
        train(FolderSource(photos), checkpoint_minutes=0)


def spoil(photos: Path) -> None:
    (photos / "00.jpg").unlink()
    (photos / "01.jpg").write_bytes(b"")
    (photos / "02.jpg").unlink()
    (photos / "02.jpg").mkdir()
    (photos / "03.jpg").write_bytes((photos / "04.jpg").read_bytes()[:300])
    write(photos / "05.jpg", 300)


@pytest.mark.parametrize("step", [2, 4])  # within an epoch of two steps, and at its end
@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_goes_on_without_images_that_go_bad_and_lists_them(train, photos, monkeypatch, step, workers):
    stop_at(monkeypatch, step, lambda: spoil(photos))
    run = train(FolderSource(photos), changes={"epochs": 6}, workers=workers, cache_gb=0)
    assert run.finished
    listed = run.bad_images_file.read_text()
    assert [name for name in ("00", "01", "02", "03", "05") if f"{name}.jpg" in listed] == ["00", "01", "02", "03"]


def test_a_run_whose_images_are_all_gone_ends_in_one_line(train, photos, monkeypatch):
    stop_at(monkeypatch, 4, lambda: [file.unlink() for file in photos.iterdir()])
    with pytest.raises(InputError, match="none of its 34 images can be decoded any more"):
        train(FolderSource(photos), changes={"epochs": 6}, cache_gb=0)


def test_a_resumed_run_lacks_an_image_that_was_deleted_and_says_so(train, photos, monkeypatch):
    stop_at(monkeypatch, 3, interrupt)
    with pytest.raises(Interrupted):
        train(FolderSource(photos), checkpoint_minutes=0)
    monkeypatch.undo()
    (photos / "07.jpg").unlink()
    with pytest.raises(InputError, match="was trained on 34 images of photos, not on these 33"):
        train(FolderSource(photos))


def test_the_cache_of_images_notices_a_photo_of_the_same_time_by_its_size(train, photos):
    """Clocks that stand still, and tools that keep the times of files."""
    first = train(FolderSource(photos), folder="first")
    times = (photos / "07.jpg").stat()
    shutil.copy(photos / "08.jpg", photos / "07.jpg")
    os.utime(photos / "07.jpg", ns=(times.st_atime_ns, times.st_mtime_ns))
    cached, past = (train(FolderSource(photos), folder=name, cache_gb=gb) for name, gb in (("a", 1.0), ("b", 0.0)))
    weights = [(run.path / "encoder.safetensors").read_bytes() for run in (first, cached, past)]
    assert weights[1] == weights[2]
    assert weights[0] != weights[1]
