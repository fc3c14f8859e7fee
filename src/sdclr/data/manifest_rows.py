"""The rows of a manifest, with any common delimiter, encoding and path style."""

import csv
import os
import re
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

from sdclr.data.annotations import LABEL_COLUMNS
from sdclr.data.attributes import Attributes, attribute_columns, read_attributes
from sdclr.data.columns import open_parquet, read_values
from sdclr.data.parquet import parquet_attributes
from sdclr.errors import InputError
from sdclr.files import unguarded
from sdclr.limits import COLUMNS, ROWS, TABLE, TEXT
from sdclr.progress import tell

PATH_COLUMNS: Final = ("path", "image", "file", "filename", "file_name")
"""Columns of a manifest that can name the image file; the first one present is used."""

SUFFIXES: Final = (".csv", ".tsv", ".txt", ".parquet")
"""Endings of manifests."""

_DELIMITERS: Final = ",;\t|"
_UTF16: Final = (b"\xff\xfe", b"\xfe\xff")
_WINDOWS: Final = "cp1252"
"""The Windows variant of Latin-1, with additional letters."""
_DRIVE: Final = re.compile(r"(?:[A-Za-z]:|//[^/]+)/(.*)", flags=re.DOTALL)
_TRIED: Final = 100
"""Number of paths with a drive letter that are looked up below the root."""


class ManifestRows(NamedTuple):
    """The columns of a manifest; None for missing columns."""

    paths: list[str]
    labels: list[object] | None = None
    ids: list[object] | None = None
    attributes: Attributes | None = None
    lines: list[int] | None = None
    """The line of each row in its file."""


def read_manifest(path: Path, root: Path) -> ManifestRows:
    """Read a manifest.

    Args:
        path: The manifest.
        root: The folder that its relative paths refer to.

    Raises:
        InputError: The file is missing or cannot be read as a manifest.
    """
    if not path.is_file():
        raise InputError(f"{path} is not a file; check the path of the manifest")
    TABLE.check(path.stat().st_size, f"{path}: has {{}} bytes")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{path}: does not have the name of a manifest; give a .csv, .tsv, .parquet or .txt file")
    if suffix == ".parquet":
        return _read_parquet(path)
    with path.open("rb") as file:
        encoding = "utf-16" if file.read(2) in _UTF16 else "utf-8-sig"
    try:
        if suffix == ".txt" and not _is_table(path, encoding):
            return _read_text(path, encoding)
        return _read_csv(path, root, encoding)
    except UnicodeError as error:
        reason = getattr(error, "reason", error)
        if encoding == "utf-16" or not _is_table(path, _WINDOWS):
            raise InputError(f"{path} is not UTF-8 text ({reason}); save it as UTF-8") from error
    except csv.Error as error:
        raise InputError(f"{path} is not a CSV table ({error}); save it with comma-separated columns") from error
    tell(f"{path} is not UTF-8; it is read as Latin-1 (Windows-1252)")
    return _read_csv(path, root, _WINDOWS)


def as_local(paths: Sequence[str], root: Path, manifest: Path, lines: Sequence[int] | None) -> list[str]:
    """Convert Windows paths to paths below the root; other paths stay unchanged.

    Raises:
        InputError: Paths have a drive letter, and no part of them is found below the root.
    """
    if os.name == "nt" or not any("\\" in path or path[1:2] == ":" for path in paths):
        return list(paths)
    plain = [_slashed(path, root) for path in paths]
    drives = {row: found[1] for row, path in enumerate(plain) if (found := _DRIVE.fullmatch(path)) is not None}
    drives = {row: rest for row, rest in drives.items() if not (root / plain[row]).is_file()}
    if not drives:
        return plain
    above = next((cut for rest in islice(drives.values(), _TRIED) if (cut := _above(rest, root)) is not None), None)
    if above is None:
        row = next(iter(drives))
        where = f"line {lines[row]}" if lines else f"row {row + 1}"
        raise InputError(
            f"{manifest}: {where} names {paths[row]!r}, of which no part is found below {root}; give the folder of the "
            f"images, as in {manifest},root=FOLDER"
        )
    return ["/".join(drives[row].split("/")[above:]) if row in drives else path for row, path in enumerate(plain)]


def _slashed(path: str, root: Path) -> str:
    return path if "\\" not in path or (root / path).is_file() else path.replace("\\", "/")


def _above(path: str, root: Path) -> int | None:
    """Number of leading folders of a path to remove, so that the rest is a file below the root."""
    parts = PurePosixPath(path).parts
    return next((cut for cut in range(len(parts)) if root.joinpath(*parts[cut:]).is_file()), None)


def _read_parquet(path: Path) -> ManifestRows:
    file = open_parquet(path)
    names = file.schema_arrow.names
    column = _path_column(names, path)
    label = next((name for name in LABEL_COLUMNS if name in names), None)
    paths = ["" if value is None else str(value) for value in read_values(path, column)]
    labels = read_values(path, label) if label is not None else None
    ids = read_values(path, "id") if "id" in names else None
    return ManifestRows(paths, labels, ids, parquet_attributes([(path, file)]))


def _columns(line: str, delimiter: str) -> list[str]:
    return [name.strip() for name in next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])]


def _delimiter(line: str) -> str:
    """Detect the delimiter in the first line of a table: the one that gives an image column, then the most columns."""
    columns = {delimiter: _columns(line, delimiter) for delimiter in _DELIMITERS}
    return max(_DELIMITERS, key=lambda one: (not set(PATH_COLUMNS).isdisjoint(columns[one]), len(columns[one])))


def _is_table(path: Path, encoding: str) -> bool:
    """Whether the first line of a text is a header with an image column."""
    with path.open(encoding=encoding, errors="replace", newline="") as file:
        line = file.readline(2**20)
    columns = _columns(line, _delimiter(line))
    several = len(columns) > 1 or path.suffix.lower() != ".txt"
    return several and not set(PATH_COLUMNS).isdisjoint(columns)


def _read_csv(path: Path, root: Path, encoding: str) -> ManifestRows:
    # File names that are not UTF-8 become lone surrogates, as they do from the file system.
    errors = {"utf-16": "strict", _WINDOWS: "replace"}.get(encoding, "surrogateescape")
    with path.open(encoding=encoding, errors=errors, newline="") as file:
        delimiter = _delimiter(file.readline())
        file.seek(0)
        rows = csv.DictReader(file, skipinitialspace=delimiter != "\t", delimiter=delimiter)
        names = [_checked(name.strip()) for name in rows.fieldnames or ()]
        rows.fieldnames = names
        column = _path_column(names, path)
        label = next((name for name in LABEL_COLUMNS if name in names), None)
        COLUMNS.check(len(names), f"{path}: has {{}} columns")
        wanted = dict.fromkeys(attribute_columns(names, str(path)))
        kept: dict[str, list[str]] = {name: [] for name in (column, label, "id", *wanted) if name in names}
        equal: dict[str, str] = {}
        lines = []
        for number, row in enumerate(rows, start=1):
            ROWS.check(number, f"{path}: has {{}} rows or more")
            if any(row.pop(None, ())):  # values beyond the header have no column name
                raise InputError(
                    f"{path}: line {rows.line_num} has more columns than the header; put texts that hold the delimiter "
                    f"{delimiter!r} into quotes"
                )
            _check_utf8(row, column, root)
            lines.append(rows.line_num)
            for name, values in kept.items():
                text = unguarded(row[name] or "")
                TEXT.check(len(text), f"{path}: line {rows.line_num} of the column `{name}` has {{}} characters")
                # Labels and indicators repeat: equal strings share one object.
                values.append(text if name in (column, "id") else equal.setdefault(text, text))
    paths = [entry.strip() for entry in kept[column]]
    labels: list[object] | None = list(kept[label]) if label is not None else None
    ids: list[object] | None = list(kept["id"]) if "id" in names else None
    return ManifestRows(paths, labels, ids, read_attributes({name: kept[name] for name in wanted}, str(path)), lines)


def _check_utf8(row: Mapping[str, object], column: str, root: Path) -> None:
    """Check that all values are UTF-8, except the name of an existing file and its id.

    Raises:
        UnicodeDecodeError: Another value is not UTF-8.
    """
    texts = {name: str(value or "") for name, value in row.items()}
    if all(text.isascii() for text in texts.values()):
        return
    exists = (root / texts[column].strip()).is_file()
    for name, text in texts.items():
        if not (exists and name in (column, "id")):
            _checked(text)


def _checked(text: str) -> str:
    """Return a text unchanged if it is UTF-8.

    Raises:
        UnicodeDecodeError: The text is not UTF-8.
    """
    return text if text.isascii() else text.encode("utf-8", "surrogateescape").decode("utf-8")


def _read_text(path: Path, encoding: str) -> ManifestRows:
    lines = [line.strip() for line in path.read_text(encoding=encoding).splitlines() if line.strip()]
    ROWS.check(len(lines), f"{path}: has {{}} rows")
    TEXT.check(max(map(len, lines), default=0), f"{path}: has a line of {{}} characters")
    parts = [re.fullmatch(r"(.*\S)\s+(-?\d+)", line, flags=re.ASCII) for line in lines]
    if all(part is not None for part in parts):
        return ManifestRows([part[1] for part in parts if part], [part[2] for part in parts if part])
    return ManifestRows(lines)


def _path_column(names: Sequence[str], path: Path) -> str:
    for name in PATH_COLUMNS:
        if name in names:
            return name
    found = ", ".join(names) or "none"
    raise InputError(f"{path}: has columns {found}; name the one that holds the image files `path`")
