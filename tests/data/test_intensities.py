"""Images of more than 8 bits: one range of intensities for a whole collection."""

import io
import pickle
import struct
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import sdclr
from sdclr.data import intensities as module
from sdclr.data.intensities import intensities_of, measured, with_intensities
from sdclr.data.sources import FolderSource, ParquetSource, SubsetSource, open_source, stored_image
from sdclr.decoding.decode import decode_image
from sdclr.decoding.workers import WorkerBatches
from sdclr.intensities import Intensities

DIGITS = load_digits().images / 16  # (1797, 8, 8) in [0, 1]


def deep(number, top=4095.0, kind=np.uint16):
    """A digit as a camera of more than 8 bits sees it."""
    return (np.kron(DIGITS[number], np.ones((3, 3))) * top).astype(kind)


def png(values, significant=None):
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, format="PNG")
    data = buffer.getvalue()
    if significant is None:
        return data
    chunk = b"sBIT" + bytes([significant])
    return data[:33] + struct.pack(">I", 1) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "cells"
    place.mkdir()
    for number in range(12):
        Image.fromarray(deep(number, 4095 - 100 * number) + np.uint16(12)).save(place / f"{number:02}.tif")
    Image.fromarray((deep(0) >> 4).astype(np.uint8)).save(place / "plain.png")
    return place


def expected(values, low, high):
    return np.rint(np.clip((values.astype(np.float64) - low) * 255 / (high - low), 0, 255)).astype(np.uint8)


def test_12_bits_in_16_bit_files_are_seen_by_one_range(folder):
    source = open_source(folder)
    low, high = source.intensities.deep
    assert low == 12
    assert 4000 < high <= 4107
    for index in range(12):
        values = deep(index, 4095 - 100 * index) + np.uint16(12)
        np.testing.assert_array_equal(source.image(index)[..., 0], expected(values, low, high))
    assert source.image(0).max() > 230
    assert source.image(11).max() < 200, "a darker image stays darker"
    np.testing.assert_array_equal(source.image(12)[..., 0], deep(0) >> 4)  # 8 bits stay as they are
    assert source.intensities.sentence == f"16-bit images: intensities 12 to {high:,.0f} become 0 to 255"


@pytest.mark.parametrize(
    ("kind", "values", "suffix"),
    [
        ("deep", lambda n: deep(n, 900), ".png"),
        ("integer", lambda n: deep(n, 70_000, np.int32) - 500, ".tif"),
        ("real", lambda n: deep(n, 0.05, np.float32), ".tif"),
        ("real", lambda n: np.where(deep(n) > 4000, np.nan, deep(n, 3e5, np.float32)).astype(np.float32), ".tif"),
    ],
)
def test_every_kind_of_number_has_one_range(tmp_path, kind, values, suffix):
    for number in range(6):
        Image.fromarray(values(number) // (1 + number % 2) if kind != "real" else values(number)).save(
            tmp_path / f"{number}{suffix}"
        )
    source = open_source(tmp_path)
    low, high = getattr(source.intensities, kind)
    pixels = np.concatenate(
        [np.nan_to_num(np.asarray(Image.open(source.file(n)), np.float64)).ravel() for n in range(6)]
    )
    assert (low, high) == pytest.approx(tuple(np.percentile(pixels, (0.1, 99.9))))  # all pixels are in the sample
    for index in range(6):
        raw = np.nan_to_num(np.asarray(Image.open(source.file(index)), np.float64))
        np.testing.assert_array_equal(source.image(index)[..., 0], expected(raw, low, high))


def test_big_endian_and_pgm(tmp_path):
    values = deep(3, 4000)
    header = struct.pack(">2sHI", b"MM", 42, 8 + values.nbytes)
    tags = [(256, 24), (257, 24), (258, 16), (259, 1), (262, 1), (273, 8), (277, 1), (278, 24), (279, values.nbytes)]
    ifd = struct.pack(">H", len(tags)) + b"".join(
        struct.pack(">HHI", tag, 4 if tag in {273, 279} else 3, 1)
        + (struct.pack(">I", value) if tag in {273, 279} else struct.pack(">HH", value, 0))
        for tag, value in tags
    )
    (tmp_path / "big.tif").write_bytes(header + values.astype(">u2").tobytes() + ifd + struct.pack(">I", 0))
    (tmp_path / "low.pgm").write_bytes(b"P5 24 24 65535\n" + values.astype(">u2").tobytes())
    source = open_source(tmp_path)
    low, high = source.intensities.deep
    for index in range(2):
        np.testing.assert_array_equal(source.image(index)[..., 0], expected(values, low, high))


def tiff_with(values, tags):
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, format="TIFF", tiffinfo=tags)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "stated"),
    [
        ("a.png", png(deep(0, 3000), significant=12), (0, 4095)),
        ("a.tif", tiff_with(deep(0, 3000), {281: 4095}), (0, 4095)),
        ("a.tif", tiff_with(deep(0, 900, np.float32), {340: 0.0, 341: 1000.0}), (0, 1000)),
        ("a.pgm", b"P5 24 24 4095\n" + deep(0, 3000).astype(">u2").tobytes(), (0, 65535)),  # Pillow has scaled it
    ],
)
def test_a_stated_range_counts(tmp_path, name, data, stated):
    (tmp_path / name).write_bytes(data)
    found = open_source(tmp_path).intensities
    assert (found.real or found.deep) == stated


@pytest.mark.parametrize(
    "data",
    [
        tiff_with(deep(0, 3000), {281: 65535}),  # what every 16-bit file could say
        tiff_with(deep(0, 3000), {281: 100}),  # not true
        png(deep(0, 60_000), significant=12),  # scaled to 16 bits, as the standard of PNG asks
    ],
)
def test_statements_that_say_nothing_or_are_wrong_are_passed_over(tmp_path, data):
    (tmp_path / ("a.png" if data[:4] == b"\x89PNG" else "a.tif")).write_bytes(data)
    source = open_source(tmp_path)
    raw = np.asarray(Image.open(source.file(0)), np.float64)
    assert source.intensities.deep == pytest.approx(tuple(np.percentile(raw, (0.1, 99.9))))


def test_a_given_range_counts_for_all_kinds(folder):
    source = open_source(f"{folder},intensities=0,8190")
    assert source.intensities.deep == source.intensities.real == (0, 8190)
    assert source.image(0).max() == expected(deep(0) + np.uint16(12), 0, 8190).max() < 130
    assert with_intensities(source, Intensities(deep=(0, 1))) is source, "a person's choice is kept"
    for wrong in ("5", "9,1", "a,b", "nan,3", "0,inf"):
        with pytest.raises(sdclr.InputError, match=r"intensities are .* LOW,HIGH"):
            open_source(f"{folder},intensities={wrong}")


def test_another_range_reaches_subsets_and_leaves_the_source_alone(folder):
    source = open_source(folder)
    own = source.intensities
    seen = with_intensities(SubsetSource(source, [3, 1]), Intensities(deep=(0, 65535)))
    assert intensities_of(seen)[0].deep == (0, 65535)
    assert seen.image(1).max() <= 16
    assert source.intensities == own
    assert stored_image(seen, 1) != stored_image(source, 1), "decoded images are kept apart"
    assert pickle.loads(pickle.dumps(source)).intensities == own  # noqa: S301


def test_the_range_does_not_depend_on_workers_nor_on_the_order_of_calls(folder):
    class Pixels:
        def __init__(self):
            self.source = open_source(folder)

        def __len__(self):
            return len(self.source)

        def __getitem__(self, index):
            return self.source.image(index)

    def read(workers):
        loader = WorkerBatches(Pixels(), workers=workers, collate_fn=lambda items: items, batch_size=4)
        return np.stack([image for batch in loader for image in batch])

    np.testing.assert_array_equal(read(0), read(2))


def test_the_sample_is_bounded_and_drawn_by_a_fixed_seed(folder, monkeypatch):
    whole = measured(FolderSource(folder))
    monkeypatch.setattr(module, "_IMAGES", 3)
    few = measured(FolderSource(folder))
    assert few.deep[1] < whole.deep[1] or few == whole
    assert few == measured(FolderSource(folder))
    monkeypatch.setattr(module, "_HEADERS", 1)
    opened = []
    monkeypatch.setattr(module, "stated_range", lambda image: opened.append(image.size))
    measured(FolderSource(folder))
    assert len(opened) <= 1


def test_a_damaged_file_does_not_hinder_the_range(folder):
    good = open_source(folder).intensities
    (folder / "00a.tif").write_bytes((folder / "00.tif").read_bytes()[:200])
    (folder / "00b.tif").write_bytes(b"II*\0 nothing")
    source = open_source(folder)
    assert source.intensities.deep == pytest.approx(good.deep, abs=50)
    with pytest.raises(sdclr.BadImageError):
        source.image(1)


def test_images_in_parquet(tmp_path):
    rows = [png(deep(number, 4000)) for number in range(20)]
    pq.write_table(pa.table({"image": rows}), tmp_path / "images.parquet", row_group_size=4)
    source = ParquetSource(tmp_path / "images.parquet")
    low, high = source.intensities.deep
    np.testing.assert_array_equal(source.image(7)[..., 0], expected(deep(7, 4000), low, high))


def test_large_images_are_seen_by_the_same_range(folder, monkeypatch):
    source = open_source(folder)
    whole = source.image(0)
    monkeypatch.setattr("sdclr.decoding.decode._LARGE", 100)
    np.testing.assert_array_equal(source.image(0), whole)


def test_a_file_by_itself_is_scaled_as_before():
    assert decode_image(png(deep(0, 4095)), image_id="x").max() == 15  # of 255: nothing says that 12 bits are meant


def test_a_range_for_images_of_8_bits_is_refused():
    with pytest.raises(sdclr.InputError, match="digits: its images have 8 bits: leave out intensities=0,9"):
        open_source("digits,intensities=0,9")
