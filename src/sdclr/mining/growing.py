"""Growing collections: reuse of the features of unchanged images.

A reading stores the id and the version of each image. When images are added, changed or removed, the reading is set
aside, and the next one reuses its features of all other images. Interrupted readings are also set aside, until one is
complete.
"""

import hashlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sdclr.data.changes import Grown, ids_as_bytes, rows_in
from sdclr.data.sources import Source, fingerprint, image_file
from sdclr.errors import InputError
from sdclr.files import (
    check_array,
    parquet_bytes,
    read_array,
    read_json,
    read_table,
    remove,
    rename_folder,
    write_atomically,
)
from sdclr.mining.kept import AGAIN, GUARD, Shapes, Table, chunk_file, is_held, missing_chunks, read_chunk, settle
from sdclr.progress import tell

IMAGES: Final = "images.parquet"
"""File with the ids, versions and dates of a reading's images."""
_OF_IMAGES: Final = {"source", "images", "versions"}
"""Keys of a reading's description that may differ if it is reused. All others are of the encoder or the settings."""


class Stock(NamedTuple):
    """The N current images, compared with earlier ones."""

    since: NDArray[np.int64]
    """(N,) seconds since 1970 when each image was added or changed; 0 for those of the first call."""
    grown: Grown


class Carried(NamedTuple):
    """Data of some of the N images in an earlier reading."""

    rows: NDArray[np.int64]
    """(N,) rows in the earlier reading; -1 for images that it does not have."""
    tables: Sequence[NDArray[np.float32]]
    values: NDArray[np.float32]
    bad: dict[int, str]
    """Reason by row."""

    def into(
        self, begin: int, tables: Sequence[NDArray[np.float32]], values: NDArray[np.float32]
    ) -> list[tuple[int, str]]:
        """Copy the known data of a chunk into a new reading.

        Args:
            begin: First position of the chunk.
            tables: Tables of the new reading, to write to.
            values: (n, columns) other values of the chunk, to write to.

        Returns:
            Position and reason of each unreadable image.
        """
        rows = self.rows[begin : begin + len(values)]
        places = np.flatnonzero(rows >= 0)
        for table, old in zip(tables, self.tables, strict=True):
            table[begin + places] = old[rows[places]]
        values[places] = self.values[rows[places]]
        held = zip((begin + places).tolist(), rows[places].tolist(), strict=True)
        return [(position, self.bad[row]) for position, row in held if row in self.bad]


def described(source: Source, versions: NDArray[np.int64]) -> dict[str, Any]:
    """Description of images, as JSON values."""
    digest = hashlib.sha256(versions.astype("<i8").tobytes()).hexdigest()
    return {"source": fingerprint(source), "images": len(source), "versions": digest}


def begin_reading(
    source: Source, versions: NDArray[np.int64], wanted: dict[str, Any], shapes: Shapes, folder: Path
) -> Stock:
    """Start a reading unless the folder has it, and compare its images with earlier ones.

    Args:
        source: The N images.
        versions: (N,), from `image_versions`.
        wanted: Description of the reading.
        shapes: Shapes of its tables.
        folder: Folder of the reading.
    """
    fresh = not is_held(folder, wanted, shapes)
    if fresh:
        _set_aside(folder, wanted)
    stock = _take_stock(source.ids, versions, folder)
    if fresh:
        files = [_file(source, position) for position in range(len(source))]
        table = pa.table(
            {
                "id": ids_as_bytes(source.ids),
                "version": versions,
                "since": stock.since,
                "file": pa.array(files, pa.binary()),
            }
        )
        write_atomically(folder / IMAGES, parquet_bytes(table))
        settle(folder, wanted, shapes)
        remove(folder.parent / "duplicates.json")  # it identifies images only by their ids
    return stock


def _set_aside(folder: Path, wanted: dict[str, Any]) -> None:
    """Move the current reading aside if the next one can reuse it. Otherwise remove earlier readings."""
    try:
        before = read_json(folder / GUARD)
    except InputError:  # none, or a damaged one
        return
    if before == wanted:
        return
    differ = _differ(before, wanted)
    if not differ and (folder / IMAGES).is_file():
        rename_folder(folder, f"{folder.name}-before-{len(earlier(folder)):03d}")
        return
    if "encoder" in differ:
        why = "the encoder has"
    elif differ:
        why = "the measures or settings (ratios, views, loss, image size) have"
    else:
        why = "the version of sdclr has"
    tell(f"{why} changed since {folder} was made: all {wanted['images']:,} images are embedded again")
    for path in earlier(folder):
        remove(path)


def earlier(folder: Path) -> list[Path]:
    """Readings that were set aside, newest first."""
    return sorted(folder.parent.glob(f"{folder.name}-before-*"), reverse=True)


def _take_stock(ids: Sequence[str], versions: NDArray[np.int64], folder: Path) -> Stock:
    """Compare images with those of the reading in a folder and of earlier readings."""
    tables = [table for place in (folder, *earlier(folder)) if (table := images_of(place)) is not None]
    since = np.zeros(len(ids), dtype=np.int64)
    if not tables:
        return Stock(since, Grown(0, 0, 0))
    since[:] = int(time.time())
    for table in reversed(tables):
        rows = rows_in(table["id"], ids)
        same = (rows >= 0) & (_numbers(table, "version")[rows] == versions)
        since[same] = _numbers(table, "since")[rows[same]]
    last = tables[min(1, len(tables) - 1)] if images_of(folder) is not None else tables[0]
    rows = rows_in(last["id"], ids)
    return Stock(since, Grown.of(rows, _numbers(last, "version")[rows] == versions, len(last)))


def carried(
    ids: Sequence[str],
    versions: NDArray[np.int64],
    folder: Path,
    wanted: dict[str, Any],
    shapes: Shapes,
    *,
    chunk: int,
    columns: int,
    drawn: bool,
) -> list[Carried]:
    """Data of the images in earlier readings, newest first. Damaged readings are reported and skipped.

    Args:
        ids: N ids.
        versions: (N,) versions.
        folder: Folder of the reading.
        wanted: Description of the reading.
        shapes: Shapes of its tables.
        chunk: Number of images per chunk.
        columns: Number of other values per image.
        drawn: Whether augmented views are used. They depend on the position of an image, which must be unchanged.
    """
    found, missing = [], np.ones(len(ids), dtype=bool)
    for place in earlier(folder):
        table = images_of(place)
        try:
            if table is None or _differ(read_json(place / GUARD), wanted):
                continue
            tables = [cast("Table", read_array(place / name, AGAIN, mode="r")) for name in shapes]
            for (name, shape), values in zip(shapes.items(), tables, strict=True):
                check_array(place / name, values, (len(table), *shape[1:]), np.float32, AGAIN)
        except InputError as error:
            tell(str(error))
            continue
        rows = rows_in(table["id"], ids)
        rows[~missing | (_numbers(table, "version")[rows] != versions)] = -1
        if drawn:
            rows[rows != np.arange(len(rows))] = -1
        lost = np.zeros(len(table), dtype=bool)
        for part in missing_chunks(place, tables, chunk, columns):
            lost[part.start : part.stop] = True
        rows[lost[rows]] = -1
        missing &= rows < 0
        found.append(Carried(rows, tables, *_beside(place, ~lost[::chunk], chunk, (len(table), columns))))
    return found


def not_held(chunk: range, known: Sequence[Carried]) -> list[int]:
    """Positions of a chunk that are in no earlier reading."""
    there = np.zeros(len(chunk), dtype=bool)
    for part in known:
        there |= part.rows[chunk.start : chunk.stop] >= 0
    return (np.flatnonzero(~there) + chunk.start).tolist()


def _beside(
    place: Path, there: NDArray[np.bool_], size: int, shape: tuple[int, int]
) -> tuple[NDArray[np.float32], dict[int, str]]:
    """Values and reasons of a reading outside its tables, from the existing chunks."""
    values, bad = np.empty(shape, dtype=np.float32), dict[int, str]()
    for number in np.flatnonzero(there).tolist():
        known = read_chunk(chunk_file(place, number))
        values[number * size : (number + 1) * size] = known.values
        bad |= known.bad
    return values, bad


def known_images(ids: Sequence[str], versions: NDArray[np.int64], folder: Path, wanted: dict[str, Any]) -> int:
    """Number of images that a new reading could reuse from the reading in a folder."""
    table = images_of(folder)
    try:
        if table is None or _differ(read_json(folder / GUARD), wanted):
            return 0
    except InputError:
        return 0
    rows = rows_in(table["id"], ids)
    return int(((rows >= 0) & (_numbers(table, "version")[rows] == versions)).sum())


def _file(source: Source, position: int) -> bytes | None:
    file = image_file(source, position)
    return None if file is None else os.fsencode(file.absolute())


def _numbers(table: pa.Table, name: str) -> NDArray[np.int64]:
    values: NDArray[np.int64] = table[name].to_numpy()
    return values


def images_of(folder: Path) -> pa.Table | None:
    """The images of a reading; None if their list is missing or damaged."""
    try:
        return read_table(folder / IMAGES, columns=("id", "version", "since", "file"))
    except InputError:
        return None


def _differ(before: dict[str, Any], wanted: dict[str, Any]) -> set[str]:
    """Keys of the encoder and the settings that differ."""
    return {name for name in wanted.keys() - _OF_IMAGES if before.get(name) != wanted[name]}
