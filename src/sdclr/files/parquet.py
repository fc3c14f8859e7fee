"""Parquet files with checksums of pages and schema, which are checked on reading."""

import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sdclr.files.reading import COPY, damaged, parsing

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

CHECKED: Final[dict[str, Any]] = {"write_page_checksum": True}
"""Options for writing the Parquet files of this package."""
_SEAL: Final = b"sdclr-checksum"
_ARROW: Final = b"ARROW:schema"


def sealed(schema: "pa.Schema") -> "pa.Schema":
    """Add a checksum of columns and metadata to a schema; Parquet's page checksums do not cover them."""
    metadata = schema.metadata or {}
    return schema.with_metadata({**metadata, _SEAL: _checksum(schema, metadata)})


def parquet_bytes(table: "pa.Table", **options: Any) -> memoryview:
    """The bytes of a Parquet file with checksums.

    Args:
        table: Its contents, with metadata.
        options: Options of `pyarrow.parquet.write_table`.
    """
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(sealed(table.schema).metadata), buffer, **CHECKED, **options)
    return buffer.getbuffer()


def open_table(
    path: Path, remedy: str = COPY, *, memory_map: bool = False, dictionaries: Sequence[str] = ()
) -> "pq.ParquetFile":
    """Open a Parquet file. Read from it inside `parsing`, which names the file if a page of it is damaged.

    Args:
        path: The file.
        remedy: How to create the file again.
        memory_map: Map the file into memory.
        dictionaries: Columns of texts or bytes whose equal values are held once.

    Raises:
        InputError: The file is missing, or there is no permission.
        DamagedFileError: The file is not a Parquet file, is truncated, or its metadata is damaged.
    """
    import pyarrow.parquet as pq

    with parsing(path, remedy):
        file = pq.ParquetFile(
            path, memory_map=memory_map, page_checksum_verification=True, read_dictionary=list(dictionaries)
        )
        groups = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
        if min(groups, default=0) < 0 or sum(groups) != file.metadata.num_rows:
            raise damaged(path, f"it claims {file.metadata.num_rows:,} rows, and its parts {sum(groups):,}", remedy)
        # The file holds its metadata twice: directly, and in Arrow's schema.
        for metadata in (file.metadata.metadata or {}, file.schema_arrow.metadata or {}):
            told = metadata.get(_SEAL)
            if told is not None and told != _checksum(file.schema_arrow, metadata):
                raise damaged(path, "its description was changed: it has another checksum", remedy)
        return file


def read_table(path: Path, remedy: str = COPY, *, columns: Sequence[str] | None = None) -> "pa.Table":
    """The table of a Parquet file.

    Args:
        path: The file.
        remedy: How to create the file again.
        columns: Names of the columns; by default all.

    Raises:
        InputError: The file is missing, or there is no permission.
        DamagedFileError: The file is not a Parquet file, is damaged or lacks one of the columns.
    """
    with parsing(path, remedy), open_table(path, remedy) as file:
        lacking = [name for name in columns or () if name not in file.schema_arrow.names]
        if lacking:
            raise damaged(path, f"it has no column {lacking[0]!r}", remedy)
        return file.read(columns=None if columns is None else list(columns), use_threads=False)


def _checksum(schema: "pa.Schema", metadata: Mapping[bytes, bytes]) -> bytes:
    digest = hashlib.sha256()
    for field in schema:
        digest.update(f"{field.name!r} {_kind(field.type)}\n".encode())
    for key, value in sorted(metadata.items()):
        if key not in {_SEAL, _ARROW}:
            digest.update(key + b"\0" + value + b"\0")
    return digest.hexdigest().encode()


def _kind(kind: "pa.DataType") -> str:
    """Description of a type, without the names of list items, which Parquet changes, and without dictionaries."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return _kind(kind.value_type)
    if not kind.num_fields:
        return str(kind)
    return f"{kind.id} {getattr(kind, 'list_size', '')} {[_kind(kind.field(at).type) for at in range(kind.num_fields)]}"
