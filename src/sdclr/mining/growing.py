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
"""What a reading is known by that may differ for it to be taken over; all else is the encoder or a setting."""


class Stock(NamedTuple):
    """The N images of now, compared with those that were there before."""

    since: NDArray[np.int64]
    """(N,) when each came or changed, in seconds since 1970; 0 for those of the first call."""
    grown: Grown


class Carried(NamedTuple):
    """What an earlier reading holds of some of the N images."""

    rows: NDArray[np.int64]
    """(N,) their rows in it; -1 for all others."""
    tables: Sequence[NDArray[np.float32]]
    values: NDArray[np.float32]
    bad: dict[int, str]
    """Reason by row."""

    def into(
        self, begin: int, tables: Sequence[NDArray[np.float32]], values: NDArray[np.float32]
    ) -> list[tuple[int, str]]:
        """Copy what is held of a chunk.

        Args:
            begin: Its first position.
            tables: Of the reading that takes over.
            values: (n, columns) of the chunk, which get what is known beside.

        Returns:
            Position and reason of the images that cannot be used.
        """
        rows = self.rows[begin : begin + len(values)]
        places = np.flatnonzero(rows >= 0)
        for table, old in zip(tables, self.tables, strict=True):
            table[begin + places] = old[rows[places]]
        values[places] = self.values[rows[places]]
        held = zip((begin + places).tolist(), rows[places].tolist(), strict=True)
        return [(position, self.bad[row]) for position, row in held if row in self.bad]


def described(source: Source, versions: NDArray[np.int64]) -> dict[str, Any]:
    """What images are known by, as plain JSON."""
    digest = hashlib.sha256(versions.astype("<i8").tobytes()).hexdigest()
    return {"source": fingerprint(source), "images": len(source), "versions": digest}


def begin_reading(
    source: Source, versions: NDArray[np.int64], wanted: dict[str, Any], shapes: Shapes, folder: Path
) -> Stock:
    """Begin a reading unless it lies in the folder, and compare its images with those that were there before.

    Args:
        source: The N images.
        versions: (N,), as `image_versions` gives them.
        wanted: What the reading is known by.
        shapes: Of its tables.
        folder: Where it is kept.
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
        remove(folder.parent / "duplicates.json")  # it knows images by their names
    return stock


def _set_aside(folder: Path, wanted: dict[str, Any]) -> None:
    """Make room for another reading. Keeps the one that is there if the next can take over from it."""
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
    why = "the encoder has" if "networks" in differ else "settings have" if differ else "the version of sdclr has"
    tell(f"{why} changed since {folder} was made: all {wanted['images']:,} images are embedded again")
    for path in earlier(folder):
        remove(path)


def earlier(folder: Path) -> list[Path]:
    """Readings that were set aside, the newest first."""
    return sorted(folder.parent.glob(f"{folder.name}-before-*"), reverse=True)


def _take_stock(ids: Sequence[str], versions: NDArray[np.int64], folder: Path) -> Stock:
    """Compare images with those of the reading that lies in a folder and of earlier ones."""
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
    """What earlier readings hold of the images; of several the newest counts. Tells of damaged ones.

    Args:
        ids: N.
        versions: (N,).
        folder: Where the reading is kept.
        wanted: What it is known by.
        shapes: Of its tables.
        chunk: Images of a chunk.
        columns: How many values are known of an image beside.
        drawn: Whether augmented views were looked at: they depend on an image's position, which must be the same.
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
    """Positions of a chunk that no earlier reading holds."""
    there = np.zeros(len(chunk), dtype=bool)
    for part in known:
        there |= part.rows[chunk.start : chunk.stop] >= 0
    return (np.flatnonzero(~there) + chunk.start).tolist()


def _beside(
    place: Path, there: NDArray[np.bool_], size: int, shape: tuple[int, int]
) -> tuple[NDArray[np.float32], dict[int, str]]:
    """What a reading knows of its images beside its tables, from the chunks that are there."""
    values, bad = np.empty(shape, dtype=np.float32), dict[int, str]()
    for number in np.flatnonzero(there).tolist():
        known = read_chunk(chunk_file(place, number))
        values[number * size : (number + 1) * size] = known.values
        bad |= known.bad
    return values, bad


def known_images(ids: Sequence[str], versions: NDArray[np.int64], folder: Path, wanted: dict[str, Any]) -> int:
    """How many images a reading of others could take over from the one in a folder."""
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
    """The images of a reading; None where it has none, or a damaged list."""
    try:
        return read_table(folder / IMAGES, columns=("id", "version", "since", "file"))
    except InputError:
        return None


def _differ(before: dict[str, Any], wanted: dict[str, Any]) -> set[str]:
    """What of the encoder and the settings differs."""
    return {name for name in wanted.keys() - _OF_IMAGES if before.get(name) != wanted[name]}
