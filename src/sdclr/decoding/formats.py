"""Supported image formats, and messages about unsupported ones."""

import importlib
import importlib.util
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import BinaryIO, Final

from PIL import Image, UnidentifiedImageError

ENDINGS: Final = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png", ".apng"),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "AVIF": (".avif",),
    "JPEG2000": (".jp2", ".j2k", ".jpf", ".jpx"),
    "HEIF": (".heic", ".heif", ".hif"),
}
"""File extensions of the supported formats, in lower case, by Pillow's names. The first one is used for writing."""

SUFFIXES: Final = frozenset(ending for endings in ENDINGS.values() for ending in endings)

OTHER_SUFFIX: Final = "its suffix is not that of an image"
"""The reason why a file of another kind is left out. Such files do not count toward the limit on bad images."""

MOVING: Final = frozenset(ending for name in ("PNG", "GIF", "WEBP", "AVIF", "HEIF") for ending in ENDINGS[name])
"""File extensions of formats that may hold several frames, of which the first is used."""

HEIC_HINT: Final = "HEIC image: pip install 'sdclr[heic]'"

_UNREAD: Final = {
    "camera RAW": ("develop it to TIFF or JPEG", "cr2 cr3 crw nef nrw arw dng orf raf rw2 pef srw raw"),
    "video": ("extract its frames: ffmpeg -i FILE %06d.png", "mp4 m4v mov avi mkv webm wmv mpg mpeg"),
    "vector image": ("convert it to PNG", "svg svgz eps ai wmf emf"),
    "PDF": ("convert its pages to PNG: pdftoppm -png FILE page", "pdf"),
    "layered image": ("export it as PNG or TIFF", "psd psb xcf kra"),
    "microscope file": ("export it as TIFF: bfconvert FILE OUT.tif", "czi nd2 lif lsm oib oif vsi svs ndpi mrxs scn"),
    "medical image": ("convert it to PNG or TIFF", "dcm dicom nii nrrd mha mhd"),
    "JPEG XL": ("convert it to PNG: djxl FILE OUT.png", "jxl"),
    "high-dynamic-range image": ("convert it to TIFF", "exr hdr fits fit"),
}
_UNREAD_BY_ENDING: Final = {
    f".{ending}": f"{kind}, not read: {remedy}"
    for kind, (remedy, endings) in _UNREAD.items()
    for ending in endings.split()
}
_BEGINNINGS: Final = (
    (0, b"%PDF", ".pdf"),
    (0, b"8BPS", ".psd"),
    (0, b"\xff\x0a", ".jxl"),
    (4, b"JXL ", ".jxl"),
    (0, b"<svg", ".svg"),
    (128, b"DICM", ".dcm"),
    (8, b"AVI ", ".avi"),
    (0, b"\x1aE\xdf\xa3", ".mkv"),
    (0, b"FUJIFILMCCD-RAW", ".raf"),
    (0, b"v/1\x01", ".exr"),
)
_HEIC_BRANDS: Final = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")


@cache
def formats() -> tuple[str, ...]:
    """The supported formats, by Pillow's names: HEIF only if its package is installed."""
    if importlib.util.find_spec("pillow_heif") is None:
        return tuple(name for name in ENDINGS if name != "HEIF")
    importlib.import_module("pillow_heif").register_heif_opener()
    return tuple(ENDINGS)


class UnreadError(Exception):
    """The file is in an unsupported image format. The message has the format and a remedy."""


def open_image(file: BinaryIO) -> Image.Image:
    """Open an image and read its header.

    Raises:
        UnreadError: The file is in a known but unsupported format.
        Exception: Any error that Pillow raises.
    """
    try:
        return Image.open(file, formats=formats())
    except UnidentifiedImageError:
        file.seek(0)
        reason = _unread_content(file.read(160))
        if reason is None:
            raise
        raise UnreadError(reason) from None


def unread(name: str) -> str | None:
    """Reason why files with this extension are not read, with a remedy; None for supported and unknown formats."""
    ending = Path(name).suffix.lower()
    if ending in ENDINGS["HEIF"] and "HEIF" not in formats():
        return HEIC_HINT
    return _UNREAD_BY_ENDING.get(ending)


def _unread_content(beginning: bytes) -> str | None:
    """The same as `unread`, from the first bytes of a file."""
    if beginning[4:8] == b"ftyp":
        if beginning[8:12] in _HEIC_BRANDS:
            return HEIC_HINT if "HEIF" not in formats() else None
        return _UNREAD_BY_ENDING[".cr3" if beginning[8:12] == b"crx " else ".mp4"]
    ending = next((e for place, mark, e in _BEGINNINGS if beginning[place : place + len(mark)] == mark), "")
    return _UNREAD_BY_ENDING.get(ending)


def unread_line(reasons: Iterable[str]) -> str | None:
    """One line about all skipped files in unsupported image formats; None if there are none."""
    known = {HEIC_HINT, *_UNREAD_BY_ENDING.values()}
    counts = Counter(reason for reason in reasons if reason in known)
    parts = (f"{count:,} x {reason.replace(', not read', '')}" for reason, count in counts.most_common())
    return f"not read: {'; '.join(parts)}" if counts else None
