"""Image sets that a manifest lists."""

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sdclr.data.annotations import LABEL_COLUMNS, check_unique, encode_labels
from sdclr.data.attributes import Attributes, attribute_columns, read_attributes
from sdclr.data.decode import decode_image
from sdclr.data.parquet import open_parquet, parquet_attributes
from sdclr.data.stored import Stored
from sdclr.errors import InputError

PATH_COLUMNS = ("path", "image", "file", "filename", "file_name")
"""Columns of a manifest that may name the image file; the first that is there counts."""


class ManifestSource:
    """Images listed by a CSV or parquet file, or by a text file with `path label` a line.

    CSV and parquet need a column `path` (or `image`, `file`, `filename`, `file_name`); `label` (whole numbers or names)
    and `id` are optional, other columns are ignored. An empty label is unknown. A text file is what the published
    ImageNet lists are: a path and, after the last blank, an optional class number.

    Several labels an image are attributes, written in one of two ways. A column `attributes` lists those that the image
    shows, `hat;dog` or `hat|dog`, nothing for none of them; parquet may also hold lists of names or numbers, and a null
    list is unknown. Or there is a column for each, named `attr:hat`, `attr:dog`: 1 or true where the image shows it, 0,
    false or -1 where it does not, and nothing where that is unknown. In pandas, `frame.add_prefix("attr:")` names them.

    Args:
        path: The manifest.
        root: The folder that relative paths start from; by default the manifest's own.

    Raises:
        InputError: The manifest is missing, unreadable or empty, lacks the column, names an image twice, or has a value
            that is no indicator.
    """

    def __init__(self, path: Path | str, *, root: Path | str | None = None) -> None:
        manifest = Path(path)
        self.name = manifest.stem
        self._root = Path(root) if root is not None else manifest.parent
        rows = _read_manifest(manifest)
        paths = rows.paths
        if not paths:
            raise InputError(f"{manifest}: lists no images; give one row for each image")
        for row, entry in enumerate(paths):
            if not entry:
                raise InputError(f"{manifest}: image {row + 1} has an empty path; fill it in or remove the row")
        self._paths = paths
        self.ids: Sequence[str] = (
            [self._relative(path) for path in paths] if rows.ids is None else [str(image_id) for image_id in rows.ids]
        )
        check_unique(self.ids, str(manifest), "remove the repetition, or add a column `id` with unique values")
        self.labels: NDArray[np.int64] | None = None
        self.classes: tuple[str, ...] = ()
        if rows.labels is not None:
            self.labels, self.classes = encode_labels(rows.labels, str(manifest))
        self.attributes = None if rows.attributes is None else rows.attributes.values
        self.attribute_names = () if rows.attributes is None else rows.attributes.names

    def __len__(self) -> int:
        return len(self._paths)

    def image(self, index: int, *, min_side: int | None = None) -> NDArray[np.uint8]:
        """Decode one image to RGB, `(H, W, 3)`; see `decode_image`."""
        return decode_image(self.file(index), image_id=self.ids[index], min_side=min_side)

    def file(self, index: int) -> Path:
        """The file of an image."""
        return self._root / self._paths[index]

    def stored(self, index: int) -> Stored:
        """Where an image lies; see `stored_image`."""
        return Stored(self.file(index), None, type(self).__qualname__)

    def _relative(self, entry: str) -> str:
        path = Path(entry)
        if path.is_absolute() and path.is_relative_to(self._root.absolute()):
            path = path.relative_to(self._root.absolute())
        return path.as_posix()


class _Manifest(NamedTuple):
    """The columns of a manifest; None for those it does not have."""

    paths: list[str]
    labels: list[object] | None = None
    ids: list[object] | None = None
    attributes: Attributes | None = None


def _read_manifest(path: Path) -> _Manifest:
    if not path.is_file():
        raise InputError(f"{path}: is no file; check the path of the manifest")
    try:
        match path.suffix.lower():
            case ".parquet":
                return _read_parquet_manifest(path)
            case ".csv":
                return _read_csv_manifest(path)
            case ".txt":
                return _read_text_manifest(path)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text ({error.reason}); save it as UTF-8") from error
    except csv.Error as error:
        raise InputError(f"{path}: is not a CSV table ({error}); save it with comma-separated columns") from error
    raise InputError(f"{path}: is no manifest by its name; give a .csv, .parquet or .txt file")


def _read_parquet_manifest(path: Path) -> _Manifest:
    file = open_parquet(path)
    names = file.schema_arrow.names
    column = _path_column(names, path)
    label = next((name for name in LABEL_COLUMNS if name in names), None)
    wanted = [name for name in (column, label, "id") if name in names]
    table = file.read(columns=wanted, use_threads=False)
    paths = ["" if value is None else str(value) for value in table.column(column).to_pylist()]
    labels = table.column(label).to_pylist() if label is not None else None
    ids = table.column("id").to_pylist() if "id" in names else None
    return _Manifest(paths, labels, ids, parquet_attributes([(path, file)]))


def _read_csv_manifest(path: Path) -> _Manifest:
    # File names that are not UTF-8 come as lone surrogates, as they do from the file system.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        rows = csv.DictReader(file, skipinitialspace=True)
        names = [name.strip() for name in rows.fieldnames or ()]
        rows.fieldnames = names
        column = _path_column(names, path)
        label = next((name for name in LABEL_COLUMNS if name in names), None)
        table = list(rows)
    for row in table:
        _check_utf8(row, column, path)
    paths = [(row[column] or "").strip() for row in table]
    labels: list[object] | None = [row[label] for row in table] if label is not None else None
    ids: list[object] | None = [row["id"] for row in table] if "id" in names else None
    columns = {name: [row[name] or "" for row in table] for name in attribute_columns(names, str(path))}
    return _Manifest(paths, labels, ids, read_attributes(columns, str(path)))


def _check_utf8(row: Mapping[str, object], column: str, path: Path) -> None:
    """Check that only the name of a file that is there, and its id, are not UTF-8.

    Raises:
        UnicodeDecodeError: If anything else is not.
    """
    texts = {name: str(value or "") for name, value in row.items()}
    if all(text.isascii() for text in texts.values()):
        return
    exists = (path.parent / texts[column].strip()).is_file()
    for name, text in texts.items():
        if not (exists and name in (column, "id")):
            text.encode("utf-8", "surrogateescape").decode("utf-8")


def _read_text_manifest(path: Path) -> _Manifest:
    lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    parts = [re.fullmatch(r"(.*\S)\s+(-?\d+)", line, flags=re.ASCII) for line in lines]
    if all(part is not None for part in parts):
        return _Manifest([part[1] for part in parts if part], [part[2] for part in parts if part])
    return _Manifest(lines)


def _path_column(names: Sequence[str], path: Path) -> str:
    for name in PATH_COLUMNS:
        if name in names:
            return name
    found = ", ".join(names) or "none"
    raise InputError(f"{path}: has columns {found}; name the one that holds the image files `path`")
