"""Encoded images in the rows of Parquet files, read in bounded memory."""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sdclr.data.columns import check_rows, open_parquet, stored_columns
from sdclr.errors import InputError
from sdclr.files import parsing
from sdclr.limits import ROW_GROUP

CACHE_BYTES = 256 * 2**20
"""Encoded bytes that each process keeps (at least one row group, or the last image of a large one)."""

_OPEN: Final = 8
"""Number of files that each process keeps open: a set may have more files than the system allows."""

_REWINDS: Final = 16
"""Number of times that a large row group may be read again from its start. After that, reading raises an error."""


class EncodedRows:
    """The encoded images in the rows of parquet files.

    A row group is read as a whole and kept in memory, with equal images stored once. A row group above the limit
    `ROW_GROUP` is read image by image from its start, which is fast only if images are read in order.

    Args:
        files: The files.
        column: The column of the images, or a field of it ("image.bytes").
    """

    def __init__(self, files: Sequence[Path], column: str) -> None:
        self._files, self._column = tuple(files), column
        self._places: list[tuple[int, int]] = []
        sizes: list[int] = []
        self._reset()
        for number in range(len(self._files)):
            metadata = self._file(number).metadata
            self._places += [(number, group) for group in range(metadata.num_row_groups)]
            sizes += [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._ends: NDArray[np.int64] = np.cumsum(sizes, dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in ("_files", "_column", "_places", "_ends")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    def forget(self) -> None:
        """Release the row groups in memory."""
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[tuple[int, bool], pq.ParquetFile] = OrderedDict()
        self._kept: OrderedDict[tuple[int, int], pa.Array | pa.ChunkedArray] = OrderedDict()
        self._parts: tuple[int, Iterator[tuple[int, pa.Array]]] | None = None
        self._held = self._next = 0
        self._rewound: dict[int, int] = {}
        self._sizes: dict[tuple[int, int], int] = {}

    def __getitem__(self, index: int) -> bytes | None:
        """The bytes of one row; None if it has none.

        Raises:
            InputError: The rows of the row group take too much memory.
            DamagedFileError: The row group is damaged.
        """
        group, row = self._find(index)
        with self._lock:
            first, rows = self._rows(group, row)
        data: bytes | None = rows[row - first].as_py()
        return data

    def place(self, index: int) -> tuple[Path, int]:
        """The file of a row, and the row's number in that file."""
        index = range(len(self))[index]
        group, _ = self._find(index)
        number, place = self._places[group]
        before = int(self._ends[group - place - 1]) if group > place else 0  # rows of the files before
        return self._files[number], index - before

    def groups(self) -> NDArray[np.int64]:
        """`(N,)` number of the row group of each row, counted over all files."""
        return np.repeat(np.arange(len(self._ends)), np.diff(self._ends, prepend=0))

    def _find(self, index: int) -> tuple[int, int]:
        index = range(len(self))[index]
        group = int(np.searchsorted(self._ends, index, side="right"))
        return group, index - (int(self._ends[group - 1]) if group else 0)

    def _file(self, number: int, *, whole: bool = True) -> pq.ParquetFile:
        if (number, whole) not in self._open:
            # A dictionary stores equal images once. With reading in parts, it would grow with each part.
            dictionaries = [self._column] if whole else []
            self._open[number, whole] = open_parquet(self._files[number], dictionaries=dictionaries)
            if len(self._open) > _OPEN:
                self._open.popitem(last=False)  # readers in progress keep it open
        self._open.move_to_end((number, whole))
        return self._open[number, whole]

    def _rows(self, group: int, row: int) -> tuple[int, pa.Array | pa.ChunkedArray]:
        """Rows of a group that include the requested row, and the number of the first of them."""
        number, place = self._places[group]
        with parsing(self._files[number], f"fetch the file again (row group {place})"):
            large = self._stored(number, place) > ROW_GROUP.value
            key = (group, row if large else 0)
            if key in self._kept:
                self._kept.move_to_end(key)
                return key[1], self._kept[key]
            if large:
                return self._advanced(group, row)
            metadata = self._file(number).metadata.row_group(place)
            rows = pa.chunked_array([part for _, part in self._read(group, max(1, metadata.num_rows), whole=True)])
        self._keep(key, rows)
        return 0, rows

    def _stored(self, number: int, place: int) -> int:
        """Uncompressed bytes of a row group's images, according to its metadata."""
        if (number, place) not in self._sizes:
            file = self._file(number)
            # Reading the size from a damaged column's metadata crashes the process, but reading the column raises.
            next(file.iter_batches(batch_size=1, row_groups=[place], columns=[self._column], use_threads=False), None)
            group = file.metadata.row_group(place)
            columns = [group.column(column) for column in stored_columns(file, self._column)]
            self._sizes[number, place] = sum(column.total_uncompressed_size for column in columns)
        return self._sizes[number, place]

    def _advanced(self, group: int, row: int) -> tuple[int, pa.Array]:
        """The part of a large group that contains a row; reading continues after the previous part."""
        if self._parts is None or self._parts[0] != group or row < self._next:
            self._rewound[group] = self._rewound.get(group, -1) + 1
            if self._rewound[group] > _REWINDS:
                number, place = self._places[group]
                ROW_GROUP.check(
                    self._stored(number, place),
                    f"{self._files[number]}: images are asked for in random order, for which row groups must be small "
                    f"(write it with row_group_size=100), and row group {place} has {{}} bytes",
                )
            self._parts, self._next = (group, self._read(group, 1, whole=False)), 0
        for first, part in self._parts[1]:
            self._next = first + len(part)
            self._keep((group, first), part)
            if row < self._next:
                return first, part
        number, place = self._places[group]
        raise InputError(f"{self._files[number]}: row group {place} has too few rows; fetch the file again")

    def _read(self, group: int, rows: int, *, whole: bool) -> Iterator[tuple[int, pa.Array]]:
        """The rows of a group in parts, each with the number of its first row."""
        number, place = self._places[group]
        file = self._files[number]
        # One thread: Arrow's pool does not survive the fork that starts data loading workers.
        batches = self._file(number, whole=whole).iter_batches(
            batch_size=rows, row_groups=[place], columns=[self._column], use_threads=False
        )
        first = 0
        for batch in batches:
            column = batch.column(0)
            column.validate(full=True)  # a damaged page may refer to values that do not exist
            column = pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column
            ROW_GROUP.check(column.nbytes, f"{file}: images of row group {place} have {{}} bytes")
            yield first, column
            first += len(column)
        check_rows(file, first, self._file(number, whole=whole).metadata.row_group(place).num_rows, place)

    def _keep(self, key: tuple[int, int], rows: pa.Array | pa.ChunkedArray) -> None:
        self._kept[key] = rows
        self._held += rows.nbytes
        while len(self._kept) > 1 and self._held > CACHE_BYTES:
            self._held -= self._kept.popitem(last=False)[1].nbytes
