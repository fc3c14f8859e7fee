import io
import os
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sdclr.data.decode import MAX_PIXELS, _quiet_pillow, decode_image
from sdclr.errors import BadImageError

RAMP = np.stack([*np.meshgrid(np.arange(40) * 6, np.arange(24) * 10), np.full((24, 40), 90)], axis=-1).astype(np.uint8)


def encode(image, kind, **options):
    buffer = io.BytesIO()
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def reason(data):
    with pytest.raises(BadImageError) as caught:
        decode_image(data, image_id="a/b.png")
    assert caught.value.image_id == "a/b.png"
    assert len(caught.value.reason.splitlines()) == 1
    return caught.value.reason


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("PPM", {}), ("WEBP", {"lossless": True})]
)
def test_lossless_formats_come_back_bit_by_bit(kind, options, tmp_path):
    data = encode(RAMP, kind, **options)
    decoded = decode_image(data, image_id="x")
    assert decoded.dtype == np.uint8
    assert decoded.flags.writeable
    np.testing.assert_array_equal(decoded, RAMP)
    (tmp_path / "file").write_bytes(data)
    np.testing.assert_array_equal(decode_image(tmp_path / "file", image_id="x"), RAMP)


def test_lossy_formats_come_back_nearly():
    for kind in ("JPEG", "WEBP"):
        decoded = decode_image(encode(RAMP, kind, quality=95), image_id="x").astype(int)
        assert np.abs(decoded - RAMP).mean() < 3


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    for kind in ("GIF", "WEBP", "TIFF", "PNG"):
        data = encode(frames[0], kind, save_all=True, append_images=frames[1:])
        assert decode_image(data, image_id="x")[4, 4].tolist() == pytest.approx([255, 0, 0], abs=3), kind


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_orientation_is_applied_once(kind, orientation):
    # EXIF 2.3, tag 0x0112: where the stored row 0 and column 0 belong.
    upright = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: np.rot90,
    }[orientation](RAMP)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    np.testing.assert_array_equal(decode_image(encode(RAMP, kind, exif=exif, **options), image_id="x"), upright)


def test_broken_exif_does_not_spoil_the_picture():
    # Orientation 6, and a strip offset of type float: Pillow turns the picture, then fails to write the tags back.
    entries = struct.pack("<HHII", 0x0112, 3, 1, 6) + struct.pack("<HHII", 0x0111, 11, 2, 8)
    broken = struct.pack("<2sHIH", b"II", 42, 8, 2) + entries + bytes(8)
    for tags, shape in ((broken, (40, 24, 3)), (b"MM\x00*garbage", (24, 40, 3))):
        assert decode_image(encode(RAMP, "JPEG", exif=b"Exif\x00\x00" + tags), image_id="x").shape == shape


def test_transparency_is_laid_over_white():
    layer = np.zeros((4, 4, 4), dtype=np.uint8)
    layer[:2] = (200, 0, 0, 255)
    layer[3] = (0, 0, 0, 51)
    decoded = decode_image(encode(layer, "PNG"), image_id="x")
    assert decoded[:, 0].tolist() == [[200, 0, 0], [200, 0, 0], [255, 255, 255], [204, 204, 204]]

    grey = Image.fromarray(layer[..., 0]).convert("LA")
    grey.putalpha(Image.fromarray(layer[..., 3]))
    assert decode_image(encode(grey, "PNG"), image_id="x")[2, 0].tolist() == [255, 255, 255]


def test_palettes():
    palette = Image.fromarray(RAMP).quantize(16)
    expected = np.asarray(palette.convert("RGB"))
    np.testing.assert_array_equal(decode_image(encode(palette, "PNG"), image_id="x"), expected)
    np.testing.assert_array_equal(decode_image(encode(palette, "GIF"), image_id="x"), expected)

    # Alpha by palette entry, where Pillow would warn on the straight way to RGB.
    entry = int(np.asarray(palette)[0, 0])
    alphas = bytes(0 if number == entry else 255 for number in range(16))
    decoded = decode_image(encode(palette, "PNG", transparency=alphas), image_id="x")
    assert decoded[0, 0].tolist() == [255, 255, 255]
    assert decoded[-1, -1].tolist() == expected[-1, -1].tolist()


def test_black_and_white_grey_and_cmyk():
    assert np.unique(decode_image(encode(Image.fromarray(RAMP).convert("1"), "PNG"), image_id="x")).tolist() == [0, 255]
    grey = decode_image(encode(RAMP[..., 0], "PNG"), image_id="x")
    np.testing.assert_array_equal(grey, RAMP[..., :1].repeat(3, axis=-1))
    for kind in ("TIFF", "JPEG"):
        cmyk = decode_image(encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), kind), image_id="x")
        assert cmyk[8, 8].tolist() == pytest.approx([254, 0, 0], abs=3), kind


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_grey_is_scaled(kind):
    deep = np.linspace(0, 65535, 256).reshape(16, 16).astype(np.uint16)
    decoded = decode_image(encode(deep, kind), image_id="x")
    np.testing.assert_array_equal(decoded[..., 1], np.arange(256).reshape(16, 16))


@pytest.mark.parametrize(
    ("low", "high", "black", "white"),
    [
        (0, 1, 0, 255),
        (0, 0.5, 0, 128),
        (0, 255, 0, 255),
        (0, 100, 0, 100),
        (0, 65535, 0, 255),
        (-3, 9, 0, 255),
        (0, 1e9, 0, 255),
    ],
)
def test_float_tiff_is_scaled(low, high, black, white):
    decoded = decode_image(encode(np.linspace(low, high, 64, dtype=np.float32).reshape(8, 8), "TIFF"), image_id="x")
    assert decoded[0, 0].tolist() == [black] * 3
    assert decoded[-1, -1].tolist() == [white] * 3
    assert (np.diff(decoded[..., 0].ravel().astype(int)) >= 0).all()


def test_float_tiff_with_holes():
    values = np.full((4, 4), 0.5, dtype=np.float32)
    values[0, 0], values[0, 1] = np.nan, np.inf
    decoded = decode_image(encode(values, "TIFF"), image_id="x")
    assert decoded[0, 0, 0] == decoded[0, 1, 0] == 0
    assert decoded[2, 2, 0] == 128


@settings(max_examples=30, deadline=None)
@given(width=st.integers(1, 400), height=st.integers(1, 400), min_side=st.integers(1, 450))
def test_draft_keeps_the_shorter_side(width, height, min_side):
    data = encode(Image.new("RGB", (width, height), "teal"), "JPEG")
    rows, columns, _ = decode_image(data, image_id="x", min_side=min_side).shape
    assert min(rows, columns) >= min(min_side, width, height)
    assert (rows, columns) == pytest.approx((height, width)) or min(rows, columns) < min(width, height)
    # Half of it would be too small, or the smallest scale is reached.
    assert min(rows, columns) < 2 * min_side or rows <= -(-height // 8) or (rows, columns) == (height, width)


def test_draft_really_reduces():
    data = encode(Image.new("RGB", (800, 640)), "JPEG")
    assert decode_image(data, image_id="x", min_side=80).shape == (80, 100, 3)
    assert decode_image(data, image_id="x", min_side=81).shape == (160, 200, 3)
    assert decode_image(data, image_id="x").shape == (640, 800, 3)


def png_claiming(width, height):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [30_000, 15_000])
def test_bombs_are_refused_by_their_header(side, monkeypatch):
    def decoded(_):
        pytest.fail("pixels were decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decoded)
    assert "too many pixels" in reason(png_claiming(side, side))


def test_the_limit_is_our_own(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert reason(png_claiming(30_000, 30_000)) == f"too many pixels (30000x30000, limit {MAX_PIXELS})"


def test_a_large_picture_below_the_limit_neither_warns_nor_fails(monkeypatch):
    # Pillow warns above MAX_IMAGE_PIXELS and refuses above twice that.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 600)
    assert decode_image(encode(RAMP, "PNG"), image_id="x").shape == RAMP.shape


def test_reasons(tmp_path):
    assert reason(b"") == "zero bytes"
    assert reason(b"<html>no such image</html>") == "not an image of a known format"
    assert reason(tmp_path / "missing.png") == "file is missing"
    assert reason(tmp_path) == "not a regular file"
    (tmp_path / "empty.png").touch()
    assert reason(tmp_path / "empty.png") == "zero bytes"
    os.mkfifo(tmp_path / "pipe.png")
    assert reason(tmp_path / "pipe.png") == "not a regular file"
    assert reason(encode(RAMP, "ICO")) == "not an image of a known format"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM"])
@pytest.mark.parametrize("min_side", [None, 1])
def test_truncated_files_are_found(kind, min_side):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encode(noise, kind)
    with pytest.raises(BadImageError):
        decode_image(data[: len(data) // 2], image_id="x", min_side=min_side)


def test_truncated_is_called_so():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for kind in ("JPEG", "PNG", "BMP"):
        data = encode(noise, kind)
        assert reason(data[: len(data) // 2]) == "truncated", kind


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(["JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM"]),
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=8),
    length=st.floats(0, 1),
)
def test_damaged_files_give_a_picture_or_a_bad_image_error(kind, changes, length):
    data = bytearray(encode(RAMP, kind))
    for place, value in changes:
        data[place % len(data)] = value
    with suppress(BadImageError):
        image = decode_image(bytes(data[: int(len(data) * length)]), image_id="x")
        assert image.ndim == 3
        assert image.shape[2] == 3


def test_warning_filters_are_restored_from_many_threads(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 600)  # so that each decoding warns
    before = list(warnings.filters)
    data = encode(RAMP, "PNG")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: decode_image(data, image_id="x"), range(200)))
    assert list(warnings.filters) == before


def test_warnings_stay_silent_until_the_last_thread_is_done():
    before = list(warnings.filters)
    first, second = _quiet_pillow(), _quiet_pillow()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    warnings.warn("palette images with transparency", stacklevel=1)  # an error, were it not silenced
    second.__exit__(None, None, None)
    assert list(warnings.filters) == before
