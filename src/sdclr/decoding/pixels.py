"""Converts pixels of any kind to upright 8-bit RGB."""

import math
from contextlib import suppress
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from sdclr.intensities import Intensities, Range

_STRIP: Final = 2**20
"""Approximate number of pixels in a strip of rows."""

TURNS: Final = {
    2: (False, 1),
    3: (False, -1),
    4: (False, 0),
    5: (True, None),
    6: (True, 1),
    7: (True, -1),
    8: (True, 0),
}
"""For each EXIF orientation, whether rows become columns, and OpenCV's code of the flip that follows."""


_CONTAINER: Final = {"deep": 65535.0, "integer": 2.0**31 - 1, "real": math.inf}
"""The largest number of each kind of pixel. A file that states only this number states no range."""


def kind_of(image: Image.Image) -> str | None:
    """The name of the range in `Intensities` for an image; None for images of 8 bits."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return "deep"
    return {"I": "integer", "F": "real"}.get(image.mode)


def stated_range(image: Image.Image) -> tuple[float, float] | None:
    """The range of intensities that a file of more than 8 bits states, if it is smaller than that of its pixel type.

    TIFF states bits per sample, or a smallest and a largest sample value. PNG states the significant bits (sBIT). PGM
    states the largest value, by which Pillow has scaled the pixels to 16 bits.
    """
    kind = kind_of(image)
    if kind is None:
        return None
    if image.format == "PPM":
        return (0.0, 65535.0) if (tiles := getattr(image, "tile", ())) and tiles[0].codec_name == "ppm" else None
    low, high = 0.0, math.inf
    if image.format == "PNG":
        bits = _significant_bits(image)
        high = 2.0**bits - 1 if bits else math.inf
    elif image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]  # only TIFF images have it
        for least, most in ((280, 281), (340, 341)):
            high = min(high, *map(float, _values(tags, most)), math.inf)
            low = max(low, *map(float, _values(tags, least)), 0.0)
        if kind == "deep":
            high = min(high, 2.0 ** min(map(int, _values(tags, 258)), default=16) - 1)
    return (low, high) if low < high < _CONTAINER[kind] else None


def _values(tags: Any, tag: int) -> tuple[Any, ...]:
    found = tags.get(tag, ())
    return found if isinstance(found, tuple) else (found,)


def _significant_bits(image: Image.Image) -> int:
    """The number in the chunk sBIT, which Pillow ignores; 0 without one."""
    file = getattr(image, "fp", None)
    if file is None:
        return 0
    place = file.tell()
    file.seek(8)
    bits = 0
    for _ in range(64):
        head = file.read(8)
        if len(head) < 8 or head[4:] == b"IDAT":
            break
        length = int.from_bytes(head[:4], "big")
        if head[4:] == b"sBIT":
            bits = (file.read(1) or b"\0")[0]
            break
        file.seek(length + 4, 1)
    file.seek(place)
    return bits


def in_strips(image: Image.Image, reduction: int, intensities: Intensities | None = None) -> NDArray[np.uint8]:
    """Convert a large image to upright RGB, reduced by averaging, in strips: only the decoder holds the whole image."""
    image.load()
    width, height = image.size
    rows = max(1, _STRIP // (width * reduction)) * reduction
    strips = [(top, (0, top, width, min(height, top + rows))) for top in range(0, height, rows)]
    chosen = range_of(image, intensities)
    span = None
    if chosen is None and image.mode in {"I", "F"}:
        spans = [_span(numbers(image.crop(box))) for _, box in strips]
        span = min(low for low, _ in spans), max(high for _, high in spans)
    out = np.empty((-(-height // reduction), -(-width // reduction), 3), dtype=np.uint8)
    for top, box in strips:
        strip = _to_rgb(image.crop(box), chosen, span).reduce(reduction)
        out[top // reduction : top // reduction + strip.height] = np.asarray(strip)
    with suppress(Exception):  # broken EXIF data raise nearly anything
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
        return out if turn is None else turned(out, turn)
    return out


def turned(pixels: NDArray[np.uint8], turn: tuple[bool, int | None]) -> NDArray[np.uint8]:
    """Apply one of `TURNS` to an image."""
    transposed, flip = turn
    pixels = np.asarray(cv2.transpose(pixels) if transposed else pixels, dtype=np.uint8)
    return pixels if flip is None else np.asarray(cv2.flip(pixels, flip), dtype=np.uint8)


def upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation to an image, in place."""
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except Exception:  # noqa: BLE001  # broken EXIF data raise nearly anything, and the picture is fine without them
        return image
    return image


def to_rgb(image: Image.Image, intensities: Intensities | None = None) -> Image.Image:
    """Convert an image to RGB; `intensities` set black and white for images with more than 8 bits."""
    return _to_rgb(image, range_of(image, intensities), None)


def range_of(image: Image.Image, intensities: Intensities | None) -> Range | None:
    """The range of intensities for an image, if one is known."""
    kind = kind_of(image)
    return None if kind is None else getattr(intensities, kind, None)


def _to_rgb(image: Image.Image, chosen: Range | None, span: Range | None) -> Image.Image:
    """Convert an image to RGB; `span` has the minimum and maximum of the whole image that it is a part of."""
    if image.mode == "RGB":
        return image
    if chosen is not None:
        low, high = chosen
        return _gray(np.clip((numbers(image) - low) * (255 / (high - low)), 0, 255))
    if image.mode.startswith("I;16"):
        return _gray(numbers(image) * (255 / 65535))
    if image.mode in {"I", "F"}:
        values = numbers(image)
        return _gray(_scaled(values, *(_span(values) if span is None else span), unit_range=image.mode == "F"))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def numbers(image: Image.Image) -> NDArray[np.float64]:
    """The intensities of a single-channel image; values that are not finite become 0."""
    return np.nan_to_num(np.asarray(image).astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)


def _span(values: NDArray[np.float64]) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _scaled(values: NDArray[np.float64], low: float, high: float, *, unit_range: bool) -> NDArray[np.float64]:
    if low >= 0:
        for top in (1, 255, 65535) if unit_range else (65535,):
            if high <= top:
                return values * (255 / top)
    return (values - low) * (255 / max(high - low, np.finfo(np.float64).tiny))


def _gray(values: NDArray[np.float64]) -> Image.Image:
    return Image.fromarray(np.rint(values).astype(np.uint8)).convert("RGB")
