"""Reads embeddings from files of any tool, and uses them as a collection."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from sdclr.config import from_json
from sdclr.data.columns import description, is_list, read_parts, read_values
from sdclr.data.intensities import SeenByRange
from sdclr.data.sources import ImageSource, Source, open_source
from sdclr.decoding.decode import decode_image
from sdclr.decoding.pages import split_page, tiff_pages
from sdclr.errors import BadImageError, InputError
from sdclr.files import looking_at, read_array
from sdclr.intensities import Intensities
from sdclr.limits import ROWS, TABLE

ID_COLUMNS: Final = ("id", "path", "filepath", "filename", "file", "image", "name")
"""Columns that can hold ids; the first one present is used."""
VALUE_COLUMNS: Final = ("embedding", "embeddings", "features", "feature", "vector", "emb")
"""Columns that can hold vectors; the first one present is used."""
SHARDS: Final = "embeddings-*-of-*.parquet"
"""Pattern of the files that `sdclr embed` writes into a folder."""
ABOUT: Final = b"sdclr"
"""Key of the Parquet metadata with which `sdclr embed` describes its settings."""


@dataclass(frozen=True)
class Embeddings:
    """Vectors of images, in order."""

    ids: list[str]
    """N ids."""
    values: NDArray[np.float32]
    """(N, D)."""
    about: dict[str, Any] = field(default_factory=dict)
    """Description of encoder and images; empty if the file has none."""
    name: str = "embeddings"
    """Short name for reports."""
    folder: Path | None = None
    """The folder of the file, which may hold the images."""
    numbered: bool = False
    """Whether the file has no ids, so that rows are identified only by number."""

    @property
    def intensities(self) -> Intensities | None:
        """The range of intensities with which the images were decoded, if the file states it."""
        seen = self.about.get("preprocessing")
        found = seen.get("intensities") if isinstance(seen, dict) else None
        return from_json(Intensities, found) if isinstance(found, dict) else None

    def of(self, ids: Sequence[str], what: str) -> NDArray[np.float32]:
        """The vectors of some images, (len(ids), D), by id; by position if the file has no ids.

        Raises:
            InputError: If an image has no vector, or there are no ids and the number of rows differs.
        """
        if ids is self.ids:
            return self.values
        if self.numbered:
            if len(ids) != len(self.ids):
                raise InputError(
                    f"{self.name} has {len(self.ids)} rows without ids, but {what} has {len(ids)} images: give one row "
                    "for each image in the order of their names, or a Parquet file with a column `id`"
                )
            return self.values
        row_of = {image_id: row for row, image_id in enumerate(self.ids)}
        missing = [image_id for image_id in ids if image_id not in row_of]
        if missing:
            raise InputError(
                f"{self.name} has no vector for {len(missing)} of {len(ids)} images of {what}, the first: "
                f"{missing[0]!r}; its ids look like {self.ids[0]!r}: give embeddings of these images"
            )
        return self.values[[row_of[image_id] for image_id in ids]]


class EmbeddedImages(SeenByRange):
    """A collection of embeddings as a source: its ids, and its pictures if the ids are paths of image files.

    Paths are looked up unchanged, then beside the file of embeddings, then under `root`.
    """

    def __init__(self, embeddings: Embeddings, root: Path | None = None) -> None:
        self.embeddings = embeddings
        self.name = embeddings.name
        self.ids: Sequence[str] = embeddings.ids
        self.labels: NDArray[np.int64] | None = None
        self.classes: tuple[str, ...] = ()
        self._folders = [folder for folder in (Path(), embeddings.folder, root) if folder is not None]
        if embeddings.intensities is not None:
            self.intensities = embeddings.intensities

    def file(self, index: int) -> Path | None:
        """The file of an image; None if there is none, and for a page of a multi-page file."""
        return None if self.embeddings.numbered else self._find(self.ids[index])

    def __len__(self) -> int:
        return len(self.ids)

    def _find(self, name: str) -> Path | None:
        return next((file for folder in self._folders if (file := folder / name).is_file()), None)

    def image(self, index: int, *, min_side: int | None = None) -> NDArray[np.uint8]:
        """Decode the file that the id names.

        Raises:
            BadImageError: If there is no such file, or it cannot be decoded.
        """
        file, at = self.file(index), 0
        page = split_page(self.ids[index])
        if file is None and page is not None and not self.embeddings.numbered and (stack := self._find(page[0])):
            at = tiff_pages(stack).get(page[1], 0)
            file = stack if at else None
        if file is None:
            raise BadImageError(self.ids[index], "the embeddings name no image file that can be found")
        return decode_image(file, image_id=self.ids[index], min_side=min_side, intensities=self.intensities, at=at)


def open_images(images: ImageSource) -> Source:
    """A source of images, or of embeddings with the pictures that they name.

    Raises:
        InputError: Neither can be opened.
    """
    if isinstance(images, (str, Path)) and embedding_files(images):
        return EmbeddedImages(read_embeddings(images))
    return open_source(images)


def embedding_files(path: str | Path) -> list[Path]:
    """The files of embeddings at a path; [] if there are none.

    Args:
        path: A `.npy` or Parquet file, or a folder. A folder holds the shards of `sdclr embed`, or Parquet files that
            all have a column of vectors, as written by Ray and Spark; these are read in the order of their names.
    """
    path = Path(path).expanduser()
    with looking_at(path):
        if path.is_dir():
            shards = sorted(path.glob(SHARDS))
            files = shards or sorted(path.glob("*.parquet"))
            return files if shards or all(_has_vectors(file) for file in files) else []
        if not path.is_file():
            return []
    if path.suffix == ".npy":
        return [path]
    if path.suffix == ".parquet":
        return [path] if _has_vectors(path) else []
    return []


def read_embeddings(path: str | Path) -> Embeddings:
    """Read embeddings written by `sdclr embed` or another tool.

    Args:
        path: A Parquet file with a column of vectors (`VALUE_COLUMNS`) and one of ids (`ID_COLUMNS`); a folder of such
            files; a `.npy` file of (N, D) numbers, whose rows have no ids.

    Raises:
        InputError: If there are no embeddings, shards are missing, vectors differ in length, ids repeat, or a number is
            not finite.

    Examples:
        >>> _ = sdclr.embed("images", "embeddings.parquet", encoder="runs/digits")
        >>> read_embeddings("embeddings.parquet").values.shape
        (60, 32)
    """
    files = embedding_files(path)
    if not files:
        wanted = ", ".join(VALUE_COLUMNS)
        raise InputError(
            f"{path} holds no embeddings: give a .npy file, or a Parquet file with a column of vectors ({wanted}); "
            f"`sdclr embed IMAGES --out {path}` writes one"
        )
    path = Path(path).expanduser()
    if files[0].suffix == ".npy":
        return embeddings_of(_numpy_file(path), name=path.name, folder=path.parent)
    shards = files[0].stem.rpartition("-of-")[2]
    if files[0].match(SHARDS) and path.is_dir() and (not shards.isdigit() or len(files) != int(shards)):
        raise InputError(f"{path} holds {len(files)} shards of embeddings, not {shards}: embed again")
    values, ids = _parquet_table(path, files)
    about = read_about(files[0])
    folder = path if path.is_dir() else path.parent
    return embeddings_of(values, ids, name=path.name, folder=folder, about=about)


def embeddings_of(
    values: ArrayLike,
    ids: Sequence[str] | None = None,
    *,
    name: str = "embeddings",
    folder: Path | None = None,
    about: dict[str, Any] | None = None,
) -> Embeddings:
    """Check vectors in memory, and use them as embeddings.

    Args:
        values: (N, D) numbers of any type; they become float32.
        ids: N unique ids; by default the row numbers.
        name: Short name, for errors and reports.
        folder: The folder that may hold the image files of the ids.
        about: Description of encoder and images.

    Raises:
        InputError: `values` is not a table of finite numbers with at least one row, a row is zero, or ids repeat.
    """
    array = np.asarray(values)
    if array.ndim != 2 or not array.size or array.dtype.kind not in "fiu":
        raise InputError(
            f"{name} is an array of {array.dtype} {array.shape}: give numbers (N, D), a row for each image"
        )
    with np.errstate(over="ignore"):  # numbers beyond float32 become infinite and are reported below
        table = np.require(array, dtype=np.float32, requirements=["C", "W"])  # torch warns about read-only arrays
    numbered = ids is None
    known = [f"{row:0{len(str(len(table) - 1))}d}" for row in range(len(table))] if ids is None else list(ids)
    if len(known) != len(table):
        raise InputError(f"{name} has {len(known)} ids for {len(table)} rows: give one id for each")
    for bad, what in (
        (~np.isfinite(table).all(axis=1), "a number that is not finite"),
        (~table.any(axis=1), "zeros only"),
    ):
        rows = np.flatnonzero(bad)
        if len(rows):
            raise InputError(
                f"{name}: {len(rows)} of {len(table)} vectors hold {what}, the first: row {rows[0]} "
                f"({known[rows[0]]!r}): leave these images out, or embed them again"
            )
    if len(set(known)) < len(known):
        seen: set[str] = set()
        twice = next(image_id for image_id in known if image_id in seen or seen.add(image_id))  # type: ignore[func-returns-value]
        raise InputError(f"{name}: the id {twice!r} occurs twice: give each image one row")
    return Embeddings(known, table, about or {}, name, folder, numbered)


def _numpy_file(path: Path) -> NDArray[Any]:
    return read_array(path, "save it with np.save", mode="c")


def _parquet_table(path: Path, files: Sequence[Path]) -> tuple[NDArray[np.float32], list[str] | None]:
    """The vectors of all files in one table, and their ids if all files have ids. Each vector is in memory once."""
    opened = [description(file) for file in files]
    total = sum(file.metadata.num_rows for file in opened)
    ROWS.check(total, f"{path}: has {{}} rows")
    names = [tuple(_column(file.schema_arrow, known) for known in (VALUE_COLUMNS, ID_COLUMNS)) for file in opened]
    ids: list[str] | None = None if any(name is None for _, name in names) else []
    table: NDArray[np.float32] | None = None
    begin = 0
    for file, (values_name, ids_name) in zip(files, names, strict=True):
        for part in read_parts(file, str(values_name)):
            if not len(part):
                continue
            rows = _rows(part, file)
            if table is None:
                size = f"{total:,} vectors of {rows.shape[1]:,} numbers"
                TABLE.check(4 * total * rows.shape[1], f"{path}: {size} take {{}} bytes")
                table = np.empty((total, rows.shape[1]), dtype=np.float32)
            if rows.shape[1] != table.shape[1]:
                widths = " and ".join(map(str, sorted((rows.shape[1], table.shape[1]))))
                raise InputError(f"{path} holds vectors of {widths} numbers: embed again")
            table[begin : begin + len(rows)] = rows
            begin += len(rows)
        if ids is not None:
            ids += map(str, read_values(file, str(ids_name)))
    if table is None:
        raise InputError(f"{path} holds no rows: embed again")
    return table[:begin], ids


def _rows(column: Any, file: Path) -> NDArray[np.float32]:
    """Convert a column of lists to (n, D)."""
    if column.null_count:
        raise InputError(f"{file}: {column.null_count} rows have no vector: leave these images out")
    if not pa.types.is_fixed_size_list(column.type):
        lengths = np.diff(column.offsets.to_numpy())
        if len(set(lengths.tolist())) > 1:
            odd = int(np.flatnonzero(lengths != lengths[0])[0])
            raise InputError(
                f"{file}: vectors differ in length: {lengths[0]} numbers in row 0, {lengths[odd]} in row {odd}: embed "
                "all images with one encoder"
            )
    flat = column.flatten()
    if flat.null_count or not (pa.types.is_floating(flat.type) or pa.types.is_integer(flat.type)):
        kind = flat.type.value_type if pa.types.is_dictionary(flat.type) else flat.type
        raise InputError(f"{file}: vectors hold {'missing numbers' if flat.null_count else kind}: give numbers")
    values: NDArray[Any] = flat.to_numpy(zero_copy_only=False)
    with np.errstate(over="ignore"):  # numbers beyond float32 become infinite and are reported later
        return values.astype(np.float32, copy=False).reshape(len(column), len(flat) // len(column))


def _has_vectors(file: Path) -> bool:
    return _column(description(file).schema_arrow, VALUE_COLUMNS) is not None


def _column(schema: pa.Schema, names: Sequence[str]) -> str | None:
    for name in names:
        if name in schema.names and is_list(schema.field(name).type) == (names is VALUE_COLUMNS):
            return name
    return None


def read_about(file: Path) -> dict[str, Any]:
    """Description of encoder and images in a Parquet file of embeddings; empty if it has none."""
    try:
        about = json.loads((description(file).schema_arrow.metadata or {}).get(ABOUT, b"{}"))
    except ValueError:
        return {}
    return about if isinstance(about, dict) else {}
