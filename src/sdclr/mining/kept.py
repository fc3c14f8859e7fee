"""A reading on disk: tables of features, and one file per chunk with checksums of its rows.

Damaged chunks are reported and read again from the images; see `sdclr.mining.reading`.
"""

import io
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sdclr.errors import DamagedFileError
from sdclr.files import (
    check_array,
    damaged,
    mapped_array,
    new_array,
    parsing,
    read_array,
    read_arrays,
    read_json,
    remove,
    write_atomically,
    write_json,
)
from sdclr.progress import tell

GUARD: Final = "reading.json"
"""File with the description of a folder's reading."""
FEATURES: Final = "features.npy"
PROJECTIONS: Final = "projections.npy"

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
"""Shapes of tables by file name."""
Table: TypeAlias = "np.memmap[Any, np.dtype[np.float32]]"
AGAIN: Final = "its images are read again"
"""Consequence of damage, for messages."""


def held(folder: Path, wanted: dict[str, Any], shapes: Shapes) -> bool:
    """Whether a folder has a reading of the same images, networks and plan, complete or not.

    Args:
        folder: Folder of the reading.
        wanted: Description of the reading, as JSON values.
        shapes: Shapes of its tables.

    Raises:
        DamagedFileError: The description or a table is damaged.
    """
    if not all(os.path.lexists(folder / name) for name in (GUARD, *shapes)):
        return False
    if read_json(folder / GUARD, AGAIN) != wanted:
        return False
    for name, shape in shapes.items():
        check_array(folder / name, read_array(folder / name, AGAIN, mode="r"), shape, np.float32, AGAIN)
    return True


def is_held(folder: Path, wanted: dict[str, Any], shapes: Shapes) -> bool:
    """`held` with the same arguments, but damage is reported and gives False."""
    try:
        return held(folder, wanted, shapes)
    except DamagedFileError as error:
        tell(str(error))
        return False


def settle(folder: Path, wanted: dict[str, Any], shapes: Shapes) -> None:
    """Start a reading in a folder. Same arguments as `held`."""
    for path in (folder / GUARD, folder / FEATURES, folder / PROJECTIONS, *folder.glob("chunk-*.npz")):
        remove(path)
    for name, shape in shapes.items():
        new_array(folder / name, shape, np.float32)
    write_json(folder / GUARD, wanted)  # last: without this file, the folder has no reading


def chunk_file(folder: Path, number: int) -> Path:
    """File of a chunk's data outside the tables."""
    return folder / f"chunk-{number:06d}.npz"


def open_tables(folder: Path, shapes: Shapes, size: int, columns: int) -> tuple[list[Any], list[range]]:
    """The mapped tables of a reading, and the position ranges of missing or damaged chunks.

    Tables are writable if chunks are missing. A finished reading may be on a read-only disk.

    Args:
        folder: Folder of the reading.
        shapes: Shapes of its tables.
        size: Number of images per chunk.
        columns: Number of values per image outside the tables.
    """
    tables = [read_array(folder / name, AGAIN, mode="c") for name in shapes]
    missing = missing_chunks(folder, tables, size, columns)
    return ([mapped_array(folder / name) for name in shapes] if missing else tables), missing


def missing_chunks(folder: Path, tables: Sequence[NDArray[Any]], size: int, columns: int) -> list[range]:
    """Missing or damaged chunks, as in `open_tables`. Reports damaged chunks and removes their files."""
    total, missing, damage = len(tables[0]), list[range](), list[str]()
    for begin in range(0, total, size):
        chunk, path = range(begin, min(begin + size, total)), chunk_file(folder, begin // size)
        try:
            if os.path.lexists(path):
                read = read_chunk(path)
                check_array(path, read.values, (len(chunk), columns), np.float32, AGAIN)
                if read.sums.tolist() != [checksum(table[chunk.start : chunk.stop]) for table in tables]:
                    what = f"rows {chunk.start} to {chunk.stop - 1} have another checksum"
                    raise damaged(folder / FEATURES, what, AGAIN)
                continue
        except DamagedFileError as error:
            damage.append(str(error))
            remove(path)
        missing.append(chunk)
    if damage:
        tell(damage[0] + (f" (and {len(damage) - 1} more)" if len(damage) > 1 else ""))
    return missing


def checksum(rows: NDArray[np.float32]) -> int:
    """CRC-32 of some rows of a table."""
    return zlib.crc32(np.ascontiguousarray(rows).reshape(-1).data)


class Chunk(NamedTuple):
    """Data of a chunk outside the tables."""

    values: NDArray[np.float32]
    """(n, columns) values."""
    bad: dict[int, str]
    """Reason by position."""
    sums: NDArray[np.int64]
    """Checksum of its rows in each table."""


def read_chunk(path: Path) -> Chunk:
    """Read a file of `write_chunk`.

    Raises:
        DamagedFileError: It is not such a file.
    """
    found = read_arrays(path, ("values", "bad", "reasons", "sums"), AGAIN)
    with parsing(path, AGAIN):
        bad = dict(zip(found["bad"].tolist(), json.loads(str(found["reasons"])), strict=True))
    return Chunk(found["values"], bad, found["sums"])


def write_chunk(path: Path, values: NDArray[np.float32], bad: Sequence[tuple[int, str]], sums: Sequence[int]) -> None:
    """Write the data of a chunk atomically.

    Args:
        path: The file.
        values: (n, columns) values.
        bad: Position and reason of each unreadable image.
        sums: Checksum of its rows in each table.
    """
    buffer = io.BytesIO()
    np.savez(
        buffer,
        values=values,
        bad=np.array([position for position, _ in bad], dtype=np.int64),
        reasons=np.array(json.dumps([reason for _, reason in bad])),
        sums=np.array(sums, dtype=np.int64),
    )
    write_atomically(path, buffer.getbuffer())
