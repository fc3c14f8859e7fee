"""Decodes one image file to RGB, and rejects unsafe files before any pixel is decoded.

Only common formats are tried, the header is checked against a pixel limit first, and every failure becomes a
`BadImageError` with a short reason, so that one bad file in a million does not end a run or fill the memory.

Pillow reads every header and decides what is damaged. In worker processes OpenCV decodes plain JPEGs, in less time:
both use libjpeg-turbo, and the pixels are the same.
"""

import io
import multiprocessing
import os
import re
import signal
import stat
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from sdclr.decoding.formats import UnreadError, open_image
from sdclr.decoding.memory import Shares, decoding, use_shares
from sdclr.decoding.pages import PageFile
from sdclr.decoding.pixels import TURNS, in_strips, to_rgb, turned, upright
from sdclr.errors import BadImageError, InputError
from sdclr.intensities import Intensities
from sdclr.limits import DECODING, PIXELS
from sdclr.visible import visible

_LARGE: Final = 2**24
"""Number of pixels above which an image is converted and reduced in strips of rows."""

_PIXEL_BYTES: Final = 8
"""Bytes per pixel while an image is decoded: 4 in Pillow, 3 as RGB."""

_COEFFICIENT_BYTES: Final = 6
"""Bytes per pixel of a progressive JPEG, which is decoded completely before its first pixel is available."""

_WHOLE_FILE: Final = 64 * 2**20
"""Size in bytes up to which a file is read at once; of a larger file Pillow reads what it needs."""

_standard_error: tuple[int, int] | None = None
"""File descriptors of standard error and of the null device, in processes that `prepare_worker` has prepared."""

_MARKER: Final = re.compile(rb"\xff[^\x00\xd0-\xd7]")
"""A marker other than a restart marker. None occurs in the coded pixels of a JPEG."""

_END: Final = b"\xff\xd9"

_IMREAD: Final = {
    1: cv2.IMREAD_COLOR_RGB,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


class BadImage(NamedTuple):
    """One file that is left out, with the reason."""

    id: str
    """The image's id in its source."""
    reason: str
    """The reason, in a few words."""
    counted: bool
    """Whether it counts toward the limit on bad images; files without an image suffix do not."""


class Header(NamedTuple):
    """Contents of an image header."""

    format: str
    """Pillow's name of the format; see `sdclr.decoding.formats`."""
    mode: str
    """Pillow's name of the pixel mode: RGB, L (gray), RGBA, P (palette), CMYK, I;16 (16-bit gray), …."""
    width: int
    """In pixels, upright: after the EXIF orientation is applied."""
    height: int
    animated: bool = False
    """Whether the file has further frames, which are ignored."""


def read_header(data: bytes | Path, *, image_id: str, at: int = 0) -> Header:
    """Read the header of an image without decoding pixels. Damage behind the header is not detected.

    Args:
        data: The encoded bytes, or the file that holds them.
        image_id: Id of the image in error messages.
        at: Byte offset of a page in its TIFF file; see `sdclr.decoding.pages`. 0 is the first image of any file.

    Raises:
        BadImageError: The file is missing, empty, too large, or not an image of a known format.
    """
    with _quiet_pillow():
        try:
            if isinstance(data, Path):
                _checked_size(data, image_id)
                with _opened(data, at) as file:
                    return _header(file, image_id)
            return _header(io.BytesIO(data), image_id)
        except InputError:
            raise
        except Exception as error:
            raise BadImageError(image_id, _reason(error)) from error


def _header(file: BinaryIO, image_id: str) -> Header:
    if not file.read(1):
        raise BadImageError(image_id, "zero bytes")
    file.seek(0)
    with open_image(file) as image:
        width, height = image.size
        if width * height > PIXELS.value:
            raise BadImageError(image_id, _too_large(f"{width}x{height}"))
        turn = None
        if image.format in {"JPEG", "AVIF"}:  # formats that can be rotated and have EXIF data in the header
            with suppress(Exception):  # broken EXIF data raise nearly anything
                turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
        if turn is not None and turn[0]:
            width, height = height, width
        return Header(str(image.format), image.mode, width, height, _is_animated(image))


def _is_animated(image: Image.Image) -> bool:
    """Whether an image has further frames. Damage behind the first frame is ignored."""
    with suppress(Exception):  # Pillow searches for frames, and can raise nearly anything
        return image.format != "TIFF" and bool(getattr(image, "is_animated", False))
    return False


def _opened(path: Path, at: int) -> BinaryIO:
    return cast("BinaryIO", PageFile(path, at)) if at else path.open("rb")


@contextmanager
def opened_image(data: bytes | Path, at: int, image_id: str) -> Iterator[Image.Image]:
    """Open an image and read its header without decoding; arguments as for `read_header`.

    Raises:
        Exception: Any error that Pillow raises.
    """
    with _quiet_pillow():
        if isinstance(data, Path):
            _checked_size(data, image_id)
        with _opened(data, at) if isinstance(data, Path) else io.BytesIO(data) as file, open_image(file) as image:
            yield image


def decode_image(
    data: bytes | Path,
    *,
    image_id: str,
    min_side: int | None = None,
    intensities: Intensities | None = None,
    at: int = 0,
) -> NDArray[np.uint8]:
    """Decode an image to 8-bit RGB, upright.

    The first frame of an animation is used, the EXIF orientation is applied, transparency is blended over white, and
    CMYK is converted. Deep gray images are scaled to 8 bits by `intensities`, and clipped. A kind without a range is
    scaled and not clipped: 16-bit and 32-bit integers by 255/65535, and floats by the smallest of the ranges [0, 1],
    [0, 255] and [0, 65535] that holds them. Images with values outside of these ranges are stretched from their minimum
    to their maximum.

    Args:
        data: The encoded bytes, or the file that holds them.
        image_id: Id of the image in error messages.
        min_side: A JPEG, and any image of more than 16 million pixels, may be decoded at 1/2, 1/4 or 1/8 scale, as long
            as its shorter side has at least this many pixels. This takes less time and memory. None decodes at full
            size.
        intensities: The intensities that become black and white.
        at: Byte offset of a page in its TIFF file; see `sdclr.decoding.pages`. 0 is the first image of any file.

    Returns:
        The image, `(H, W, 3)`, writable.

    Raises:
        BadImageError: The file is missing, empty, not an image of a known format, too large, truncated or corrupt.
    """
    with _quiet_pillow():
        try:
            if isinstance(data, Path):
                if _checked_size(data, image_id) > _WHOLE_FILE or at:
                    with _opened(data, at) as file:
                        return _decode(file, b"", image_id, min_side, intensities)
                data = data.read_bytes()
            return _decode(io.BytesIO(data), data, image_id, min_side, intensities)
        except InputError:
            raise
        except Exception as error:
            # On hostile bytes Pillow's parsers raise nearly anything: struct.error, KeyError, ZeroDivisionError, ...
            raise BadImageError(image_id, _reason(error)) from error


def worker_preparation(workers: int, method: str | None = None) -> Callable[[int], None]:
    """The `worker_init_fn` of a DataLoader: `prepare_worker`, with a memory limit that the workers share.

    Args:
        workers: Number of workers.
        method: Start method, by `multiprocessing`'s name.
    """
    if not workers:
        return prepare_worker
    return partial(prepare_worker, shares=Shares(DECODING.value, multiprocessing.get_context(method)))


def prepare_worker(_worker: int = 0, *, shares: Shares | None = None) -> None:
    """Prepare a process that only decodes images, in one thread.

    From now on OpenCV decodes plain JPEGs in this process. It does not do so in other processes: its libjpeg writes a
    line without a file name to standard error for each damaged file. Closing standard error for a moment, as is done
    here, would lose the output of other threads.
    """
    if shares is not None:
        use_shares(shares)
    if multiprocessing.parent_process() is not None:
        _leave_signals_to_parent()
    global _standard_error  # noqa: PLW0603  # standard error belongs to the process, too
    # 0 disables threads, so that OpenCV does not use every core in every worker (torch does the same for itself). 1
    # would stop its running threads, and wait for threads that a forked process does not have.
    cv2.setNumThreads(0)
    with suppress(OSError):  # a process without standard error uses only Pillow
        _standard_error = (os.dup(2), os.open(os.devnull, os.O_WRONLY))


def _leave_signals_to_parent() -> None:
    """End this process by SIGTERM only if its parent sends it.

    `timeout` and batch systems send signals to all processes of a group. The parent then saves its state, and its
    workers must not end before that.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # macOS lacks it
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_by_parent, daemon=True).start()


def _end_by_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def _decode(
    file: BinaryIO, data: bytes, image_id: str, min_side: int | None, intensities: Intensities | None
) -> NDArray[np.uint8]:
    """Decode `file`; `data` are all its bytes, if they have been read."""
    if not file.read(1):
        raise BadImageError(image_id, "zero bytes")
    file.seek(0)
    with open_image(file) as image:
        if image.width * image.height > PIXELS.value:
            raise BadImageError(image_id, _too_large(f"{image.width}x{image.height}"))
        reduction = _reduction(image.size, min_side)
        with decoding(_memory(image, reduction)):
            pixels = _decode_plain_jpeg(image, data, file.tell(), reduction)
            if pixels is not None:
                return pixels
            if min_side is not None:
                image.draft(None, (min_side, min_side))
            if image.width * image.height > _LARGE:
                return in_strips(image, _reduction(image.size, min_side), intensities)
            image.load()
            return np.array(to_rgb(upright(image), intensities), dtype=np.uint8)


def _memory(image: Image.Image, reduction: int) -> int:
    """Approximate number of bytes that an image takes while it is decoded."""
    pixels = image.width * image.height
    if image.format != "JPEG":
        return pixels * _PIXEL_BYTES
    whole = pixels * _COEFFICIENT_BYTES if image.info.get("progressive") else 0
    return whole + pixels // reduction**2 * _PIXEL_BYTES


def _decode_plain_jpeg(image: Image.Image, data: bytes, position: int, reduction: int) -> NDArray[np.uint8] | None:
    """Decode a JPEG with OpenCV, if it cannot have a fault that OpenCV would ignore and Pillow would report.

    This holds if only coded pixels and the end marker follow the header. A truncated file has no end marker; other
    markers mean that the file is damaged or progressive.

    Args:
        image: The same image, opened by Pillow.
        data: All bytes of the file, or none.
        position: Where Pillow stopped reading: after the header, or before its end.
        reduction: 1, 2, 4 or 8.

    Returns:
        The image, or None if Pillow must decode it.
    """
    if _standard_error is None or image.format != "JPEG" or image.mode not in {"RGB", "L"}:
        return None
    marker = _MARKER.search(data, position)
    if marker is None or marker.start() != len(data) - len(_END) or marker.group() != _END:
        return None
    try:
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
        with _closed(*_standard_error):
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), _IMREAD[reduction] | cv2.IMREAD_IGNORE_ORIENTATION)
    except Exception:  # noqa: BLE001  # broken EXIF data raise nearly anything
        return None
    if pixels is None or pixels.shape != (-(-image.height // reduction), -(-image.width // reduction), 3):
        return None
    if reduction > 1:  # OpenCV decodes these only as BGR
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels)
    found = np.asarray(pixels, dtype=np.uint8)
    return found if turn is None else turned(found, turn)


@contextmanager
def _closed(standard_error: int, nowhere: int) -> Iterator[None]:
    """Discard what libraries write to standard error."""
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(standard_error, 2)


def _reduction(size: tuple[int, int], min_side: int | None) -> int:
    """The factor by which Pillow's `draft` reduces an image."""
    room = 1 if min_side is None else min(size) // min_side
    return max(scale for scale in _IMREAD if scale <= max(room, 1))


def _checked_size(path: Path, image_id: str) -> int:
    """The size of a regular file in bytes. Opening a named pipe would block forever."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise BadImageError(image_id, "not a regular file")
    return status.st_size


def _too_large(what: str) -> str:
    return f"too many pixels ({what}, limit {PIXELS.value}; {PIXELS.variable} raises it)"


_REASONS: Final[tuple[tuple[type[Exception], str], ...]] = (
    (FileNotFoundError, "file is missing"),
    (PermissionError, "no permission to read it"),
    (UnidentifiedImageError, "not an image of a known format"),
)


def _reason(error: Exception) -> str:
    if isinstance(error, UnreadError):
        return str(error)
    if isinstance(error, Image.DecompressionBombError):
        return _too_large("by its header")
    known = next((reason for kind, reason in _REASONS if isinstance(error, kind)), None)
    if known is not None:
        return known
    message = visible(" ".join(str(error).split()))  # Pillow's messages quote from the file
    if "truncated" in message.lower():
        return "truncated"
    return f"corrupt: {message or type(error).__name__}"[:120]


_quiet_lock = threading.Lock()
_quiet_users = 0
_quiet_filters = warnings.catch_warnings()


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Silence warnings while images are decoded, in any number of threads.

    `warnings.catch_warnings` replaces a process-wide list, so nested use from several threads would restore it in the
    wrong order. Here the first thread replaces it, and the last thread restores it.
    """
    global _quiet_users, _quiet_filters  # noqa: PLW0603  # the list of filters is process-wide too
    with _quiet_lock:
        if Image.MAX_IMAGE_PIXELS is not None and PIXELS.value > 2 * Image.MAX_IMAGE_PIXELS:
            Image.MAX_IMAGE_PIXELS = -(-PIXELS.value // 2)  # Pillow raises an error above twice this number
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
