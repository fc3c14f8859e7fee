"""Images that are decoded once: that the cache changes no result, whatever happens to its files."""

import os
import shutil
import time
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from sdclr.data.sources import (
    ArraySource,
    FolderSource,
    ManifestSource,
    ParquetSource,
    SubsetSource,
    attributes_of,
    shrunk_image,
    stored_image,
)
from sdclr.errors import BadImageError
from sdclr.files import user_cache_folder
from sdclr.loading import cache as module
from sdclr.loading.cache import CachedSource, cached
from sdclr.loading.streaming import StreamLoader
from sdclr.views.parameters import ViewConfig

SIDE = 32
CONFIG = ViewConfig(image_size=SIDE // 2, blur=0.5)
ENTRY = 64 + 3 * 32 * 64
"""Bytes of an entry of one of the photos below."""

# Newer Pythons warn when a process with threads forks; torch starts threads, and its DataLoader forks.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "sdclr" / "images"


def write_photo(file: Path, seed: int, size: tuple[int, int] = (96, 48)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(file, quality=90)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(12):
        write_photo(tmp_path / "photos" / f"{number:02d}.jpg", number)
    return tmp_path / "photos"


def entries(home: Path) -> list[Path]:
    return sorted(path for path in home.rglob("*") if path.is_file())


def fill(source: Any, **how: Any) -> Any:
    """The source with all its images in the cache, as far as they go."""
    images = cached(source, SIDE, **how)
    for index in range(len(source)):
        shrunk_image(images, index, SIDE)
    return images


def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of the images that are decoded from now on."""
    seen: list[str] = []
    for kind in (FolderSource, ManifestSource, ParquetSource):

        def counted(self: Any, index: int, *, min_side: int | None = None, image: Any = kind.image) -> Any:
            seen.append(self.ids[index])
            return image(self, index, min_side=min_side)

        monkeypatch.setattr(kind, "image", counted)
    return seen


def all_shrunk(source: Any) -> list[np.ndarray]:
    return [shrunk_image(source, index, SIDE) for index in range(len(source))]


def same(one: Any, two: Any) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


def batches(source: Any, epochs: int = 2, **how: Any) -> list[torch.Tensor]:
    loader = StreamLoader(source, CONFIG, **({"seed": 3, "batch_size": 4} | how))
    return [torch.stack([batch.view1, batch.view2]) for epoch in range(epochs) for batch in loader.epoch(epoch)]


def test_an_image_is_decoded_once_and_comes_out_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = FolderSource(folder)
    wanted = all_shrunk(source)
    assert {image.shape for image in wanted} == {(32, 64, 3)}
    fill(source)
    seen = decoded(monkeypatch)
    images = cached(source, SIDE)
    assert isinstance(images, CachedSource)
    assert same(all_shrunk(images), wanted)
    assert same(all_shrunk(SubsetSource(images, [3, 1])), [wanted[3], wanted[1]])
    assert seen == []
    assert images.image(0).shape == (48, 96, 3)
    assert shrunk_image(images, 0, 16).shape == (16, 32, 3)
    assert len(seen) == 2  # other sizes pass by the cache


def test_images_of_all_shapes_and_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [(64, 64), (40, 300), (300, 40), (24, 24), (33, 41), (500, 90)]
    rows = []
    for number, size in enumerate(sizes):
        write_photo(tmp_path / f"{number}.jpg", number, size)
        rows.append({"image": {"bytes": (tmp_path / f"{number}.jpg").read_bytes()}, "label": number % 2})
    pq.write_table(pa.Table.from_pylist(rows[:2]), tmp_path / "a.parquet")
    pq.write_table(pa.Table.from_pylist(rows[2:]), tmp_path / "b.parquet", row_group_size=2)
    (tmp_path / "list.csv").write_text("path,label\n" + "".join(f"{n}.jpg,{n % 2}\n" for n in range(len(sizes))))
    files = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    sources = [ParquetSource(files), ManifestSource(tmp_path / "list.csv")]
    for source in sources:
        wanted = all_shrunk(source)
        assert len({image.shape for image in wanted}) > 3
        fill(source)
    seen = decoded(monkeypatch)
    for source in sources:
        assert same(all_shrunk(cached(source, SIDE)), wanted)
    # A row is known by its file, whichever files are opened beside it.
    alone = ParquetSource(files[1])
    assert same(all_shrunk(cached(alone, SIDE)), wanted[2:])
    assert seen == []


def test_what_comes_from_no_file_is_not_kept(home: Path) -> None:
    source = ArraySource(np.zeros((4, 200, 100, 3), dtype=np.uint8))
    assert stored_image(source, 0) is None
    assert cached(source, SIDE) is source
    assert not home.exists()


@pytest.mark.usefixtures("folder")
def test_a_source_keeps_what_it_says_of_itself(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path,label,attr:hat\nphotos/00.jpg,cat,1\nphotos/01.jpg,dog,0\n")
    source = ManifestSource(tmp_path / "list.csv")
    images = cached(source, SIDE)
    assert images is not source
    assert (images.name, list(images.ids), images.classes) == (source.name, list(source.ids), source.classes)
    assert np.array_equal(images.labels, source.labels)
    shown = attributes_of(images)
    assert shown is not None
    assert shown.names == ("hat",)
    assert images.file(1) == source.file(1)


def test_a_subclass_that_draws_otherwise_has_entries_of_its_own(folder: Path) -> None:
    class Dark(FolderSource):
        def image(self, index: int, *, min_side: int | None = None) -> Any:
            return super().image(index, min_side=min_side) // 4

    plain = fill(FolderSource(folder))
    assert same(all_shrunk(cached(Dark(folder), SIDE)), all_shrunk(Dark(folder)))
    assert same(all_shrunk(plain), all_shrunk(FolderSource(folder)))


@pytest.mark.parametrize("seconds", [0, 5])
def test_a_file_that_changed_is_decoded_again(folder: Path, home: Path, seconds: float) -> None:
    fill(FolderSource(folder))
    file = folder / "04.jpg"
    before = file.stat()
    write_photo(file, 99, (96, 48) if seconds else (100, 50))
    if not seconds:  # only its size tells
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert file.stat().st_size != before.st_size
    images = cached(FolderSource(folder), SIDE)
    assert same(all_shrunk(images), all_shrunk(FolderSource(folder)))
    assert len(entries(home)) == 12  # the new entry has taken the place of the old one


def test_a_file_that_is_gone_is_bad_though_its_pixels_are_kept(folder: Path) -> None:
    images = fill(FolderSource(folder))
    (folder / "04.jpg").unlink()
    with pytest.raises(BadImageError, match="missing"):
        shrunk_image(images, 4, SIDE)


def _flip_a_pixel(entry: Path) -> None:
    data = bytearray(entry.read_bytes())
    data[1000] ^= 1
    entry.write_bytes(data)


DAMAGE = {
    "empty": lambda entry: entry.write_bytes(b""),
    "cut": lambda entry: entry.write_bytes(entry.read_bytes()[:-5]),
    "header": lambda entry: entry.write_bytes(entry.read_bytes()[:20]),
    "zeros": lambda entry: entry.write_bytes(entry.read_bytes()[:64] + bytes(ENTRY - 64)),
    "other": lambda entry: entry.write_bytes(os.urandom(ENTRY)),
    "pixel": _flip_a_pixel,
    "folder": lambda entry: (entry.unlink(), entry.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_entries_are_made_again(folder: Path, home: Path, damage: str) -> None:
    fill(FolderSource(folder))
    wanted = all_shrunk(FolderSource(folder))
    sound = {entry: entry.read_bytes() for entry in entries(home)}
    for entry in sound:
        DAMAGE[damage](entry)
    assert same(all_shrunk(cached(FolderSource(folder), SIDE)), wanted)
    if damage != "folder":
        assert {entry: entry.read_bytes() for entry in entries(home)} == sound


def test_the_cache_may_be_deleted_meanwhile(folder: Path, home: Path) -> None:
    images = fill(FolderSource(folder))
    shutil.rmtree(home)
    assert same(all_shrunk(images), all_shrunk(FolderSource(folder)))
    assert len(entries(home)) > 0


def test_a_half_written_entry_is_never_read_and_removed_later(
    folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    images = cached(FolderSource(folder), SIDE)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            shrunk_image(images, 0, SIDE)
    (left,) = entries(home)
    fill(FolderSource(folder))
    assert left.exists()  # for all that is known, it is being written
    os.utime(left, (time.time() - 7200,) * 2)
    cached(FolderSource(folder), SIDE)
    assert not left.exists()
    assert len(entries(home)) == 12


def test_zero_switches_it_off(folder: Path, home: Path) -> None:
    source = FolderSource(folder)
    assert cached(source, SIDE, limit_gb=0) is source
    assert not home.exists()


def test_the_limit_holds_with_several_writers(folder: Path, home: Path) -> None:
    limit = 7.5 * ENTRY / 1e9
    with pytest.warns(UserWarning, match=r"has room for .* raise --cache-gb"):
        images = cached(FolderSource(folder), SIDE, limit_gb=limit, writers=2)
    views = batches(images, workers=2)
    assert len(entries(home)) == 6  # three for each, as entries are whole
    assert same(views, batches(FolderSource(folder)))


def test_what_was_not_used_for_longest_makes_room(folder: Path, home: Path, tmp_path: Path) -> None:
    for number in range(4):
        for name in ("old", "new"):
            write_photo(tmp_path / name / f"{number}.jpg", 50 + number)
    fill(FolderSource(tmp_path / "old"))
    old = set(entries(home))
    fill(FolderSource(tmp_path / "new"))
    new = set(entries(home)) - old
    for entry in old:
        os.utime(entry, (time.time() - 60,) * 2)
    fill(FolderSource(folder), limit_gb=17 * ENTRY / 1e9)
    left = set(entries(home))
    assert len(left) == 17
    assert new <= left
    assert len(old & left) == 1
    # A smaller limit holds at once; what is read now stays longest.
    with pytest.warns(UserWarning, match="room for"):
        images = cached(FolderSource(folder), SIDE, limit_gb=5 * ENTRY / 1e9)
    assert len(entries(home)) == 5
    assert not new & set(entries(home))
    assert same(all_shrunk(images), all_shrunk(FolderSource(folder)))


def test_use_keeps_entries_young(folder: Path, home: Path) -> None:
    fill(FolderSource(folder))
    for entry in entries(home):
        os.utime(entry, (1e9, 1e9))
    shrunk_image(cached(FolderSource(folder), SIDE), 5, SIDE)
    # Those of the images that were looked at to tell how much space is needed, too.
    assert 1 <= sum(entry.stat().st_mtime > 1e9 for entry in entries(home)) <= 5


def test_a_nearly_full_disk_is_left_alone(folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(free=7 * ENTRY))
    with pytest.warns(UserWarning, match="free disk space"):
        images = cached(FolderSource(folder), SIDE)
    assert same(all_shrunk(images), all_shrunk(FolderSource(folder)))
    assert len(entries(home)) == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_a_disk_that_fills_up_is_told_once_and_changes_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    wanted = batches(FolderSource(folder))
    monkeypatch.setattr(module, "_write", full)
    images = cached(FolderSource(folder), SIDE)
    with pytest.warns(UserWarning, match="No space left on device") as told:
        assert same(batches(images, workers=workers), wanted)
    assert len([warning for warning in told if "No space" in str(warning.message)]) == 1


def test_a_folder_that_cannot_be_written_is_told_once(
    folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.parent.mkdir(parents=True)
    home.write_text("a file")
    source = FolderSource(folder)
    with pytest.warns(UserWarning, match=r"cannot be kept here \(.*\).*XDG_CACHE_HOME"):
        assert cached(source, SIDE) is source
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cached(source, SIDE, tell=False) is source
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", _homeless)
    with pytest.warns(UserWarning, match="no home folder"):
        assert cached(source, SIDE) is source


def _homeless() -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_two_processes_that_write_the_same_images(folder: Path, home: Path) -> None:
    wanted = batches(FolderSource(folder), 3)
    loaders = [StreamLoader(cached(FolderSource(folder), SIDE), CONFIG, seed=3, batch_size=4, workers=2) for _ in "ab"]
    for epoch in range(3):
        for number, pair in enumerate(zip(*(loader.epoch(epoch) for loader in loaders), strict=True)):
            for batch in pair:
                assert torch.equal(torch.stack([batch.view1, batch.view2]), wanted[3 * epoch + number])
    assert len(entries(home)) == 12


def test_bad_images_are_listed_as_without_a_cache(folder: Path) -> None:
    (folder / "05.jpg").write_bytes((folder / "05.jpg").read_bytes()[:200])
    plain, kept = FolderSource(folder), cached(FolderSource(folder), SIDE)
    loaders = [StreamLoader(source, CONFIG, seed=3, batch_size=4) for source in (plain, kept)]
    for epoch in (0, 1):
        one, two = (list(loader.epoch(epoch)) for loader in loaders)
        assert same([batch.view2 for batch in one], [batch.view2 for batch in two])
    assert [bad.id for bad in loaders[0].bad] == [bad.id for bad in loaders[1].bad] == ["05.jpg"]


def test_the_cache_lies_where_users_expect_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    for base in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", base)
        assert user_cache_folder() == Path("/home/me/.cache/sdclr")
    monkeypatch.setenv("XDG_CACHE_HOME", "/scratch/me")
    assert user_cache_folder() == Path("/scratch/me/sdclr")


def test_the_names_of_all_entries_are_computed_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = cached(FolderSource(folder), SIDE)
    for index in range(len(images)):
        shrunk_image(images, index, SIDE)
    calls = []
    entries = CachedSource.entries
    monkeypatch.setattr(CachedSource, "entries", lambda self: calls.append(1) or entries(self))
    cached(FolderSource(folder), SIDE)
    assert len(calls) == 1
