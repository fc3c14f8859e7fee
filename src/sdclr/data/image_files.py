"""Base classes for sources whose items are image files or pages of image files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sdclr.data.intensities import SeenByRange
from sdclr.data.stored import Stored
from sdclr.decoding.decode import BadImage, Header, decode_image, read_header
from sdclr.decoding.pages import page_alone, split_page, tiff_pages
from sdclr.errors import BadImageError


@dataclass
class Items:
    """Image files, and pages of multi-page files, as items."""

    paths: list[str]
    ids: list[str]
    pages: dict[int, int] = field(default_factory=dict)
    """Byte offsets of the pages in their files, by item position."""
    rows: list[int] | None = None
    """Index of the name that each item belongs to; None if each name is one item."""
    bad: list[BadImage] = field(default_factory=list)
    """Files with too many pages, which are left out."""

    @classmethod
    def of(cls, root: Path, names: Sequence[str], ids: Sequence[str] | None = None) -> "Items":
        """Make items from file names.

        Args:
            root: The folder that names are relative to.
            names: Names of files, or of pages, such as "stack.tif#3".
            ids: Ids of the files; by default their names. Page ids end with "#" and the page number.
        """
        whole = names if ids is None else ids
        tiffs = ((row, name) for row, name in enumerate(names) if ".tif" in name.lower())
        found = {row: pages for row, name in tiffs if (pages := _pages(root, name)) is not None}
        if not found:
            return cls(list(names), list(whole))
        rows: list[int] = []
        items = cls([], [], rows=rows)
        for row, name in enumerate(names):
            pages = found.get(row, {0: 0})
            if isinstance(pages, BadImageError):
                items.bad.append(BadImage(whole[row], pages.reason, counted=True))
                continue
            named = None if (root / name).is_file() or row not in found else split_page(name)
            for number, at in pages.items():
                if at:
                    items.pages[len(items.ids)] = at
                items.paths.append(named[0] if named else name)
                items.ids.append(whole[row] if named or not at else f"{whole[row]}#{number}")
                rows.append(row)
        return items


def _pages(root: Path, name: str) -> dict[int, int] | BadImageError | None:
    """The pages that a name refers to; None for a single-page file."""
    named = split_page(name)
    try:
        if named is None or (root / name).is_file():
            return tiff_pages(root / name) or None
        pages = tiff_pages(root / named[0])
        return {named[1]: pages[named[1]]} if named[1] in pages else None
    except BadImageError as error:
        return error


class ImageFiles(SeenByRange):
    """Source whose items are image files, or pages of them.

    Args:
        root: The folder that paths are relative to.
        paths: The file of each item.
        ids: The id of each item.
        pages: Byte offset in the file for each item that is a page of a multi-page file.
    """

    def __init__(
        self, root: Path, paths: Sequence[str], ids: Sequence[str], pages: Mapping[int, int] | None = None
    ) -> None:
        self._root, self._paths, self._pages = root, paths, pages or {}
        self.ids: Sequence[str] = ids

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, index: int, *, min_side: int | None = None) -> NDArray[np.uint8]:
        """Decode one image to RGB, `(H, W, 3)`; see `decode_image`."""
        file, at = self.place(index)
        return decode_image(file, image_id=self.ids[index], min_side=min_side, intensities=self.intensities, at=at)

    def file(self, index: int) -> Path | None:
        """The file of an image; None for a page of a multi-page file."""
        file, at = self.place(index)
        return None if at else file

    def encoded(self, index: int) -> bytes | None:
        """A page as a single-page file; None if the image is a whole file."""
        file, at = self.place(index)
        return page_alone(file, at, self.ids[index]) if at else None

    def header(self, index: int) -> Header:
        """The header of an image; see `read_header`."""
        file, at = self.place(index)
        return read_header(file, image_id=self.ids[index], at=at)

    def stored(self, index: int) -> Stored:
        """Location of an image; see `stored_image`."""
        file, at = self.place(index)
        return Stored(file, None, self.decoder(), at)

    def place(self, index: int) -> tuple[Path, int]:
        """The file of an image, and the byte offset of its page; 0 if the image is the whole file."""
        return self._root / self._paths[index], self._pages.get(index, 0)
