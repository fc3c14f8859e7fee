"""Image sources with encoded images in Parquet files."""

import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sdclr.data.annotations import LABEL_COLUMNS, NumberedIds, encode_labels
from sdclr.data.attributes import ATTRIBUTE_LIST, Attributes, attribute_columns, read_attributes
from sdclr.data.columns import description, is_list, read_values
from sdclr.data.intensities import SeenByRange
from sdclr.data.row_groups import EncodedRows
from sdclr.data.stored import Stored
from sdclr.decoding.decode import decode_image
from sdclr.errors import BadImageError, InputError
from sdclr.intensities import Intensities
from sdclr.limits import ROWS, TABLE

IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp")
"""Columns of a Parquet file that can hold encoded images; the first one present is used."""


class ParquetSource(SeenByRange):
    """Encoded images in Parquet files, as Hugging Face data sets store them.

    The image column is a struct with `bytes`, or plain binary. The files are memory-mapped and read by row group; every
    process keeps its most recently used row groups, up to `row_groups.CACHE_BYTES`. Reading a larger set in random
    order decodes a row group for almost every image, so its row groups should be small (about a hundred images, as is
    usual). Row groups of more than 1 GiB can only be read in order. `sdclr.limits` sets the largest sizes.

    `label` holds the class. Several labels per image are in a column `attributes` or in columns named `attr:NAME`; see
    `ManifestSource`.

    Args:
        files: One or several Parquet files, used in the given order; or a folder of them.
        split: Select the files whose name starts with this ("train" selects `train-00000-of-00002.parquet`). By default
            "train" if there are files of several splits.
        image: The column of the images. By default the image column of Hugging Face's features, or one of
            `IMAGE_COLUMNS`.
        label: The column of the class. By default one of `LABEL_COLUMNS`, or the class column of the features.

    Raises:
        InputError: A file is missing or corrupt, holds no images, or no file belongs to the split.
    """

    def __init__(
        self,
        files: Path | str | Sequence[Path | str],
        *,
        split: str | None = None,
        image: str | None = None,
        label: str | None = None,
    ) -> None:
        self._files, beginning = _files_of_split(files, split)
        folder = self._files[0].absolute().parent.name
        self.name = f"{folder}-{beginning}" if beginning not in {None, folder} else folder
        opened = [description(file) for file in self._files]
        schemas = [file.schema_arrow for file in opened]
        column = _image_column(schemas[0], image)
        if column is None or (label is not None and label not in schemas[0].names):
            raise InputError(
                f"{self._files[0]}: has columns {', '.join(schemas[0].names)}; name the one that holds the encoded "
                "images `image`, with type binary or a struct with `bytes`, or say hf:FOLDER,image=NAME,label=NAME"
            )
        for file, schema in zip(self._files, schemas, strict=True):
            if _image_column(schema, image) != column:
                raise InputError(f"{file}: has other columns than {self._files[0]}; give files of one data set")

        for path, file in zip(self._files, opened, strict=True):
            if column.endswith(".bytes") and _is_empty(file, column):
                raise InputError(
                    f"{path}: its column `{column.removesuffix('.bytes')}` holds no image, only paths at most; give a "
                    "manifest (CSV or Parquet) with a column `path`, or the data set itself with hf:FOLDER"
                )
        ROWS.check(sum(file.metadata.num_rows for file in opened), f"{self._files[0].parent}: has {{}} rows")
        self._rows = EncodedRows(self._files, column)
        if not len(self):
            raise InputError(f"{self._files[0]}: holds no rows; give a parquet file with images")
        self.ids: Sequence[str] = NumberedIds(beginning or folder, len(self))
        self.labels, self.classes = self._read_labels(schemas, label)
        attributes = parquet_attributes(list(zip(self._files, opened, strict=True)))
        self.attributes = None if attributes is None else attributes.values
        self.attribute_names = () if attributes is None else attributes.names

    def __len__(self) -> int:
        return len(self._rows)

    def image(self, index: int, *, min_side: int | None = None) -> NDArray[np.uint8]:
        """Decode one image to RGB, `(H, W, 3)`; see `decode_image`."""
        seen = self.intensities  # measured before a row group is read and kept
        data = self.encoded(index)
        if data is None:
            raise BadImageError(self.ids[index], "zero bytes")
        return decode_image(data, image_id=self.ids[index], min_side=min_side, intensities=seen)

    @cached_property
    def intensities(self) -> Intensities:
        """The range of intensities; see `sdclr.data.intensities`."""
        found = super().intensities
        self._rows.forget()
        return found

    def encoded(self, index: int) -> bytes | None:
        """The stored bytes of one image; None if the row has none."""
        return self._rows[index]

    def stored(self, index: int) -> Stored:
        """Location of an image; see `stored_image`."""
        return Stored(*self._rows.place(index), self.decoder())

    def blocks(self) -> NDArray[np.int64]:
        """`(N,)` number of the row group of each image; see `image_blocks`."""
        return self._rows.groups()

    def _read_labels(
        self, schemas: Sequence[pa.Schema], given: str | None
    ) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
        schema = schemas[0]
        names = [*LABEL_COLUMNS, *_of_kind(schema, "ClassLabel")] if given is None else [given]
        column = next((name for name in names if name in schema.names), None)
        if column is None or pa.types.is_nested(schema.field(column).type):
            return None, ()
        values: list[object] = []
        for file, other in zip(self._files, schemas, strict=True):
            if column not in other.names:
                raise InputError(
                    f"{file}: has no column `{column}`, unlike {self._files[0]}; give files of one data set"
                )
            values += read_values(file, column)
        labels, classes = encode_labels(values, str(self._files[0]))
        return labels, classes or _class_names(schema, column)


def holds_images(path: Path) -> bool:
    """Whether a Parquet file holds encoded images (otherwise it can only be a manifest).

    Raises:
        InputError: The file is missing or not Parquet.
    """
    return _image_column(description(path).schema_arrow) is not None


def parquet_files(folder: Path) -> list[Path]:
    """The Parquet files of a folder, sorted; if it has none, those of its subfolder `data`."""
    for place in (folder, folder / "data"):
        if found := sorted(file for file in place.glob("*.parquet") if not file.name.startswith(".")):
            return found
    return []


def parquet_attributes(files: Sequence[tuple[Path, pq.ParquetFile]]) -> Attributes | None:
    """The attributes of the rows of one or several files; None if they have no attribute columns.

    Raises:
        InputError: As `read_attributes`, or the files have different columns.
    """
    first, opened = files[0]
    columns: dict[str, list[object]] = {name: [] for name in _attribute_columns(first, opened)}
    rows = sum(file.metadata.num_rows for _, file in files)
    TABLE.check(8 * rows * len(columns), f"{first}: the columns of attributes take {{}} bytes")
    for path, file in files:
        if different := set(columns).symmetric_difference(_attribute_columns(path, file)):
            raise InputError(
                f"{path}: and {first} do not both have the column `{min(different)}`; give files of one set"
            )
        for name, values in columns.items():
            text = not pa.types.is_nested(file.schema_arrow.field(name).type)
            values += ["" if value is None and text else value for value in read_values(path, name)]
    where = str(first) if len(files) == 1 else f"{first} and {len(files) - 1} more, rows counted through"
    return read_attributes(columns, where, names=_class_names(opened.schema_arrow, ATTRIBUTE_LIST))


def _attribute_columns(path: Path, file: pq.ParquetFile) -> list[str]:
    """Columns of indicators, and of texts or lists of names or numbers; other types are not attributes."""
    schema, found = file.schema_arrow, []
    for name in attribute_columns(schema.names, str(path)):
        kind = schema.field(name).type
        if not pa.types.is_nested(kind) or (
            name == ATTRIBUTE_LIST and is_list(kind) and not pa.types.is_nested(kind.value_type)
        ):
            found.append(name)
    return found


def _image_column(schema: pa.Schema, given: str | None = None) -> str | None:
    for name in [*_of_kind(schema, "Image"), *IMAGE_COLUMNS] if given is None else [given]:
        if name in schema.names:
            kind = schema.field(name).type
            if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
                return name
            if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
                return f"{name}.bytes"
    return None


def _is_empty(file: pq.ParquetFile, column: str) -> bool:
    """Whether the statistics of a file state that a column has only null values."""
    groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
    chunks = [group.column(number) for group in groups for number in range(group.num_columns)]
    parts = [chunk for chunk in chunks if chunk.path_in_schema == column]
    counts = [chunk.statistics.null_count if chunk.is_stats_set else -1 for chunk in parts]
    return bool(file.metadata.num_rows > 0 and sum(counts) == file.metadata.num_rows)


def _features(schema: pa.Schema) -> dict[str, Any]:
    """The column descriptions of Hugging Face's `datasets`."""
    try:
        return dict(json.loads(schema.metadata[b"huggingface"])["info"]["features"])
    except (AttributeError, KeyError, TypeError, ValueError):
        return {}


def _of_kind(schema: pa.Schema, kind: str) -> list[str]:
    """The columns whose feature is of this kind."""
    features = _features(schema).items()
    return [str(name) for name, feature in features if isinstance(feature, dict) and feature.get("_type") == kind]


def _class_names(schema: pa.Schema, column: str) -> tuple[str, ...]:
    try:
        feature = _features(schema)[column]
        return tuple(str(name) for name in feature.get("feature", feature)["names"])
    except (AttributeError, KeyError, TypeError):
        return ()


def _files_of_split(files: Path | str | Sequence[Path | str], split: str | None) -> tuple[tuple[Path, ...], str | None]:
    if not isinstance(files, (str, Path)):
        return files_of_split(Path(files[0]).parent if files else Path(), [Path(file) for file in files], split)
    where = Path(files)
    found = parquet_files(where) if where.is_dir() else [where]
    if not found:
        raise InputError(f"{where}: holds no parquet files; give the folder that does")
    return files_of_split(where, found, split, default=True)


def files_of_split(
    where: Path, found: Sequence[Path], split: str | None, *, default: bool = False
) -> tuple[tuple[Path, ...], str | None]:
    """The files to read, and the beginning that their names share, such as a split.

    Args:
        where: The given path, for messages.
        found: All files.
        split: Select the files whose name starts with this; None selects all.
        default: Without a split, select "train" if there are several beginnings.

    Raises:
        InputError: No file belongs to the split, or one must be named.
    """
    names = sorted({_beginning(file) for file in found})
    if default and split is None and len(names) > 1:
        if "train" not in names:
            raise InputError(f"{where}: holds the splits {', '.join(names)}; name one, as in {where}:{names[0]}")
        split = "train"
    chosen = tuple(file for file in found if split is None or _beginning(file) == split)
    if not chosen:
        raise InputError(f"{where}: holds no split {split!r}; choose from {', '.join(names) or 'one file at least'}")
    return chosen, split or (names[0] if len(names) == 1 else None)


def _beginning(file: Path) -> str:
    # "train-00000-of-00002-0f3a" -> "train"; a bare number such as "0000" takes its folder's name.
    words = re.match(r"[A-Za-z]+(?:[-_.]?[A-Za-z]+)*", file.stem)
    return words.group() if words else file.absolute().parent.name
