"""Thumbnails of many images, packed in sheets, so that a page has few files and loads only the visible ones."""

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from sdclr.data.sources import Source
from sdclr.decoding.decode import BadImage
from sdclr.decoding.workers import items_in_order
from sdclr.errors import BadImageError
from sdclr.files import make_folder, write_atomically
from sdclr.progress import stage

_QUALITY: Final = 88
_BLOCK: Final = 8
"""Side of a JPEG block in pixels. Cells of whole blocks have no artifacts from their neighbors."""


@dataclass(frozen=True)
class SheetPlan:
    """Layout of the images on sheets."""

    rows: NDArray[np.int64]
    """Positions in the source, in the order of the sheets."""
    size: int
    """Maximum longer side of a thumbnail in pixels."""
    folder: Path
    prefix: str
    """A sheet's file is named `{prefix}{number}.jpg`."""
    across: int = 6
    """Cells per row and rows per sheet. Small, since in other orders than the rank each image needs another sheet."""

    @property
    def per_sheet(self) -> int:
        """Thumbnails per sheet."""
        return self.across**2

    def __len__(self) -> int:
        return math.ceil(len(self.rows) / self.per_sheet)


class Thumbnails(NamedTuple):
    """The written sheets."""

    sheets: list[str]
    """File names."""
    cells: list[int]
    """Side of each sheet's cells in pixels; a picture is in the upper left corner of its cell."""
    sizes: NDArray[np.uint16]
    """(rows, 2), width and height of each picture; 0 if it cannot be decoded."""
    bad: list[BadImage]


class _Sheet(NamedTuple):
    data: bytes
    cell: int
    sizes: NDArray[np.uint16]
    bad: list[BadImage]


def write_sheets(source: Source, plan: SheetPlan, *, workers: int = 0) -> Thumbnails:
    """Decode the images, shrink them, and write their sheets.

    Args:
        source: The images.
        plan: The layout on sheets.
        workers: Number of decoding processes; 0 decodes in this process.

    Returns:
        Files, sizes, and the images that cannot be decoded.
    """
    make_folder(plan.folder)
    names, cells, sizes, bad = [], [], [np.zeros((0, 2), dtype=np.uint16)], []
    with stage("drawing thumbnails", len(plan.rows)) as update:
        for number, sheet in enumerate(items_in_order(_Sheets(source, plan), workers)):
            names.append(f"{plan.prefix}{number:05d}.jpg")
            write_atomically(plan.folder / names[-1], sheet.data)
            cells.append(sheet.cell)
            sizes.append(sheet.sizes)
            bad.extend(sheet.bad)
            update(min((number + 1) * plan.per_sheet, len(plan.rows)))
    return Thumbnails(names, cells, np.concatenate(sizes), bad)


def shrink(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Reduce the longer side of an image to `size`. Smaller images are not changed."""
    height, width = image.shape[:2]
    longer = max(height, width)
    if longer <= size:
        return image
    shape = (max(1, round(width * size / longer)), max(1, round(height * size / longer)))
    return np.asarray(Image.fromarray(image).resize(shape, Image.Resampling.BICUBIC, reducing_gap=2.0))


class _Sheets(Dataset[_Sheet]):
    """The sheets of a plan, made on access."""

    def __init__(self, source: Source, plan: SheetPlan) -> None:
        self.source = source
        self.plan = plan

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, number: int) -> _Sheet:
        plan = self.plan
        rows = plan.rows[number * plan.per_sheet : (number + 1) * plan.per_sheet].tolist()
        pictures: dict[int, NDArray[np.uint8]] = {}
        bad = []
        sizes = np.zeros((len(rows), 2), dtype=np.uint16)
        for place, position in enumerate(rows):
            try:
                picture = shrink(self.source.image(position, min_side=plan.size), plan.size)
            except BadImageError as error:
                bad.append(BadImage(error.image_id, error.reason, counted=True))
                continue
            pictures[place] = picture
            sizes[place] = picture.shape[1::-1]
        cell = _BLOCK * math.ceil(max(int(sizes.max()), 1) / _BLOCK)
        high = math.ceil(len(rows) / plan.across)
        sheet = np.zeros((high * cell, plan.across * cell, 3), dtype=np.uint8)
        for place, picture in pictures.items():
            top, left = cell * (place // plan.across), cell * (place % plan.across)
            # Fill the cell with the picture's edge: black would be visible next to it.
            height, width = picture.shape[:2]
            rest = ((0, cell - height), (0, cell - width), (0, 0))
            sheet[top : top + cell, left : left + cell] = np.pad(picture, rest, mode="edge")
        buffer = io.BytesIO()
        Image.fromarray(sheet).save(buffer, "JPEG", quality=_QUALITY, subsampling=0)
        return _Sheet(buffer.getvalue(), cell, sizes, bad)
