"""Decode one image file to RGB, refusing what is unsafe before any pixel is decoded.

Only common formats are tried, the header is checked against a pixel limit first, and every failure becomes a
`BadImageError` with a short reason: one bad file in a million must neither end a run nor fill the memory.

Pillow reads every header and is the judge of what is damaged. In worker processes OpenCV decodes plain JPEGs, in less
time: both are libjpeg-turbo inside, and the pixels are the same.
"""

import io
import multiprocessing
import os
import re
import signal
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from sdclr.errors import BadImageError

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
"""Formats that are tried, by Pillow's names. PPM stands for PBM, PGM and PPM."""

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".pnm"}
)
"""File name endings, in lower case, of the formats that are tried."""

MAX_PIXELS = 178_956_970
"""Width times height above which an image is refused as a decompression bomb (512 MiB as RGB)."""

_WHOLE_FILE: Final = 64 * 2**20
"""Bytes up to which a file is read at once; of a larger one Pillow reads what it needs."""

_standard_error: tuple[int, int] | None = None
"""Where standard error goes, and nowhere: two file descriptors, in processes that `prepare_worker` has prepared."""

_MARKER: Final = re.compile(rb"\xff[^\x00\xd0-\xd7]")
"""What does not occur in the coded pixels of a JPEG: a marker other than those from which decoding may restart."""

_END: Final = b"\xff\xd9"

_IMREAD: Final = {
    1: cv2.IMREAD_COLOR_RGB,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}

_TURNS: Final = {
    2: (False, 1),
    3: (False, -1),
    4: (False, 0),
    5: (True, None),
    6: (True, 1),
    7: (True, -1),
    8: (True, 0),
}
"""For each EXIF orientation whether rows become columns, and OpenCV's code of the flip that follows."""


class BadImage(NamedTuple):
    """One file that is left out, and why."""

    id: str
    """The image's id in its source."""
    reason: str
    """Why, in a few words."""
    counted: bool
    """Whether it counts against the limit on bad images; files that merely lack an image suffix do not."""


class Header(NamedTuple):
    """What the first bytes of an image file tell."""

    format: str
    """One of `FORMATS`."""
    mode: str
    """Pillow's name of the pixels' kind: RGB, L (gray), RGBA, P (palette), CMYK, I;16 (16-bit gray), …."""
    width: int
    """In pixels, upright: after the EXIF orientation is applied."""
    height: int


def read_header(data: bytes | Path, *, image_id: str) -> Header:
    """Read the header of an image and decode no pixel. Damage behind the header goes unnoticed.

    Args:
        data: The encoded bytes, or the file that holds them.
        image_id: Names the image in errors.

    Raises:
        BadImageError: The file is missing, empty, no image of a known format, or too large.
    """
    with _quiet_pillow():
        try:
            if isinstance(data, Path):
                _checked_size(data, image_id)
                with data.open("rb") as file:
                    return _header(file, image_id)
            return _header(io.BytesIO(data), image_id)
        except BadImageError:
            raise
        except Exception as error:
            raise BadImageError(image_id, _reason(error)) from error


def _header(file: BinaryIO, image_id: str) -> Header:
    if not file.read(1):
        raise BadImageError(image_id, "zero bytes")
    file.seek(0)
    with Image.open(file, formats=FORMATS) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise BadImageError(image_id, _too_large(f"{width}x{height}"))
        turn = None
        if image.format == "JPEG":  # formats that can be turned and whose EXIF data stand in the header
            with suppress(Exception):  # broken EXIF data raise nearly anything
                turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
        if turn is not None and turn[0]:
            width, height = height, width
        return Header(str(image.format), image.mode, width, height)


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
                if _checked_size(data, image_id) > _WHOLE_FILE:
                    with data.open("rb") as file:
                        return _decode(file, b"", image_id, min_side)
                data = data.read_bytes()
            return _decode(io.BytesIO(data), data, image_id, min_side)
        except BadImageError:
            raise
        except Exception as error:
            # On hostile bytes Pillow's parsers raise nearly anything: struct.error, KeyError, ZeroDivisionError, ...
            raise BadImageError(image_id, _reason(error)) from error


def prepare_worker(_worker: int = 0) -> None:
    """Prepare a process that only decodes images, in one thread: a DataLoader's `worker_init_fn`.

    From here on OpenCV decodes plain JPEGs in this process. Elsewhere it does not: its libjpeg writes a line without a
    file's name to standard error for each damaged file, and to close that for a moment, as is done here, would
    swallow what other threads write.
    """
    if multiprocessing.parent_process() is not None:
        _leave_signals_to_parent()
    global _standard_error  # noqa: PLW0603  # standard error is the process's too
    # No threads at all, so that OpenCV, as torch does with itself, does not use every core in every worker. 1 would
    # mean to stop those that it has started, and to wait for threads that a forked process does not have.
    cv2.setNumThreads(0)
    with suppress(OSError):  # a process without standard error keeps Pillow
        _standard_error = (os.dup(2), os.open(os.devnull, os.O_WRONLY))


def _leave_signals_to_parent() -> None:
    """End this process by SIGTERM only if its parent sends it.

    `timeout` and batch systems send signals to all processes of a group. The parent then saves its state, for which its
    workers must not die before it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # macOS lacks it
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_by_parent, daemon=True).start()


def _end_by_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def _decode(file: BinaryIO, data: bytes, image_id: str, min_side: int | None) -> NDArray[np.uint8]:
    """Decode `file`; `data` are all its bytes, if they are at hand."""
    if not file.read(1):
        raise BadImageError(image_id, "zero bytes")
    file.seek(0)
    with Image.open(file, formats=FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise BadImageError(image_id, _too_large(f"{image.width}x{image.height}"))
        pixels = _decode_plain_jpeg(image, data, file.tell(), _reduction(image.size, min_side))
        if pixels is not None:
            return pixels
        if min_side is not None:
            image.draft(None, (min_side, min_side))
        image.load()
        return np.array(_to_rgb(_upright(image)), dtype=np.uint8)


def _decode_plain_jpeg(image: Image.Image, data: bytes, position: int, reduction: int) -> NDArray[np.uint8] | None:
    """Decode a JPEG with OpenCV, if nothing can be wrong with it that OpenCV would pass over and Pillow would not.

    That is so where nothing but coded pixels and the end follows the header. What is truncated has no end; markers in
    between say that the file is damaged, or progressive.

    Args:
        image: The same, opened by Pillow.
        data: The whole file, or nothing.
        position: Where Pillow stopped reading: after the header, or before its end.
        reduction: 1, 2, 4 or 8.

    Returns:
        The image, or None if Pillow shall judge.
    """
    if _standard_error is None or image.format != "JPEG" or image.mode not in {"RGB", "L"}:
        return None
    marker = _MARKER.search(data, position)
    if marker is None or marker.start() != len(data) - len(_END) or marker.group() != _END:
        return None
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
        with _closed(*_standard_error):
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), _IMREAD[reduction] | cv2.IMREAD_IGNORE_ORIENTATION)
    except Exception:  # noqa: BLE001  # broken EXIF data raise nearly anything
        return None
    if pixels is None or pixels.shape != (-(-image.height // reduction), -(-image.width // reduction), 3):
        return None
    if reduction > 1:  # for which OpenCV knows BGR alone
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels)
    if turn is not None:
        transposed, flip = turn
        pixels = cv2.transpose(pixels) if transposed else pixels
        pixels = pixels if flip is None else cv2.flip(pixels, flip)
    return np.asarray(pixels, dtype=np.uint8)


@contextmanager
def _closed(standard_error: int, nowhere: int) -> Iterator[None]:
    """Let what libraries write to standard error go nowhere for a while."""
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(standard_error, 2)


def _reduction(size: tuple[int, int], min_side: int | None) -> int:
    """The scale that Pillow's `draft` chooses, as 1 over it."""
    room = 1 if min_side is None else min(size) // min_side
    return max(scale for scale in _IMREAD if scale <= max(room, 1))


def _checked_size(path: Path, image_id: str) -> int:
    """The size of a file in bytes. Opening a named pipe would block for ever."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise BadImageError(image_id, "not a regular file")
    return status.st_size


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
