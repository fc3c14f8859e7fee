"""Formats that are read, those that are named and not read, and what they may cost."""

import io
import struct

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import sdclr
from sdclr.data.inventory import about_files
from sdclr.data.sources import open_source
from sdclr.decoding import formats as module
from sdclr.decoding.decode import decode_image, read_header
from sdclr.decoding.formats import ENDINGS, HEIC_HINT, SUFFIXES, formats

PICTURE = np.kron(np.stack([load_digits().images[number] * 15 for number in (1, 2, 3)], -1), np.ones((8, 8, 1)))
PICTURE = PICTURE.astype(np.uint8)  # (64, 64, 3)


def encoded(kind, picture=PICTURE, **how):
    formats()  # registers the writer of HEIC, too
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format=kind, **how)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["AVIF", "JPEG2000", "HEIF"])
def test_newer_formats_are_read(tmp_path, kind):
    data = encoded(kind, quality=95) if kind != "JPEG2000" else encoded(kind, irreversible=False)
    (tmp_path / f"a{ENDINGS[kind][0]}").write_bytes(data)
    source = open_source(tmp_path)
    assert np.abs(source.image(0).astype(int) - PICTURE).mean() < 6
    assert sdclr.inspect_images(tmp_path).formats == {kind: 1}
    assert read_header(data, image_id="x")[:4] == (kind, "RGB", 64, 64)


@pytest.mark.parametrize("kind", ["AVIF"])  # HEIC is turned by its own boxes, never by EXIF data
def test_newer_formats_are_turned_upright(kind):
    tags = Image.Exif()
    tags[274] = 6
    wide = PICTURE[:32]
    data = encoded(kind, wide, exif=tags, quality=95)
    decoded = decode_image(data, image_id="x")
    assert np.abs(decoded.astype(int) - np.rot90(wide, -1)).mean() < 8
    header = read_header(data, image_id="x")
    assert (header.height, header.width) == decoded.shape[:2]


@pytest.mark.parametrize("kind", ["AVIF", "JPEG2000", "HEIF", "TIFF"])
def test_the_header_decides_before_pixels_are_decoded(monkeypatch, kind):
    monkeypatch.setenv("SDCLR_MAX_PIXELS", "4000")
    with pytest.raises(sdclr.BadImageError, match="too many pixels"):
        decode_image(encoded(kind), image_id="x")


def test_sizes_that_only_the_header_claims_are_refused():
    jp2 = bytearray(encoded("JPEG2000"))
    ihdr = jp2.index(b"ihdr")
    struct.pack_into(">II", jp2, ihdr + 4, 10**6, 10**6)
    siz = jp2.index(b"\xff\x51")
    struct.pack_into(">II", jp2, siz + 6, 10**6, 10**6)
    avif = bytearray(encoded("AVIF"))
    struct.pack_into(">II", avif, avif.index(b"ispe") + 8, 10**6, 10**6)
    heic = bytearray(encoded("HEIF"))
    struct.pack_into(">II", heic, heic.index(b"ispe") + 8, 10**6, 10**6)
    for data in (jp2, avif, heic):
        with pytest.raises(sdclr.BadImageError):
            decode_image(bytes(data), image_id="x")
        with pytest.raises(sdclr.BadImageError):
            read_header(bytes(data), image_id="x")


@pytest.mark.parametrize("kind", ["AVIF", "JPEG2000", "HEIF"])
def test_damage_is_a_bad_image(kind):
    data = encoded(kind)
    for length in (8, 20, len(data) // 2):
        with pytest.raises(sdclr.BadImageError):
            decode_image(data[:length], image_id="x")


def test_heic_without_its_package_names_the_command(tmp_path, monkeypatch):
    (tmp_path / "a.heic").write_bytes(encoded("HEIF"))
    (tmp_path / "b.jpg").write_bytes(encoded("HEIF"))
    (tmp_path / "c.png").write_bytes(encoded("PNG"))
    monkeypatch.setattr(module, "formats", lambda: tuple(name for name in ENDINGS if name != "HEIF"))
    source = open_source(tmp_path)
    assert list(source.ids) == ["b.jpg", "c.png"]
    assert about_files(source) == [f"not read: 1 x {HEIC_HINT}"]
    with pytest.raises(sdclr.BadImageError, match=r"HEIC image: pip install 'sdclr\[heic\]'"):
        source.image(0)
    (tmp_path / "b.jpg").unlink()
    (tmp_path / "c.png").unlink()
    with pytest.raises(sdclr.InputError, match=r"holds no images that can be read; .*sdclr\[heic\]"):
        open_source(tmp_path)


def test_images_that_are_not_read_are_counted_with_their_remedy(tmp_path):
    for name in ("a.NEF", "b.cr2", "c.mp4", "d.svg", "e.psd", "f.pdf", "g.czi", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "h.png").write_bytes(encoded("PNG"))
    source = open_source(tmp_path)
    assert list(source.ids) == ["h.png"]
    reasons = {bad.id: bad.reason for bad in source.skipped}
    assert reasons["notes.txt"] == "its suffix is not that of an image"
    assert reasons["c.mp4"] == "video, not read: extract its frames: ffmpeg -i FILE %06d.png"
    (line,) = about_files(source)
    assert line.startswith("not read: 2 x camera RAW: develop it to TIFF or JPEG; 1 x video")
    assert not SUFFIXES & {f".{name.rpartition('.')[2].lower()}" for name in reasons}


@pytest.mark.parametrize(
    ("beginning", "reason"),
    [
        (b"%PDF-1.7 ...", "PDF, not read: convert its pages"),
        (b"8BPS\0\1", "layered image, not read"),
        (b"\0\0\0\x20ftypisom....", "video, not read"),
        (b"\0\0\0\x18ftypcrx ....", "camera RAW, not read"),
        (b"\xff\x0a....", "JPEG XL, not read"),
        (b"nothing at all", "not an image of a known format"),
    ],
)
def test_content_that_is_not_read_is_named(beginning, reason):
    with pytest.raises(sdclr.BadImageError, match=reason):
        decode_image(beginning.ljust(200, b"\0"), image_id="x.jpg")


def test_animated_files_are_counted(tmp_path):
    frames = [Image.fromarray(PICTURE), Image.fromarray(255 - PICTURE)]
    for name in ("a.gif", "b.webp", "c.png"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "still.png")
    source = open_source(tmp_path)
    assert about_files(source) == ["animated files, of which the first frame is used: 3"]
    assert sdclr.inspect_images(tmp_path).animated == 3
    np.testing.assert_array_equal(source.image(2), PICTURE)


def test_damage_behind_the_first_frame_does_no_harm(tmp_path):
    frames = [Image.new("RGB", (16, 16), (80 * number, 0, 0)) for number in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    whole = (tmp_path / "a.gif").read_bytes()
    begin = b"\x2c\0\0\0\0"  # of the descriptor of an image
    second = whole.index(begin, whole.index(begin) + 1)
    (tmp_path / "a.gif").write_bytes(whole[: second + 10])
    assert read_header(tmp_path / "a.gif", image_id="a").width == 16
    assert decode_image(tmp_path / "a.gif", image_id="a").shape == (16, 16, 3)


def test_a_heic_image_is_turned_once():
    # The file holds the turn as a box (irot), and as EXIF data, as cameras write it.
    heif = pytest.importorskip("pillow_heif")
    picture = Image.new("RGB", (128, 64), "blue")
    picture.paste("red", (0, 0, 64, 64))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.info["original_orientation"] = 6
    heif.register_heif_opener()
    buffer = io.BytesIO()
    picture.save(buffer, "HEIF", exif=exif.tobytes(), quality=95)
    pixels = decode_image(buffer.getvalue(), image_id="x")
    assert b"irot" in buffer.getvalue()
    assert pixels.shape == (128, 64, 3)
    assert pixels[10, 30].tolist() == pytest.approx([255, 0, 0], abs=8)
