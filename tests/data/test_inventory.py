"""What an inventory counts, against files whose properties are known."""

import os
import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import sdclr
from sdclr.data.sources import ArraySource, SubsetSource
from sdclr.decoding.decode import read_header
from sdclr.errors import BadImageError, InputError
from sdclr.features.inspect import inspect_images
from sdclr.limits import PIXELS


def picture(path: Path, size: tuple[int, int], mode: str = "RGB", **options: object) -> bytes:
    random = np.random.default_rng(abs(hash((size, mode))) % 1000)
    pixels = random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path, **options)
    return path.read_bytes()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images = tmp_path / "images"
    (images / "sub").mkdir(parents=True)
    data = picture(images / "a.jpg", (40, 30))
    (images / "sub" / "b.jpg").write_bytes(data)
    (images / "sub" / "c.jpg").write_bytes(data)
    (images / "same size.jpg").write_bytes(data[:-3] + b"abc")
    picture(images / "gray.png", (20, 50), "L")
    picture(images / "clear.png", (20, 50), "RGBA")
    (images / "cut.jpg").write_bytes(data[: len(data) // 2])
    (images / "zero.png").touch()
    (images / "zero too.png").touch()
    (images / "text.png").write_text("no image")
    (images / "notes.txt").write_text("no image")
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    (images / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IEND", b""))
    (images / "gone.png").symlink_to("/nowhere/gone.png")
    os.mkfifo(images / "pipe.png")
    return images


def test_a_folder_is_counted_by_headers(folder: Path) -> None:
    found = inspect_images(folder)
    assert (found.images, found.looked_at, found.readable, found.whole, found.small) == (13, 13, 7, True, False)
    assert found.sizes == {(40, 30): 5, (20, 50): 2}
    assert found.formats == {"JPEG": 5, "PNG": 2}
    assert found.modes == {"RGB": 5, "L": 1, "RGBA": 1}
    assert {image.id: image.reason for image in found.unreadable} == {
        "zero.png": "zero bytes",
        "zero too.png": "zero bytes",
        "text.png": "not an image of a known format",
        "huge.png": f"too many pixels (by its header, limit {PIXELS.value}; SDCLR_MAX_PIXELS raises it)",
        "gone.png": "file is missing",
        "pipe.png": "not a regular file",
    }
    assert [image.id for image in found.passed_over] == ["notes.txt"]
    assert found.duplicates == (("a.jpg", "sub/b.jpg", "sub/c.jpg"),)
    assert found.spare == 2
    assert found.sides() == (20, 30, 30)
    readable = ["a.jpg", "sub/b.jpg", "sub/c.jpg", "same size.jpg", "gray.png", "clear.png", "cut.jpg"]
    assert found.bytes == sum((folder / name).stat().st_size for name in readable)
    assert found.free is not None
    assert found.kind == "folder of images"


def test_decoding_finds_damage_behind_the_header(folder: Path) -> None:
    found = inspect_images(folder, decode=True)
    assert "truncated" in {image.id: image.reason for image in found.unreadable}["cut.jpg"]
    assert found.decoded
    assert found.readable == found.images - len(found.unreadable) <= 6
    assert [image.id for image in found.passed_over] == ["notes.txt"]


def test_of_many_images_an_even_sample_is_looked_at(tmp_path: Path) -> None:
    for number in range(20):
        picture(tmp_path / f"{number:02}.png", (8 + number, 8))
    found = inspect_images(tmp_path, most=5)
    assert (found.images, found.looked_at, found.whole) == (20, 5, False)
    assert sorted(width for width, _ in found.sizes) == [8, 12, 16, 20, 24]


def test_sizes_are_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    path = tmp_path / "turned.jpg"
    picture(path, (40, 30), exif=exif)
    header = read_header(path, image_id="turned.jpg")
    assert (header.width, header.height) == (30, 40)
    assert sdclr.open_source(tmp_path).image(0).shape == (40, 30, 3)
    assert read_header(path.read_bytes(), image_id="x") == header
    with pytest.raises(BadImageError, match="zero bytes"):
        read_header(b"", image_id="x")


def test_rows_of_parquet_and_pixels_are_compared_by_their_bytes(tmp_path: Path) -> None:
    first = picture(tmp_path / "a.png", (8, 9))
    second = picture(tmp_path / "b.png", (8, 8), "L")
    table = pa.table({"image": [{"bytes": data} for data in (first, second, first, None)], "label": [0, 1, 0, -1]})
    pq.write_table(table, tmp_path / "train.parquet")
    found = inspect_images(tmp_path / "train.parquet")
    assert (found.kind, found.formats, found.modes) == ("Parquet", {"PNG": 3}, {"RGB": 2, "L": 1})
    assert [len(group) for group in found.duplicates] == [2]
    assert [image.reason for image in found.unreadable] == ["zero bytes"]
    assert found.classes == {"0": 2, "1": 1}
    pixels = ArraySource(np.stack([np.zeros((4, 4), np.uint8), np.ones((4, 4), np.uint8), np.zeros((4, 4), np.uint8)]))
    inside = inspect_images(SubsetSource(pixels, [2, 0]))
    assert (inside.kind, inside.sizes, inside.free, inside.spare) == ("pixels in memory", {(4, 4): 2}, None, 1)


def test_embeddings_are_counted_with_the_pictures_they_name(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", (8, 9))
    vectors = [[1.0, 2.0], [3.0, 4.0]]
    pq.write_table(pa.table({"id": ["a.png", "b.png"], "embedding": vectors}), tmp_path / "named.parquet")
    found = inspect_images(tmp_path / "named.parquet")
    assert (found.kind, found.images, found.vector, found.sizes) == ("embeddings", 2, 2, {(8, 9): 1})
    np.save(tmp_path / "bare.npy", np.array(vectors, dtype=np.float32))
    bare = inspect_images(str(tmp_path / "bare.npy"))
    assert (bare.images, bare.vector, bare.looked_at, bare.sides()) == (2, 2, 0, None)


def test_an_inventory_is_plain_json(folder: Path) -> None:
    import json

    told = json.loads(json.dumps(inspect_images(folder).to_json()))
    assert told["sizes"]["40x30"] == 5
    assert {"id": "zero.png", "reason": "zero bytes", "counted": True} in told["unreadable"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_what_may_not_be_read_is_named(folder: Path) -> None:
    (folder / "a.jpg").chmod(0)
    (folder / "sub").chmod(0)
    temporary = Path(tempfile.gettempdir())
    for parent in (folder, *folder.parents):
        if parent == temporary or temporary not in parent.parents:
            break
        parent.chmod(0o755)  # pytest made them for its user alone
    os.seteuid(65534)
    try:
        found = inspect_images(folder)
        assert {image.id: image.reason for image in found.unreadable}["a.jpg"] == "no permission to read it"
        assert ("sub", "folder cannot be read") in [image[:2] for image in found.passed_over]
        with pytest.raises(InputError, match=r"sub: no permission to look at it; allow it"):
            inspect_images(folder / "sub")
        with pytest.raises(InputError, match=r"b.jpg: no permission to look at it"):
            inspect_images(str(folder / "sub" / "b.jpg"))
    finally:
        os.seteuid(0)
