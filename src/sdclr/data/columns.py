"""Columns of Parquet files, read in bounded memory.

A file of a few kilobytes may claim, or expand to, many gigabytes: repeated values are stored once, and zeros compress
to almost nothing. The sizes in a file's metadata are those of the stored pages, not of the rows, and may be wrong. So
rows are counted first, columns are read in parts, repeated texts are held once, and the bytes read are counted.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sdclr.files import damaged, open_table, parsing
from sdclr.limits import COLUMNS, LIST, ROWS, TABLE, TEXT

FETCH: Final = "check the path, or fetch the file again"
"""Remedy for a damaged file."""
AT_ONCE: Final = 4096
"""Number of rows that are read at once."""
_FEW: Final = 256
"""Number of rows of variable-length lists that are read at once."""
_LIST_NUMBERS: Final = 2**20
"""Number of list values that are read at once, for lists of a fixed length."""


def open_parquet(path: Path, *, dictionaries: Sequence[str] = ()) -> pq.ParquetFile:
    """Open a Parquet file, memory-mapped.

    Args:
        path: The file.
        dictionaries: Columns of texts or bytes whose equal values are held once.

    Raises:
        InputError: The file is missing, or has more rows or columns than the limits allow.
        DamagedFileError: The file is not Parquet, or is damaged.
    """
    file = open_table(path, FETCH, memory_map=True, dictionaries=dictionaries)
    COLUMNS.check(file.metadata.num_columns, f"{path}: has {{}} columns")
    ROWS.check(file.metadata.num_rows, f"{path}: has {{}} rows")
    return file


def description(path: Path) -> pq.ParquetFile:
    """A closed Parquet file, for its metadata and schema: a data set may have hundreds of files.

    Raises:
        InputError: As `open_parquet`.
    """
    with open_parquet(path) as file:
        return file


def read_values(path: Path, name: str) -> list[Any]:
    """The values of one column as Python objects; equal texts share one object.

    Raises:
        InputError: A text or list is too long, or the values take too much memory.
        DamagedFileError: The column is damaged.
    """
    values: list[Any] = []
    total = 0
    with parsing(path, FETCH):
        for part in read_parts(path, name):
            total += _expanded(part, path, name)
            TABLE.check(total, f"{path}: the column `{name}` takes {{}} bytes or more")
            if pa.types.is_dictionary(part.type):
                known = [*part.dictionary.to_pylist(), None]
                indices = part.indices.fill_null(len(known) - 1).to_numpy(zero_copy_only=False)
                values += [known[index] for index in indices.tolist()]
            else:
                values += part.to_pylist()
    return values


def read_parts(path: Path, name: str) -> Iterator[pa.Array]:
    """Read one column in parts; texts as dictionaries, one row group at a time.

    Raises:
        InputError: A list is too long, or the stored pages of a row group take too much memory.
        DamagedFileError: The column is damaged.
    """
    with parsing(path, FETCH):
        yield from _parts(path, name)


def _parts(path: Path, name: str) -> Iterator[pa.Array]:
    opened = open_parquet(path)
    kind = opened.schema_arrow.field(name).type
    inner = kind.value_type if is_list(kind) else kind
    text = _is_text(inner)
    stored = stored_columns(opened, name)
    if text:
        # Dictionaries grow with each part of a row group, so each group is one part.
        paths = [opened.schema.column(number).path for number in stored]
        opened = open_parquet(path, dictionaries=paths)
    for number in range(opened.metadata.num_row_groups):
        # One thread: Arrow's pool does not survive the fork that starts data loading workers.
        read = partial(opened.iter_batches, row_groups=[number], columns=[name], use_threads=False)
        # Reading the size from a damaged column's metadata crashes the process, but reading the column raises.
        next(read(batch_size=1), None)
        group = opened.metadata.row_group(number)
        columns = [group.column(place) for place in stored]
        what = f"{path}: the column `{name}` takes {{}} bytes or more"
        if text:
            TABLE.check(sum(column.total_uncompressed_size for column in columns), what)
            rows = max(1, group.num_rows)
        elif is_list(kind):
            TABLE.check(sum(column.num_values for column in columns) * _width(inner), what)
            length = kind.list_size if pa.types.is_fixed_size_list(kind) else 0
            LIST.check(length, f"{path}: the column `{name}` has lists of {{}} values")
            rows = max(1, min(AT_ONCE, _LIST_NUMBERS // length)) if length else _FEW
        else:
            rows = AT_ONCE
        found = 0
        for batch in read(batch_size=rows):
            found += len(batch)
            yield _checked(batch.column(0), path, name)
        check_rows(path, found, group.num_rows, number)


def check_rows(path: Path, found: int, rows: int, group: int) -> None:
    """Check the number of rows that were read from a row group: Arrow ends a damaged column early, without an error.

    Raises:
        DamagedFileError: The number is wrong.
    """
    if found != rows:
        raise damaged(path, f"row group {group} has {rows:,} rows, but {found:,} of them can be read", FETCH)


def _checked(part: pa.Array, path: Path, name: str) -> pa.Array:
    part.validate(full=True)  # a damaged page may refer to values that do not exist
    if is_list(part.type) and len(part):
        longest = pc.max(pc.list_value_length(part)).as_py() or 0
        LIST.check(longest, f"{path}: the column `{name}` has a list of {{}} values")
    return part


def is_list(kind: pa.DataType) -> bool:
    """Whether a column of this type holds lists."""
    return any(check(kind) for check in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))


def _is_text(kind: pa.DataType) -> bool:
    checks = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    return any(check(kind) for check in checks)


def stored_columns(file: pq.ParquetFile, name: str) -> list[int]:
    """Numbers of the file's columns that store one column of the table: several if it is nested."""
    paths = [file.schema.column(number).path for number in range(len(file.schema))]
    return [number for number, path in enumerate(paths) if path == name or path.startswith(f"{name}.")]


def _width(kind: pa.DataType) -> int:
    try:
        return max(1, int(kind.bit_width) // 8)
    except ValueError:  # types such as texts have no fixed width
        return 1


def _expanded(part: pa.Array, path: Path, name: str) -> int:
    """Bytes that the values of a part take; equal values count each time they occur."""
    if is_list(part.type):
        return 8 * len(part) + _expanded(part.flatten(), path, name)
    if not pa.types.is_dictionary(part.type) or not _is_text(part.type.value_type):
        return int(part.nbytes)
    lengths: NDArray[np.int64] = pc.binary_length(part.dictionary).fill_null(0).to_numpy(zero_copy_only=False)
    if not len(lengths):
        return 0
    TEXT.check(int(lengths.max()), f"{path}: the column `{name}` has a text of {{}} bytes")
    indices = part.indices.drop_null().to_numpy(zero_copy_only=False)
    return int(lengths[indices].sum())
