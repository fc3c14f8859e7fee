"""Decode one image file to RGB, refusing what is unsafe before any pixel is decoded.

Only common formats are tried, the header is checked against a pixel limit first, and every failure becomes a
`BadImageError` with a short reason: one bad file in a million must neither end a run nor fill the memory.
"""

import io
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from sdclr.errors import BadImageError

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
"""Formats that are tried, by Pillow's names. PPM stands for PBM, PGM and PPM."""

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".pnm"}
)
"""File name endings, in lower case, of the formats that are tried."""

MAX_PIXELS = 178_956_970
"""Width times height above which an image is refused as a decompression bomb (512 MiB as RGB)."""


class BadImage(NamedTuple):
    """One file that is left out, and why."""

    id: str
    """The image's id in its source."""
    reason: str
    """Why, in a few words."""
    counted: bool
    """Whether it counts against the limit on bad images; files that merely lack an image suffix do not."""


def decode_image(data: bytes | Path, *, image_id: str, min_side: int | None = None) -> NDArray[np.uint8]:
    """Decode an image to 8-bit RGB, upright.

    The first frame of an animation or multi-page file is taken, the EXIF orientation applied, transparency laid over
    white, CMYK converted. Deep grey images are scaled to 8 bits, not clipped: 16-bit values by 255/65535; 32-bit
    integers likewise, and floats by the smallest of the ranges [0, 1], [0, 255] and [0, 65535] that holds them; what no
    range holds is stretched from its own minimum to its own maximum.

    Args:
        data: The encoded bytes, or the file that holds them.
        image_id: Names the image in errors.
        min_side: A JPEG may be decoded at 1/2, 1/4 or 1/8 scale as long as its shorter side keeps at least this many
            pixels, which takes less time. None decodes at full size.

    Returns:
        The image, `(H, W, 3)`, writable.

    Raises:
        BadImageError: The file is missing, empty, no image of a known format, too large, truncated or corrupt.
    """
    with _quiet_pillow():
        try:
            if isinstance(data, Path):
                _check_regular(data, image_id)
                with data.open("rb") as file:
                    return _decode(file, image_id, min_side)
            return _decode(io.BytesIO(data), image_id, min_side)
        except BadImageError:
            raise
        except Exception as error:
            # On hostile bytes Pillow's parsers raise nearly anything: struct.error, KeyError, ZeroDivisionError, ...
            raise BadImageError(image_id, _reason(error)) from error


def _decode(file: BinaryIO, image_id: str, min_side: int | None) -> NDArray[np.uint8]:
    if not file.read(1):
        raise BadImageError(image_id, "zero bytes")
    file.seek(0)
    with Image.open(file, formats=FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise BadImageError(image_id, _too_large(f"{image.width}x{image.height}"))
        if min_side is not None:
            image.draft(None, (min_side, min_side))
        image.load()
        return np.array(_to_rgb(_upright(image)), dtype=np.uint8)


def _check_regular(path: Path, image_id: str) -> None:
    # Opening a named pipe would block for ever.
    if not stat.S_ISREG(path.stat().st_mode):
        raise BadImageError(image_id, "not a regular file")


def _too_large(what: str) -> str:
    return f"too many pixels ({what}, limit {MAX_PIXELS})"


def _reason(error: Exception) -> str:
    match error:
        case FileNotFoundError():
            return "file is missing"
        case PermissionError():
            return "no permission to read it"
        case UnidentifiedImageError():
            return "not an image of a known format"
        case Image.DecompressionBombError():
            return _too_large("by its header")
    message = " ".join(str(error).split())
    if "truncated" in message.lower():
        return "truncated"
    return f"corrupt: {message or type(error).__name__}"[:120]


def _upright(image: Image.Image) -> Image.Image:
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except Exception:  # noqa: BLE001  # broken EXIF data raise nearly anything, and the picture is fine without them
        return image
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16"):
        return _grey(np.asarray(image).astype(np.float64) * (255 / 65535))
    if image.mode in {"I", "F"}:
        return _grey(_scaled(np.asarray(image).astype(np.float64), unit_range=image.mode == "F"))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _scaled(values: NDArray[np.float64], *, unit_range: bool) -> NDArray[np.float64]:
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    if low >= 0:
        for top in (1, 255, 65535) if unit_range else (65535,):
            if high <= top:
                return values * (255 / top)
    return (values - low) * (255 / max(high - low, np.finfo(np.float64).tiny))


def _grey(values: NDArray[np.float64]) -> Image.Image:
    return Image.fromarray(np.rint(values).astype(np.uint8)).convert("RGB")


_quiet_lock = threading.Lock()
_quiet_users = 0
_quiet_filters = warnings.catch_warnings()


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Silence warnings while images are decoded, in any number of threads.

    `warnings.catch_warnings` swaps one process-wide list, so nested use from several threads would restore it in the
    wrong order; here the first thread in swaps it and the last one out restores it.
    """
    global _quiet_users, _quiet_filters  # noqa: PLW0603  # the list of filters is process-wide too
    with _quiet_lock:
        if _quiet_users == 0:
            _quiet_filters = warnings.catch_warnings()
            _quiet_filters.__enter__()
            warnings.simplefilter("ignore")
        _quiet_users += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_users -= 1
            if _quiet_users == 0:
                _quiet_filters.__exit__(None, None, None)
