import io
import multiprocessing
import os
import struct
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_sample_image

from sdclr.decoding import decode as module
from sdclr.decoding.decode import _quiet_pillow, decode_image, prepare_worker
from sdclr.errors import BadImageError, InputError
from sdclr.limits import PIXELS

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
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "lime", "blue")]
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

    gray = Image.fromarray(layer[..., 0]).convert("LA")
    gray.putalpha(Image.fromarray(layer[..., 3]))
    assert decode_image(encode(gray, "PNG"), image_id="x")[2, 0].tolist() == [255, 255, 255]


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


def test_black_and_white_gray_and_cmyk():
    assert np.unique(decode_image(encode(Image.fromarray(RAMP).convert("1"), "PNG"), image_id="x")).tolist() == [0, 255]
    gray = decode_image(encode(RAMP[..., 0], "PNG"), image_id="x")
    np.testing.assert_array_equal(gray, RAMP[..., :1].repeat(3, axis=-1))
    for kind in ("TIFF", "JPEG"):
        cmyk = decode_image(encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), kind), image_id="x")
        assert cmyk[8, 8].tolist() == pytest.approx([254, 0, 0], abs=3), kind


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_gray_is_scaled(kind):
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
    assert min(rows, columns) <= 2 * min_side or rows <= -(-height // 8) or (rows, columns) == (height, width)


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
    limit = PIXELS.value
    assert (
        reason(png_claiming(30_000, 30_000))
        == f"too many pixels (30000x30000, limit {limit}; SDCLR_MAX_PIXELS raises it)"
    )


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


@pytest.fixture(scope="module")
def decode_both():
    """Decodes as a worker does and by Pillow: what comes of it, a picture or a reason, and whether OpenCV was asked."""
    threads = cv2.getNumThreads()
    prepare_worker()
    standard_error, module._standard_error = module._standard_error, None
    asked = []
    imdecode = cv2.imdecode

    def decode_one(data, min_side):
        try:
            return decode_image(data, image_id="x", min_side=min_side)
        except BadImageError as error:
            return error.reason

    def decode(data, min_side=None):
        asked.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cv2, "imdecode", lambda *args: asked.append(args) or imdecode(*args))
            patch.setattr(module, "_standard_error", standard_error)
            decoded = decode_one(data, min_side)
        return decoded, decode_one(data, min_side), bool(asked)

    yield decode
    cv2.setNumThreads(threads)
    for descriptor in standard_error:
        os.close(descriptor)


def same(one, two):
    return type(one) is type(two) and np.array_equal(one, two)


def structured(height, width, seed):
    """Edges and noise, in colors that subsampling blurs."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (-(-height // 7), -(-width // 5), 3), dtype=np.uint8)
    image = np.kron(coarse, np.ones((7, 5, 1), dtype=np.uint8))[:height, :width].astype(int)
    return np.clip(image + rng.integers(-20, 20, image.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("gray", [False, True])
@settings(max_examples=80, deadline=None)
@given(
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    subsampling=st.sampled_from([0, 1, 2]),
    quality=st.integers(5, 100),
    progressive=st.booleans(),
    restart=st.sampled_from([0, 0, 3]),
    orientation=st.integers(0, 9),
    min_side=st.none() | st.integers(1, 60),
)
def test_workers_see_pillows_pixels(
    decode_both, *, gray, size, subsampling, quality, progressive, restart, orientation, min_side
):
    image = structured(*size, seed=sum(size))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {} if gray else {"subsampling": subsampling}
    data = encode(
        image[..., 0] if gray else image,
        "JPEG",
        quality=quality,
        progressive=progressive,
        restart_marker_blocks=restart,
        exif=exif,
        **options,
    )
    decoded, expected, opencv = decode_both(data, min_side)
    assert opencv is not progressive
    assert decoded.flags.writeable
    assert decoded.flags.c_contiguous
    assert same(decoded, expected)


@pytest.mark.parametrize("min_side", [None, 300, 200, 100, 47])
def test_workers_see_pillows_photographs(decode_both, tmp_path, min_side):
    (tmp_path / "photo.jpg").write_bytes(encode(Image.fromarray(load_sample_image("china.jpg")), "JPEG", quality=90))
    decoded, expected, opencv = decode_both(tmp_path / "photo.jpg", min_side)
    assert opencv
    assert same(decoded, expected)


def test_pillow_keeps_what_is_not_plain(decode_both):
    plain = encode(RAMP, "JPEG")
    others = [
        encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG"),
        encode(RAMP, "PNG"),
        plain + b"\0",
        plain + plain,
        encode(Image.fromarray(RAMP), "MPO", save_all=True, append_images=[Image.fromarray(RAMP)]),
    ]
    for data in others:
        decoded, expected, opencv = decode_both(data)
        assert not opencv
        assert same(decoded, expected)
    assert decode_both(plain)[2]


def test_large_files_are_left_to_pillow(decode_both, tmp_path, monkeypatch):
    (tmp_path / "photo.jpg").write_bytes(encode(RAMP, "JPEG"))
    monkeypatch.setattr(module, "_WHOLE_FILE", 100)
    decoded, expected, opencv = decode_both(tmp_path / "photo.jpg")
    assert not opencv
    assert same(decoded, expected)


KINDS = [{}, {"quality": 95, "subsampling": 0}, {"restart_marker_blocks": 2}, {"progressive": True}]


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    how=st.sampled_from(["flip", "cut", "insert", "marker", "restart"]),
    places=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=3),
    noise=st.binary(min_size=1, max_size=40),
    ended=st.booleans(),
    min_side=st.sampled_from([None, 8, 16]),
)
def test_workers_refuse_what_pillow_refuses(decode_both, *, kind, how, places, noise, ended, min_side):
    data = bytearray(encode(structured(40, 56, seed=1), "JPEG", **kind))
    for share in places:
        place = 2 + int(share * (len(data) - 4))
        match how:
            case "flip":
                data[place] ^= noise[0]
            case "cut":
                del data[place : place + 8 * len(noise)]
            case "insert":
                data[place:place] = noise
            case "marker":
                data[place : place + 2] = b"\xff" + bytes([0xC0 + noise[0] % 0x3F])
            case "restart":
                data[place : place + 2] = b"\xff" + bytes([0xD0 + noise[0] % 8])
    if ended and data[-2:] != b"\xff\xd9":
        data += b"\xff\xd9"
    decoded, expected, _ = decode_both(bytes(data), min_side)
    assert same(decoded, expected)


def test_a_marker_among_the_pixels_is_refused_though_opencv_takes_it(decode_both):
    # A second header where pixels should be: libjpeg fills the picture up with gray, and complains at its end.
    data = encode(structured(64, 64, seed=2), "JPEG")
    at = len(data) // 2
    damaged = data[:at] + b"\xff\xc0\x00\x11" + data[at:]
    assert cv2.imdecode(np.frombuffer(damaged, np.uint8), cv2.IMREAD_COLOR) is not None
    decoded, expected, opencv = decode_both(damaged)
    assert not opencv
    assert decoded == expected == "corrupt: broken data stream when reading image file"


def decode_as_a_worker(data):
    prepare_worker()
    for _ in range(3):
        decode_image(data, image_id="x")
    os.write(2, b"still open")


forks = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
# Newer Pythons warn when a process with threads forks; torch starts threads.
forking_warns = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


@forks
@forking_warns
def test_workers_do_not_chatter_and_keep_standard_error(capfd):
    data = encode(structured(64, 64, seed=3), "JPEG")
    damaged = data[: len(data) // 2] + data[len(data) // 2 + 9 :]
    cv2.imdecode(np.frombuffer(damaged, np.uint8), cv2.IMREAD_COLOR)
    assert "Corrupt JPEG data" in capfd.readouterr().err
    worker = multiprocessing.get_context("fork").Process(target=decode_as_a_worker, args=(damaged,))
    worker.start()
    worker.join(timeout=30)
    assert worker.exitcode == 0
    assert capfd.readouterr() == ("", "still open")


def test_without_standard_error_pillow_decodes(monkeypatch):
    def closed(_):
        raise OSError

    monkeypatch.setattr(module, "_standard_error", None)
    monkeypatch.setattr(os, "dup", closed)
    threads = cv2.getNumThreads()
    prepare_worker()
    cv2.setNumThreads(threads)
    assert module._standard_error is None


@forks
@forking_warns
def test_a_worker_starts_although_opencv_has_threads_in_the_process_it_was_forked_from():
    cv2.cvtColor(np.zeros((2000, 2000, 3), dtype=np.uint8), cv2.COLOR_RGB2HSV)  # starts them
    time.sleep(0.5)  # and they go to sleep
    worker = multiprocessing.get_context("fork").Process(target=prepare_worker)
    worker.start()
    worker.join(timeout=30)
    hung = worker.is_alive()
    worker.kill()
    worker.join()
    assert not hung


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGB", "RGBA", "LA", "CMYK", "I;16", "I", "F"])
@pytest.mark.parametrize("turn", [1, 6])
def test_large_images_are_converted_in_strips(monkeypatch, mode, turn):
    """As small ones are, but for the size: only the decoder holds a large image whole."""
    rng = np.random.default_rng(0)
    kind = {"I;16": np.uint16, "I": np.int32, "F": np.float32}.get(mode, np.uint8)
    high = 256 if kind is np.uint8 else 60_000
    bands = {"RGB": (3,), "RGBA": (4,), "LA": (2,), "CMYK": (4,)}.get(mode, ())
    values = rng.integers(0, high, size=(37, 53, *bands)).astype(kind)
    image = Image.fromarray(values).convert("RGB").quantize(40) if mode == "P" else Image.fromarray(values)
    image = image.convert("1") if mode == "1" else image
    image = image.convert("CMYK") if mode == "CMYK" else image
    exif = Image.Exif()
    exif[0x0112] = turn
    buffer = io.BytesIO()
    image.save(buffer, "TIFF" if mode in {"I", "F", "CMYK"} else "PNG", exif=exif)
    whole = decode_image(buffer.getvalue(), image_id="x")
    assert whole.shape == ((53, 37, 3) if turn == 6 else (37, 53, 3))
    monkeypatch.setattr(module, "_LARGE", 100)
    monkeypatch.setattr("sdclr.decoding.pixels._STRIP", 500)
    strips = decode_image(buffer.getvalue(), image_id="x")
    assert np.abs(strips.astype(int) - whole).max() <= (0 if mode != "1" else 255)
    reduced = decode_image(buffer.getvalue(), image_id="x", min_side=16)
    height, width = whole.shape[:2]
    assert reduced.shape == (-(-height // 2), -(-width // 2), 3)
    means = whole[: height // 2 * 2, : width // 2 * 2].reshape(height // 2, 2, width // 2, 2, 3).mean(axis=(1, 3))
    if turn == 1 and mode != "1":
        assert np.abs(reduced[: height // 2, : width // 2] - means).max() <= 1


def test_the_number_of_pixels_can_be_raised(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    monkeypatch.setenv("SDCLR_MAX_PIXELS", "500")
    assert (
        reason(encode(RAMP, "PNG"))
        == f"too many pixels ({RAMP.shape[1]}x{RAMP.shape[0]}, limit 500; SDCLR_MAX_PIXELS raises it)"
    )
    monkeypatch.setenv("SDCLR_MAX_PIXELS", "2G")
    assert "too many" not in reason(png_claiming(30_000, 30_000))
    monkeypatch.setenv("SDCLR_MAX_PIXELS", "many")
    with pytest.raises(InputError, match="SDCLR_MAX_PIXELS is 'many'"):
        decode_image(encode(RAMP, "PNG"), image_id="x")
