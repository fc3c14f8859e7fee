"""Pages of multi-page TIFF files. Each page is a separate item, `stack.tif#3`, counted from 1."""

import io
import re
import struct
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from PIL import Image

from sdclr.decoding.formats import ENDINGS, open_image
from sdclr.errors import BadImageError
from sdclr.limits import PAGES

_PAGE: Final = re.compile(r"(.+\.tiff?)#([1-9]\d{0,9})", flags=re.ASCII | re.IGNORECASE | re.DOTALL)
_KIND: Final = 254
"""The tag NewSubfileType: bit 0 marks a smaller copy of another page, bit 2 a mask."""
_NO_PAGE: Final = 0b101


def split_page(name: str) -> tuple[str, int] | None:
    """Split a page name such as "stack.tif#3" into file name and page number; None for other names."""
    found = _PAGE.fullmatch(name)
    return (found[1], int(found[2])) if found else None


def tiff_pages(path: Path) -> dict[int, int]:
    """Find the pages of a multi-page TIFF file: byte offsets by page number.

    Thumbnails, smaller copies in a pyramid, and masks are not pages. If the chain of pages breaks off, the page after
    the last whole one is listed, too, so that decoding it reports the error.

    Returns:
        {} for a single-page file, a missing file, or a file that is not a TIFF.

    Raises:
        BadImageError: The file has more pages than the limit.
    """
    if path.suffix.lower() not in ENDINGS["TIFF"] or not path.is_file():
        return {}
    try:
        with path.open("rb", buffering=0) as file:
            found = _walk(file, path)
    except OSError:
        return {}
    return found if len(found) > 1 else {}


def _walk(file: Any, path: Path) -> dict[int, int]:
    head = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None or len(head) < 16:
        return {}
    big = head[2:4] == struct.pack(order + "H", 43)
    count, entry, place = (order + "Q", 20, order + "Q") if big else (order + "H", 12, order + "I")
    pages: dict[int, int] = {}
    seen: set[int] = set()
    (at,) = struct.unpack_from(place, head, 8 if big else 4)
    while at and at not in seen:
        seen.add(at)
        number = len(seen)
        if number > PAGES.value:
            raise BadImageError(path.name, f"more pages than the limit of {PAGES.value:,}; {PAGES.variable} raises it")
        try:
            file.seek(at)
            (entries,) = struct.unpack(count, file.read(struct.calcsize(count)))
            data = file.read(entry * min(entries, 2**16) + struct.calcsize(place))
            (after,) = struct.unpack_from(place, data, entry * entries)
        except (OSError, OverflowError, struct.error):  # the chain points outside the file
            pages[number] = at
            break
        if not _subfile(data, entries, entry, order, big=big) & _NO_PAGE:
            pages[number] = at
        at = after
    return pages


def _subfile(data: bytes, entries: int, entry: int, order: str, *, big: bool) -> int:
    for begin in range(0, entries * entry, entry):
        (tag,) = struct.unpack_from(order + "H", data, begin)
        if tag == _KIND:
            (value,) = struct.unpack_from(order + "I", data, begin + (12 if big else 8))
            return int(value)
    return 0


class PageFile(io.FileIO):
    """A TIFF file whose header points to one page, so that readers find it without walking through the others."""

    def __init__(self, path: Path, at: int) -> None:
        super().__init__(path)
        head = super().read(16)
        big = head[2:4] in {b"+\0", b"\0+"}
        place = ("<" if head[:1] == b"I" else ">") + ("Q" if big else "I")
        begin, end = (8, 16) if big else (4, 8)
        self._head = head[:begin] + struct.pack(place, at) + head[end:]
        self.seek(0)

    def read(self, size: int | None = -1, /) -> bytes:
        """Read from the file, with the header replaced."""
        begin = self.tell()
        data = super().read(-1 if size is None else size) or b""
        if begin >= len(self._head):
            return data
        return (self._head[begin : begin + len(data)] + data[len(self._head) - begin :])[: len(data)]


def page_alone(path: Path, at: int, image_id: str) -> bytes:
    """Encode one page as a single-page TIFF file with unchanged pixels.

    Raises:
        BadImageError: The page cannot be read.
    """
    try:
        with PageFile(path, at) as file, open_image(cast("BinaryIO", file)) as image:
            buffer = io.BytesIO()
            image.copy().save(buffer, format="TIFF", compression="tiff_adobe_deflate", tiffinfo=_stated(image))
            return buffer.getvalue()
    except Exception as error:  # Pillow's parsers raise nearly anything on hostile bytes
        raise BadImageError(image_id, "its page cannot be read") from error


def _stated(image: Image.Image) -> dict[int, Any]:
    """Tags of the page that state its intensity range."""
    tags = getattr(image, "tag_v2", {})
    return {tag: tags[tag] for tag in (280, 281, 340, 341) if tag in tags}
