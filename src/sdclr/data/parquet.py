"""Image sets whose encoded images lie in parquet files."""

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sdclr.data.annotations import LABEL_COLUMNS, NumberedIds, encode_labels
from sdclr.data.attributes import ATTRIBUTE_LIST, Attributes, attribute_columns, read_attributes
from sdclr.data.decode import decode_image
from sdclr.data.stored import Stored
from sdclr.errors import BadImageError, InputError

IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp")
"""Columns of a parquet file that may hold encoded images; the first that is there counts."""

CACHE_BYTES = 256 * 2**20
"""Encoded bytes of row groups that a `ParquetSource` keeps in each process (at least one row group)."""


class ParquetSource:
    """Encoded images in parquet files, as Hugging Face data sets store them.

    The image column is a struct with `bytes`, or plain binary. The files are memory-mapped and read by row group; every
    process keeps the row groups it used last, up to `CACHE_BYTES`. Reading a larger set in random order decodes a row
    group for almost every image, so there row groups should be small (about a hundred images, as is usual).

    `label` holds the class. Several labels an image stand in a column `attributes` or in columns named `attr:NAME`, as
    `ManifestSource` says.

    Args:
        files: One or several parquet files, taken in the given order; or a folder of them.
        split: Takes the files whose name begins so ("train" takes `train-00000-of-00002.parquet`). By default "train"
            where files of several splits are given.

    Raises:
        InputError: A file is missing or corrupt, holds no images, or no file belongs to the split.
    """

    def __init__(self, files: Path | str | Sequence[Path | str], *, split: str | None = None) -> None:
        self._files, beginning = _files_of_split(files, split)
        folder = self._files[0].absolute().parent.name
        self.name = f"{folder}-{beginning}" if beginning not in {None, folder} else folder
        self._read_lock = threading.Lock()
        self._open_files: dict[int, pq.ParquetFile] = {}
        self._groups: OrderedDict[int, pa.ChunkedArray] = OrderedDict()

        schemas = [self._file(number).schema_arrow for number in range(len(self._files))]
        self._column = _image_column(schemas[0])
        if self._column is None:
            raise InputError(
                f"{self._files[0]}: has columns {', '.join(schemas[0].names)}; name the one that holds the encoded "
                "images `image`, with type binary or a struct with `bytes`"
            )
        for file, schema in zip(self._files, schemas, strict=True):
            if _image_column(schema) != self._column:
                raise InputError(f"{file}: has other columns than {self._files[0]}; give files of one data set")

        self._places: list[tuple[int, int]] = []
        sizes = []
        for number in range(len(self._files)):
            metadata = self._file(number).metadata
            self._places += [(number, group) for group in range(metadata.num_row_groups)]
            sizes += [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._ends = np.cumsum(sizes, dtype=np.int64)
        if sum(sizes) == 0:
            raise InputError(f"{self._files[0]}: holds no rows; give a parquet file with images")
        self.ids: Sequence[str] = NumberedIds(beginning or folder, len(self))
        self.labels, self.classes = self._read_labels(schemas[0])
        attributes = parquet_attributes([(file, self._file(number)) for number, file in enumerate(self._files)])
        self.attributes = None if attributes is None else attributes.values
        self.attribute_names = () if attributes is None else attributes.names

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getstate__(self) -> dict[str, Any]:
        kept = {"_read_lock", "_open_files", "_groups"}
        return {name: value for name, value in self.__dict__.items() if name not in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._read_lock = threading.Lock()
        self._open_files = {}
        self._groups = OrderedDict()

    def image(self, index: int, *, min_side: int | None = None) -> NDArray[np.uint8]:
        """Decode one image to RGB, `(H, W, 3)`; see `decode_image`."""
        data = self.encoded(index)
        if data is None:
            raise BadImageError(self.ids[index], "zero bytes")
        return decode_image(data, image_id=self.ids[index], min_side=min_side)

    def encoded(self, index: int) -> bytes | None:
        """The bytes of one image as they are stored; None where the row has none."""
        index = range(len(self))[index]
        group = int(np.searchsorted(self._ends, index, side="right"))
        rows = self._row_group(group)
        data: bytes | None = rows[index - int(self._ends[group])].as_py()  # a negative index, counted from the end
        return data

    def stored(self, index: int) -> Stored:
        """Where an image lies; see `stored_image`."""
        index = range(len(self))[index]
        group = int(np.searchsorted(self._ends, index, side="right"))
        number, place = self._places[group]
        before = int(self._ends[group - place - 1]) if group > place else 0  # rows of the files before
        return Stored(self._files[number], index - before, type(self).__qualname__)

    def _file(self, number: int) -> pq.ParquetFile:
        if number not in self._open_files:
            self._open_files[number] = open_parquet(self._files[number])
        return self._open_files[number]

    def _row_group(self, group: int) -> pa.ChunkedArray:
        with self._read_lock:
            if group in self._groups:
                self._groups.move_to_end(group)
                return self._groups[group]
            number, place = self._places[group]
            try:
                # One thread: Arrow's pool does not survive the fork that starts data loading workers.
                table = self._file(number).read_row_group(place, columns=[self._column], use_threads=False)
            except (pa.ArrowException, OSError) as error:
                file = self._files[number]
                raise InputError(
                    f"{file}: row group {place} is corrupt ({_one_line(error)}); fetch the file again"
                ) from error
            column = table.column(0)
            self._groups[group] = pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column
            while len(self._groups) > 1 and sum(held.nbytes for held in self._groups.values()) > CACHE_BYTES:
                self._groups.popitem(last=False)
            return self._groups[group]

    def _read_labels(self, schema: pa.Schema) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
        column = next((name for name in LABEL_COLUMNS if name in schema.names), None)
        if column is None or pa.types.is_nested(schema.field(column).type):
            return None, ()
        values: list[object] = []
        for number, file in enumerate(self._files):
            if column not in self._file(number).schema_arrow.names:
                raise InputError(f"{file}: lacks the column `{column}` of {self._files[0]}; give files of one data set")
            values += self._file(number).read(columns=[column], use_threads=False).column(0).to_pylist()
        labels, classes = encode_labels(values, str(self._files[0]))
        return labels, classes or _class_names(schema, column)


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open a parquet file, memory-mapped.

    Raises:
        InputError: The file is missing or not parquet.
    """
    try:
        return pq.ParquetFile(path, memory_map=True)
    except FileNotFoundError as error:
        raise InputError(f"{path}: is missing; check the path") from error
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: cannot be read as parquet ({_one_line(error)}); fetch it again") from error


def holds_images(path: Path) -> bool:
    """Whether a parquet file holds encoded images (else it can only be a manifest).

    Raises:
        InputError: The file is missing or not parquet.
    """
    return _image_column(open_parquet(path).schema_arrow) is not None


def parquet_files(folder: Path) -> list[Path]:
    """The parquet files of a folder, sorted; those of its sub-folder `data` where it has none itself."""
    for place in (folder, folder / "data"):
        if found := sorted(file for file in place.glob("*.parquet") if not file.name.startswith(".")):
            return found
    return []


def parquet_attributes(files: Sequence[tuple[Path, pq.ParquetFile]]) -> Attributes | None:
    """The attributes of the rows of one or several files; None where they have no column of them.

    Raises:
        InputError: As `read_attributes`, or the files have different columns.
    """
    first, opened = files[0]
    columns: dict[str, list[object]] = {name: [] for name in _attribute_columns(first, opened)}
    for path, file in files:
        if different := set(columns).symmetric_difference(_attribute_columns(path, file)):
            raise InputError(
                f"{path}: and {first} do not both have the column `{min(different)}`; give files of one set"
            )
        for name, values in columns.items():
            column = file.read(columns=[name], use_threads=False).column(0)
            text = not pa.types.is_nested(column.type)
            values += ["" if value is None and text else value for value in column.to_pylist()]
    where = str(first) if len(files) == 1 else f"{first} and {len(files) - 1} more, rows counted through"
    return read_attributes(columns, where, names=_class_names(opened.schema_arrow, ATTRIBUTE_LIST))


def _attribute_columns(path: Path, file: pq.ParquetFile) -> list[str]:
    """Indicators, and texts or lists of names or numbers; structs and the like mean something else."""
    schema, found = file.schema_arrow, []
    for name in attribute_columns(schema.names, str(path)):
        kind = schema.field(name).type
        lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
        if not pa.types.is_nested(kind) or (
            name == ATTRIBUTE_LIST and lists and not pa.types.is_nested(kind.value_type)
        ):
            found.append(name)
    return found


def _image_column(schema: pa.Schema) -> str | None:
    for name in IMAGE_COLUMNS:
        if name in schema.names:
            kind = schema.field(name).type
            if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
                return name
            if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
                return f"{name}.bytes"
    return None


def _class_names(schema: pa.Schema, column: str) -> tuple[str, ...]:
    try:
        feature = json.loads(schema.metadata[b"huggingface"])["info"]["features"][column]
        return tuple(str(name) for name in feature.get("feature", feature)["names"])
    except (AttributeError, KeyError, TypeError, ValueError):
        return ()


def _files_of_split(files: Path | str | Sequence[Path | str], split: str | None) -> tuple[tuple[Path, ...], str | None]:
    """The files to read, and the name they share: a split, or whatever their names begin with."""
    if isinstance(files, (str, Path)):
        where = Path(files)
        found = parquet_files(where) if where.is_dir() else [where]
        if not found:
            raise InputError(f"{where}: holds no parquet files; give the folder that does")
        names = sorted({_beginning(file) for file in found})
        if split is None and len(names) > 1:
            if "train" not in names:
                raise InputError(f"{where}: holds the splits {', '.join(names)}; name one, as in {where}:{names[0]}")
            split = "train"
    else:
        where, found = Path(files[0]).parent if files else Path(), [Path(file) for file in files]
        names = sorted({_beginning(file) for file in found})
    chosen = tuple(file for file in found if split is None or _beginning(file) == split)
    if not chosen:
        raise InputError(f"{where}: holds no split {split!r}; choose from {', '.join(names) or 'one file at least'}")
    return chosen, split or (names[0] if len(names) == 1 else None)


def _beginning(file: Path) -> str:
    # "train-00000-of-00002-0f3a" -> "train"; a bare number such as "0000" takes its folder's name.
    words = re.match(r"[A-Za-z]+(?:[-_.]?[A-Za-z]+)*", file.stem)
    return words.group() if words else file.absolute().parent.name


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
