"""The images of a run: good ones, bad ones, small ones, large ones."""

import csv
import dataclasses
import io
import signal
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sdclr.data.sources import ArraySource, FolderSource, Source, SubsetSource
from sdclr.decoding.decode import BadImage
from sdclr.errors import BadImageError, InputError
from sdclr.files import write_json
from sdclr.loading.batches import ResidentLoader, epoch_batches
from sdclr.loading.streaming import StreamLoader
from sdclr.training import feed as feed_module
from sdclr.training.config import PretrainConfig, Runtime
from sdclr.training.distributed import Processes
from sdclr.training.feed import Feed, create_feed, default_workers
from sdclr.training.interrupts import Interrupted
from sdclr.training.pretrain import Trainer
from sdclr.training.run import Run

Train = Callable[..., Run]
Create = Callable[..., Feed]

ALONE = Processes(0, 1, torch.device("cpu"))


def write_image(path: Path, height: int, width: int, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def bomb() -> bytes:
    """A PNG of a few bytes that claims 40,000 x 40,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def spoilt_folder(root: Path, size: tuple[int, int], suffix: str) -> Path:
    """Thirty good images, five bad files that look like images, and two that do not."""
    for number in range(30):
        write_image(root / f"{number:02d}{suffix}", *size, seed=number)
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(99).integers(0, 256, (*size, 3), dtype=np.uint8)).save(whole, "PNG")
    (root / "truncated.png").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    (root / "corrupt.jpg").write_bytes(b"\xff\xd8\xff\xe0 this is no picture" * 9)
    (root / "zero.png").write_bytes(b"")
    (root / "bomb.png").write_bytes(bomb())
    (root / "text.jpg").write_text("hello")
    (root / "notes.txt").write_text("hello")
    (root / "table.csv").write_text("a,b")
    return root


BAD = {"truncated.png", "corrupt.jpg", "zero.png", "bomb.png", "text.jpg"}


def listed(run: Path) -> dict[str, str]:
    header, *rows = csv.reader((run / "bad_images.csv").read_text().splitlines())
    assert header == ["id", "reason"]
    assert len({name for name, _ in rows}) == len(rows)
    return dict(rows)


@pytest.mark.parametrize(
    ("size", "suffix", "held"), [((10, 12), ".png", True), ((100, 120), ".jpg", False)], ids=["small", "large"]
)
def test_bad_files_are_listed_and_the_run_goes_on(
    train: Train, tmp_path: Path, size: tuple[int, int], suffix: str, *, held: bool
) -> None:
    folder = spoilt_folder(tmp_path / "images", size, suffix)
    run = train(folder, changes={"epochs": 2, "batch_size": 10}, max_bad_fraction=0.2)
    assert run.finished
    reasons = listed(run.path)
    assert set(reasons) == BAD | {"notes.txt", "table.csv"}
    assert all(reasons.values())
    assert (run.source["images"], run.source["bad_images"], run.source["held_in_memory"]) == (35, 5, held)
    assert set(run.source["left_out"]) == BAD
    assert len(list(run.metrics())) == 2 * 2  # thirty images are three batches of ten: steps 2, 3, 4 and 6


def test_too_many_bad_files_stop_it_before_training(train: Train, tmp_path: Path) -> None:
    folder = spoilt_folder(tmp_path / "images", (10, 12), ".png")
    with pytest.raises(InputError, match=r"5 of 35 images are bad.*--max-bad-fraction"):
        train(folder, changes={"epochs": 2, "batch_size": 10}, max_bad_fraction=0.1)
    assert set(listed(tmp_path / "run")) > BAD
    assert not (tmp_path / "run" / "checkpoints").exists()
    # The limit is no part of the run: it may be raised for the next try in the same folder.
    assert train(folder, changes={"epochs": 2, "batch_size": 10}, max_bad_fraction=0.2).finished


def test_other_files_count_for_nothing_when_a_run_goes_on_either(train: Train, tmp_path: Path) -> None:
    for number in range(20):
        write_image(tmp_path / "images" / f"{number}.png", 8, 8, seed=number)
        (tmp_path / "images" / f"{number}.txt").write_text("")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_take_step", stop)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "images", changes={"epochs": 2})
    assert train(tmp_path / "images", changes={"epochs": 2}).finished
    assert len(listed(tmp_path / "run")) == 20


@pytest.fixture
def feed(tiny: PretrainConfig, runtime: Runtime, tmp_path: Path) -> Create:
    def create(source: Source, **how: Any) -> Feed:
        run = Run(tmp_path / "run")
        made = create_feed(source, run, tiny, dataclasses.replace(runtime, **how), ALONE)
        write_json(run.config_file, {})  # as a run does that has started
        return made

    return create


def test_bad_images_are_looked_at_once(feed: Create, few_digits: SubsetSource, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Failing(few_digits)
    source.broken = {30}
    seen: list[int] = []
    image = Failing.image

    def counted(self: Failing, index: int, **how: Any) -> Any:
        seen.append(index)
        return image(self, index, **how)

    monkeypatch.setattr(Failing, "image", counted)
    assert [bad.id for bad in feed(source, max_bad_fraction=0.5).bad] == [few_digits.ids[30]]
    assert seen.count(30) == 1


@pytest.mark.parametrize("odd", [(9, 8), (200, 150)])
def test_images_of_another_size_after_the_first_are_not_bad(feed: Create, tmp_path: Path, odd: tuple[int, int]) -> None:
    for number in range(30):
        write_image(tmp_path / "images" / f"{number:02d}.png", *((8, 8) if number < 25 else odd), seed=number)
    made = feed(FolderSource(tmp_path / "images"))
    assert isinstance(made.loader, StreamLoader)
    assert made.bad == []
    assert made.kept.tolist() == list(range(30))
    again = feed(FolderSource(tmp_path / "images"))
    assert isinstance(again.loader, StreamLoader)


class Failing:
    """Images some of which can no longer be decoded once they are named in `broken`."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.name, self.ids, self.labels, self.classes = source.name, source.ids, source.labels, source.classes
        self.broken: set[int] = set()

    def __len__(self) -> int:
        return len(self._source)

    def image(self, index: int, *, min_side: int | None = None) -> Any:
        if index in self.broken:
            raise BadImageError(self.ids[index], "the disk fails")
        return self._source.image(index, min_side=min_side)


def test_images_that_were_left_out_stay_out_though_they_come_back(feed: Create, few_digits: SubsetSource) -> None:
    source = Failing(few_digits)
    source.broken = {3}
    with pytest.raises(InputError, match="1 of 50 images are bad"):
        feed(source)
    first = feed(source, max_bad_fraction=0.5)
    source.broken = set()
    again = feed(source)
    assert first.kept.tolist() == again.kept.tolist() == [i for i in range(50) if i != 3]
    for one, two in zip(first.loader.epoch(0), again.loader.epoch(0), strict=True):
        assert np.array_equal(one.view1, two.view1)
        assert first.name(int(one.indices[0])) == few_digits.ids[int(first.kept[one.indices[0]])]


def test_a_small_image_that_is_lost_between_sessions_is_asked_for(feed: Create, few_digits: SubsetSource) -> None:
    source = Failing(few_digits)
    assert isinstance(feed(source).loader, ResidentLoader)
    source.broken = {7, 9}
    with pytest.raises(InputError, match=f"2 images .* can no longer be read .{few_digits.ids[7]}, .*put them back"):
        feed(source)


def test_an_image_that_goes_bad_under_way_is_listed_and_does_not_move_the_others(
    train: Train, large_images: ArraySource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Failing(large_images)
    seen: list[Any] = []
    take_step = Trainer._take_step

    def breaking(self: Trainer, batch: Any) -> None:
        source.broken = {7}
        seen.append(batch.indices)
        take_step(self, batch)
        if len(seen) == 3:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Trainer, "_take_step", breaking)
    with pytest.raises(Interrupted):
        train(source, changes={"epochs": 3})
    train(source, changes={"epochs": 3})
    assert listed(tmp_path / "run") == {large_images.ids[7]: "the disk fails"}
    # In the order that all forty images give: the bad one is replaced by its neighbor, not left out.
    expected = np.concatenate([epoch_batches(40, 16, seed=0, epoch=epoch) for epoch in range(3)])
    assert 7 in expected[1:]
    expected[1:][expected[1:] == 7] = 8
    assert np.array_equal(np.stack(seen), expected)


def test_what_other_processes_found_is_listed_too(feed: Create, large_images: ArraySource, tmp_path: Path) -> None:
    class Three(Processes):
        def gather(self, value: Any) -> list[Any]:
            return [value, [BadImage("a,b", 'cut "off"', counted=True)], [BadImage("a,b", 'cut "off"', counted=True)]]

    made = feed(large_images)
    for _ in range(2):
        made.list_bad_images(Three(0, 3, ALONE.device))
    assert listed(tmp_path / "run") == {"a,b": 'cut "off"'}


def test_names_that_are_not_utf8_survive(train: Train, tmp_path: Path) -> None:
    for number in range(20):
        write_image(tmp_path / "images" / f"{number:02d}.png", 8, 8, seed=number)
    odd = tmp_path / "images" / b"caf\xe9.png".decode("utf-8", "surrogateescape")
    odd.write_bytes(b"")
    run = train(tmp_path / "images", changes={"epochs": 2}, max_bad_fraction=0.5)
    assert run.source["left_out"] == [odd.name]


def usable(monkeypatch: pytest.MonkeyPatch, cores: int, beside: int = 1, share: Path = Path("/nowhere")) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(cores), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(beside))
    monkeypatch.setattr(feed_module, "_CPU_SHARE", share)


@pytest.mark.parametrize(
    ("cores", "beside", "beside_gpu", "beside_cpu"),
    [(1, 1, 1, 1), (2, 1, 1, 1), (4, 1, 3, 1), (12, 1, 11, 3), (64, 1, 16, 8), (64, 16, 3, 1), (2, 4, 1, 1)],
)
def test_decoding_processes_leave_cores_and_share_with_the_others(
    monkeypatch: pytest.MonkeyPatch, cores: int, beside: int, beside_gpu: int, beside_cpu: int
) -> None:
    usable(monkeypatch, cores, beside)
    assert default_workers() == default_workers(torch.device("cuda:1")) == beside_gpu
    assert default_workers(torch.device("cpu")) == beside_cpu


@pytest.mark.parametrize(
    ("share", "expected"),
    [("300000 100000", 2), ("250000 100000", 2), ("50000 100000", 1), ("max 100000", 15), ("", 15)],
)
def test_a_container_uses_its_share_of_the_cores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, share: str, expected: int
) -> None:
    (tmp_path / "cpu.max").write_text(share + "\n")
    usable(monkeypatch, 16, share=tmp_path / "cpu.max")
    assert default_workers() == expected


def test_all_cores_look_at_the_images_and_some_decode_while_a_cpu_trains(
    feed: Create, large_images: ArraySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    usable(monkeypatch, 12)
    asked: dict[str, int] = {}

    def looking(_: Source, *, workers: int) -> list[BadImage]:
        asked["scan"] = workers
        return []

    def loading(*_: Any, workers: int, **__: Any) -> str:
        asked["stream"] = workers
        return "a loader"

    monkeypatch.setattr(feed_module, "scan", looking)
    monkeypatch.setattr(feed_module, "StreamLoader", loading)
    feed(large_images, workers=None)
    assert asked == {"scan": 11, "stream": 3}
