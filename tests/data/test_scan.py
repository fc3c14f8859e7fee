import csv
import io
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sdclr.data import scan as scan_module
from sdclr.data.scan import (
    BadImage,
    check_bad_fraction,
    is_small,
    load_images,
    scan,
    write_bad_images,
)
from sdclr.data.sources import ArraySource, FolderSource, ParquetSource, SubsetSource
from sdclr.errors import InputError
from sdclr.files import unguarded

PIXELS = np.random.default_rng(0).integers(0, 256, (150, 6, 8, 3), dtype=np.uint8)


def jpeg(size, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    """150 images of 6x8, three of them bad, one of another size, and a text file."""
    root = tmp_path / "set"
    root.mkdir()
    for number, image in enumerate(PIXELS):
        Image.fromarray(image).save(root / f"{number:03d}.png")
    whole = (root / "070.png").read_bytes()
    (root / "002.png").write_bytes(b"")
    (root / "070.png").write_bytes(whole[:90])
    (root / "149.png").write_text("no image")
    Image.new("RGB", (9, 6)).save(root / "100.png")
    (root / "notes.txt").touch()
    return root


BAD_IDS = ["002.png", "070.png", "149.png"]


@pytest.mark.parametrize("workers", [0, 2])
def test_load_images(folder, workers):
    source = FolderSource(folder)
    loaded = load_images(source, workers=workers)
    good = [index for index in range(150) if index not in {2, 70, 100, 149}]
    assert loaded.kept.tolist() == good
    assert loaded.kept.dtype == np.int64
    assert loaded.images.dtype == torch.uint8
    assert loaded.images.is_contiguous()
    np.testing.assert_array_equal(loaded.images.numpy(), PIXELS[good].transpose(0, 3, 1, 2))
    assert [image.id for image in loaded.bad] == ["notes.txt", "002.png", "070.png", "100.png", "149.png"]
    reasons = {image.id: image.reason for image in loaded.bad}
    assert reasons["002.png"] == "zero bytes"
    assert reasons["070.png"] == "truncated"
    assert reasons["100.png"] == "size 9x6 differs from the set's 8x6"
    assert [image.counted for image in loaded.bad] == [False, True, True, True, True]
    assert loaded.sizes_differ


@pytest.mark.parametrize("workers", [0, 2])
def test_what_cannot_be_decoded_does_not_differ_in_size(folder, workers):
    (folder / "100.png").unlink()
    loaded = load_images(FolderSource(folder), workers=workers)
    assert len(loaded.kept) == 146
    assert not loaded.sizes_differ


def test_load_images_of_a_whole_set():
    loaded = load_images(ArraySource(PIXELS))
    assert loaded.bad == []
    assert not loaded.sizes_differ
    assert loaded.kept.tolist() == list(range(150))
    np.testing.assert_array_equal(loaded.images.numpy(), PIXELS.transpose(0, 3, 1, 2))


def test_most_of_the_first_images_say_the_size(tmp_path):
    for number, width in enumerate([5, 8, 8]):
        Image.new("RGB", (width, 6)).save(tmp_path / f"{number}.png")
    assert load_images(FolderSource(tmp_path)).kept.tolist() == [1, 2]


def test_loading_leaves_the_random_state_alone():
    before = torch.random.get_rng_state()
    load_images(ArraySource(PIXELS))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("workers", [0, 2])
def test_scan_finds_every_bad_file(folder, workers):
    found = scan(FolderSource(folder), workers=workers)
    assert [image.id for image in found] == ["notes.txt", *BAD_IDS]
    assert [image.counted for image in found] == [False, True, True, True]


def test_scan_finds_truncated_jpegs_at_reduced_scale(tmp_path):
    data = jpeg((200, 300))
    for number, share in enumerate([1, 0.99, 0.5, 0.1]):
        (tmp_path / f"{number}.jpg").write_bytes(data[: int(share * len(data))])
    source = FolderSource(tmp_path)
    assert [image.id for image in scan(source)] == ["1.jpg", "2.jpg", "3.jpg"]


def test_scan_asks_for_the_smallest_scale():
    asked = []

    class Watched(ArraySource):
        def image(self, index, *, min_side=None):
            asked.append(min_side)
            return super().image(index, min_side=min_side)

    assert scan(Watched(PIXELS)) == []
    assert asked == [1] * 150


@pytest.mark.parametrize("look", [load_images, scan])
def test_progress_reaches_the_end(look, told):
    look(ArraySource(PIXELS))
    assert told.counts() == [(64, 150), (128, 150), (150, 150)]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_the_whole_set_ends_the_scan(tmp_path, workers):
    table = pa.table({"image": pa.array([jpeg((8, 8))] * 20)})
    pq.write_table(table, tmp_path / "train.parquet")
    data = (tmp_path / "train.parquet").read_bytes()
    (tmp_path / "train.parquet").write_bytes(data[:4] + bytes(200) + data[204:])
    with pytest.raises(InputError, match="row group 0") as caught:
        scan(ParquetSource(tmp_path / "train.parquet"), workers=workers)
    assert "\n" not in str(caught.value)


def test_what_is_small(folder, tmp_path):
    assert is_small(ArraySource(PIXELS))
    # Bad images at the beginning say nothing about the size.
    assert is_small(FolderSource(folder))
    assert is_small(ArraySource(np.zeros((2, 96, 96, 3), np.uint8)))
    assert not is_small(ArraySource(np.zeros((2, 32, 97, 3), np.uint8)))
    for number in range(2):
        Image.new("RGB", (8 + number, 6)).save(tmp_path / f"{number}.png")
    assert not is_small(FolderSource(tmp_path))


def test_a_set_that_does_not_fit_is_not_small(monkeypatch):
    monkeypatch.setattr(scan_module, "MAX_SMALL_BYTES", PIXELS.nbytes)
    assert not is_small(ArraySource(PIXELS))
    monkeypatch.setattr(scan_module, "MAX_SMALL_BYTES", PIXELS.nbytes + 1)
    assert is_small(ArraySource(PIXELS))


def test_nothing_decodes(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.png").touch()
    source = FolderSource(tmp_path)
    assert not is_small(source)
    assert len(scan(source)) == 3
    with pytest.raises(InputError, match="none of its 3 images can be decoded; check the files"):
        load_images(source)


@given(
    rows=st.lists(st.tuples(st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(codec="utf-8")))),
)
def test_bad_images_are_written_as_csv(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "bad_images.csv"
    write_bad_images(path, [BadImage(image_id, reason, counted=True) for image_id, reason in rows])
    with path.open(encoding="utf-8", newline="") as file:
        header, *written = csv.reader(file)
    assert header == ["id", "reason"]
    assert [tuple(map(unguarded, row)) for row in written] == rows
    assert not list(path.parent.glob("*.partial"))


def test_names_that_are_not_utf8_are_written_as_their_bytes(tmp_path):
    write_bad_images(tmp_path / "bad.csv", [BadImage(os.fsdecode(b"m\xe4use.png"), "truncated", counted=True)])
    assert b"m\xe4use.png,truncated" in (tmp_path / "bad.csv").read_bytes()


def test_an_interrupted_write_leaves_the_old_list(tmp_path):
    path = tmp_path / "bad_images.csv"
    write_bad_images(path, [BadImage("a", "old", counted=True)])

    def interrupted():
        yield BadImage("b", "new", counted=True)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_bad_images(path, interrupted())
    assert path.read_text().splitlines() == ["id,reason", "a,old"]


def test_the_limit_on_bad_images(tmp_path):
    bad = [BadImage(f"{number}.png", "truncated", counted=True) for number in range(5)]
    passed_over = [BadImage(f"{number}.txt", "the suffix", counted=False) for number in range(50)]
    check_bad_fraction(bad + passed_over, 500)
    check_bad_fraction(bad, 10, limit=0.5)
    check_bad_fraction([], 0)
    with pytest.raises(InputError) as caught:
        check_bad_fraction(passed_over + bad, 499, listed_in=tmp_path / "bad_images.csv")
    message = str(caught.value)
    assert message.startswith("5 of 499 images are bad, more than the limit of 1%: ")
    assert "0.png (truncated), 1.png (truncated), 2.png (truncated), all listed in" in message
    assert str(tmp_path / "bad_images.csv") in message
    assert message.endswith("raise --max-bad-fraction")
    assert "3.png" not in message
    with pytest.raises(InputError, match=r"1 of 3 .* limit of 0%"):
        check_bad_fraction(bad[:1], 3, limit=0)


def test_cifar10_is_small_and_whole(cifar10_dir):
    source = ParquetSource(cifar10_dir, split="test")
    assert is_small(source)
    some = SubsetSource(source, np.arange(0, 10_000, 40))
    loaded = load_images(some)
    assert loaded.images.shape == (250, 3, 32, 32)
    assert loaded.bad == []
    np.testing.assert_array_equal(loaded.images[7].permute(1, 2, 0).numpy(), source.image(280))
