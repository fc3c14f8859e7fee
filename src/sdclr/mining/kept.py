"""A reading on disk: tables of features, and a file for each chunk with checksums of its rows.

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
"""File that says what a folder's reading is of."""
FEATURES: Final = "features.npy"
PROJECTIONS: Final = "projections.npy"

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
"""Of tables, by the names of their files."""
Table: TypeAlias = "np.memmap[Any, np.dtype[np.float32]]"
AGAIN: Final = "its images are read again"
"""What becomes of damage."""


def held(folder: Path, wanted: dict[str, Any], shapes: Shapes) -> bool:
    """Whether what lies in a folder was begun for the same images, networks and plan.

    Args:
        folder: Where the reading is kept.
        wanted: What it is known by, as plain JSON.
        shapes: Of its tables.

    Raises:
        DamagedFileError: If the file that says so or a table is damaged.
    """
    if not all(os.path.lexists(folder / name) for name in (GUARD, *shapes)):
        return False
    if read_json(folder / GUARD, AGAIN) != wanted:
        return False
    for name, shape in shapes.items():
        check_array(folder / name, read_array(folder / name, AGAIN, mode="r"), shape, np.float32, AGAIN)
    return True


def is_held(folder: Path, wanted: dict[str, Any], shapes: Shapes) -> bool:
    """`held`, with the same arguments. Tells of damage, which is as if nothing was there."""
    try:
        return held(folder, wanted, shapes)
    except DamagedFileError as error:
        tell(str(error))
        return False


def settle(folder: Path, wanted: dict[str, Any], shapes: Shapes) -> None:
    """Begin a reading in a folder. Arguments are those of `held`."""
    for path in (folder / GUARD, folder / FEATURES, folder / PROJECTIONS, *folder.glob("chunk-*.npz")):
        remove(path)
    for name, shape in shapes.items():
        new_array(folder / name, shape, np.float32)
    write_json(folder / GUARD, wanted)  # last: until it is there, the folder holds no reading


def chunk_file(folder: Path, number: int) -> Path:
    """Where it is kept what is known of a chunk beside its rows in the tables."""
    return folder / f"chunk-{number:06d}.npz"


def open_tables(folder: Path, shapes: Shapes, size: int, columns: int) -> tuple[list[Any], list[range]]:
    """The mapped tables of a reading, and its chunks, as positions, that are not read yet or damaged.

    Tables can be written if chunks are missing. A finished reading may lie on a read-only disk.

    Args:
        folder: Where the reading is kept.
        shapes: Of its tables.
        size: Images of a chunk.
        columns: How many values are known of an image beside.
    """
    tables = [read_array(folder / name, AGAIN, mode="c") for name in shapes]
    missing = missing_chunks(folder, tables, size, columns)
    return ([mapped_array(folder / name) for name in shapes] if missing else tables), missing


def missing_chunks(folder: Path, tables: Sequence[NDArray[Any]], size: int, columns: int) -> list[range]:
    """As in `open_tables`. Tells of damaged chunks, and removes their files."""
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
    """What is known of a chunk beside its rows in the tables."""

    values: NDArray[np.float32]
    """(n, columns)."""
    bad: dict[int, str]
    """Reason by position."""
    sums: NDArray[np.int64]
    """Checksum of its rows in each table."""


def read_chunk(path: Path) -> Chunk:
    """What `write_chunk` wrote.

    Raises:
        DamagedFileError: It is something else.
    """
    found = read_arrays(path, ("values", "bad", "reasons", "sums"), AGAIN)
    with parsing(path, AGAIN):
        bad = dict(zip(found["bad"].tolist(), json.loads(str(found["reasons"])), strict=True))
    return Chunk(found["values"], bad, found["sums"])


def write_chunk(path: Path, values: NDArray[np.float32], bad: Sequence[tuple[int, str]], sums: Sequence[int]) -> None:
    """Write what is known of a chunk, whole or not at all.

    Args:
        path: The file.
        values: (n, columns).
        bad: Position and reason of each image that cannot be used.
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
