"""Data of the search for near-duplicates per image, read by worker processes and stored in a file.

One pass over the candidates in the source's order decodes each image once. The data take 40 kB per image; a temporary
file holds them, so that memory does not grow with the number of candidates.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from sdclr.data.sources import Source, image_file
from sdclr.decoding.workers import items_in_order
from sdclr.errors import BadImageError
from sdclr.files import temporary_array
from sdclr.mining.same_picture import LOOK, Match, full_size, look, same_picture
from sdclr.progress import stage

_MIN_SIDE: Final = 256
"""Minimum shorter side of a JPEG decoded at reduced scale."""

_READ: Final = 32
_COMPARED: Final = 256
"""Number of images, and of pairs, per worker task."""


class Looks:
    """The looks of some images of a source, by position.

    Args:
        positions: (M,) positions in the source, ascending.
        table: (M,) looks of these images.
    """

    def __init__(self, positions: NDArray[np.int64], table: NDArray[Any]) -> None:
        self.positions, self.table = positions, table
        self.good = np.asarray(table["height"] > 0)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the file name instead of the data, for processes that are not forked."""
        file = getattr(self.table, "filename", None)
        return (Looks, (self.positions, self.table)) if file is None else (_opened, (self.positions, file))

    def __len__(self) -> int:
        """Number of readable images."""
        return int(self.good.sum())

    def rows(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row of each position."""
        return np.searchsorted(self.positions, positions)

    def compare(self, one: int, other: int) -> Match | None:
        """Match of the images at two positions, or None if they do not show the same picture."""
        first, second = self.rows(np.array([one, other])).tolist()
        if not (self.good[first] and self.good[second]):
            return None
        return same_picture(self.table[first], self.table[second])

    def digest(self, position: int) -> bytes:
        """Digest of the image's pixels."""
        return bytes(self.table["digest"][int(self.rows(np.array([position]))[0])])

    def value(self, position: int) -> tuple[int, int, int, int]:
        """Sort key, smallest for the image to keep: most pixels, then color, most bytes, first in the source."""
        row = self.table[int(self.rows(np.array([position]))[0])]
        return -int(row["pixels"]), -int(row["colored"]), -int(row["bytes"]), position


def _opened(positions: NDArray[np.int64], file: str) -> Looks:
    return Looks(positions, np.memmap(file, dtype=LOOK, mode="r", shape=(len(positions),)))


@contextmanager
def read_looks(
    source: Source,
    positions: NDArray[np.int64],
    *,
    folder: Path | None = None,
    workers: int = 0,
) -> Iterator[Looks]:
    """Decode images and provide their looks until the context ends.

    Args:
        source: The images.
        positions: (M,) positions of the images to read, ascending.
        folder: Folder of the temporary file; by default the system's folder for such files.
        workers: Number of decoding processes.

    Raises:
        InputError: The source as a whole cannot be read.
        StorageError: There is no space for the temporary file.
    """
    with temporary_array(folder, "looks", len(positions), LOOK) as table:
        if not len(positions):
            yield Looks(positions, table)
            return
        with stage("reading candidates for near-duplicates", len(positions)) as update:
            done = 0
            for block in items_in_order(_Reading(source, positions), workers):
                table[done : done + len(block)] = block
                done += len(block)
                update(done)
        yield Looks(positions, table)


def compare_pairs(looks: Looks, pairs: NDArray[np.int64], *, workers: int = 0) -> Iterator[tuple[int, int, Match]]:
    """Yield those of the pairs (P, 2) of positions that show the same picture, in order, using worker processes."""
    enough = workers if len(pairs) > 4 * _COMPARED else 0
    with stage("comparing candidates for near-duplicates", len(pairs), unit="pairs") as update:
        for number, block in enumerate(items_in_order(_Comparing(looks, pairs), enough), start=1):
            yield from block
            update(min(number * _COMPARED, len(pairs)))


class _Reading(Dataset[NDArray[Any]]):
    """The looks of a source's images, in blocks. Images that cannot be decoded have height 0."""

    def __init__(self, source: Source, positions: NDArray[np.int64]) -> None:
        self.source, self.positions = source, positions

    def __len__(self) -> int:
        return math.ceil(len(self.positions) / _READ)

    def __getitem__(self, number: int) -> NDArray[Any]:
        asked = self.positions[number * _READ : (number + 1) * _READ].tolist()
        block = np.zeros(len(asked), dtype=LOOK)
        for row, position in enumerate(asked):
            try:
                image = self.source.image(position, min_side=_MIN_SIDE)
            except BadImageError:
                continue
            pixels, size = full_size(image_file(self.source, position), image)
            block[row] = look(image, pixels=pixels, size=size)
        return block


class _Comparing(Dataset[list[tuple[int, int, Match]]]):
    """Pairs of positions, compared in blocks."""

    def __init__(self, looks: Looks, pairs: NDArray[np.int64]) -> None:
        self.looks, self.pairs = looks, pairs

    def __len__(self) -> int:
        return math.ceil(len(self.pairs) / _COMPARED)

    def __getitem__(self, number: int) -> list[tuple[int, int, Match]]:
        found = []
        for one, other in self.pairs[number * _COMPARED : (number + 1) * _COMPARED].tolist():
            match = self.looks.compare(one, other)
            if match is not None:
                found.append((one, other, match))
        return found
