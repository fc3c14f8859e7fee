"""Embeddings from files, whoever made them, and as a collection of their own."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

from sdclr.data.decode import decode_image
from sdclr.data.parquet import open_parquet
from sdclr.errors import BadImageError, InputError
from sdclr.files import looking_at

ID_COLUMNS: Final = ("id", "path", "filepath", "filename", "file", "image", "name")
"""Columns that are taken for ids, the first that is there."""
VALUE_COLUMNS: Final = ("embedding", "embeddings", "features", "feature", "vector", "emb")
"""Columns that are taken for the vectors, the first that is there."""
ABOUT: Final = b"sdclr"
"""Key of the Parquet metadata in which `sdclr embed` says what it did."""


@dataclass(frozen=True)
class Embeddings:
    """Vectors of images, in order."""

    ids: list[str]
    """N."""
    values: NDArray[np.float32]
    """(N, D)."""
    about: dict[str, Any] = field(default_factory=dict)
    """Which encoder made them of what; empty where the file does not say."""
    name: str = "embeddings"
    """Short, for reports."""
    folder: Path | None = None
    """The folder of the file, where the images may lie."""
    numbered: bool = False
    """Whether the file has no ids, so that rows are told by their number alone."""

    def of(self, ids: Sequence[str], what: str) -> NDArray[np.float32]:
        """The vectors of some images, (len(ids), D), by id; by position if the file has no ids.

        Raises:
            InputError: If an image has no vector, or there are no ids and another number of rows.
        """
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
                f"{missing[0]!r}; its ids are like {self.ids[0]!r}: give embeddings of these images"
            )
        return self.values[[row_of[image_id] for image_id in ids]]


class EmbeddedImages:
    """A collection known by embeddings: its ids, and its pictures where the ids are paths of image files.

    Paths are looked up as they are, then beside the file of embeddings, then under `root`.
    """

    def __init__(self, embeddings: Embeddings, root: Path | None = None) -> None:
        self.embeddings = embeddings
        self.name = embeddings.name
        self.ids: Sequence[str] = embeddings.ids
        self.labels: NDArray[np.int64] | None = None
        self.classes: tuple[str, ...] = ()
        self._folders = [folder for folder in (Path(), embeddings.folder, root) if folder is not None]

    def __len__(self) -> int:
        return len(self.ids)

    def file(self, index: int) -> Path | None:
        """The file of an image, or None if there is none."""
        if self.embeddings.numbered:
            return None
        return next((file for folder in self._folders if (file := folder / self.ids[index]).is_file()), None)

    def image(self, index: int, *, min_side: int | None = None) -> NDArray[np.uint8]:
        """Decode the file that the id names.

        Raises:
            BadImageError: If there is no such file, or it cannot be decoded.
        """
        file = self.file(index)
        if file is None:
            raise BadImageError(self.ids[index], "the embeddings name no image file that can be found")
        return decode_image(file, image_id=self.ids[index], min_side=min_side)


def embedding_files(path: str | Path) -> list[Path]:
    """The files of embeddings at a path: a `.npy` or Parquet file, or shards in a folder; [] if there are none."""
    path = Path(path).expanduser()
    with looking_at(path):
        if path.is_dir():
            return sorted(path.glob("embeddings-*-of-*.parquet"))
        if not path.is_file():
            return []
    if path.suffix == ".npy":
        return [path]
    if path.suffix == ".parquet":
        return [path] if _column(open_parquet(path).schema_arrow, VALUE_COLUMNS) is not None else []
    return []


def read_embeddings(path: str | Path) -> Embeddings:
    """Read embeddings: what `sdclr embed` wrote, or another tool.

    Args:
        path: A Parquet file with a column of vectors (`VALUE_COLUMNS`) and one of ids (`ID_COLUMNS`); a folder of such
            shards as `sdclr embed` writes them; a `.npy` file of (N, D) numbers, whose rows have no ids.

    Raises:
        InputError: If there are no embeddings, shards are missing, vectors differ in length, ids repeat, or a number is
            not finite.

    Example:
        >>> embeddings = read_embeddings("embeddings.parquet")  # doctest: +SKIP
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
    if path.is_dir() and (not shards.isdigit() or len(files) != int(shards)):
        raise InputError(f"{path} holds {len(files)} shards of embeddings, not {shards}: embed again")
    ids: list[str] = []
    parts: list[NDArray[np.float32]] = []
    named = True
    for file in files:
        found_ids, values = _parquet_file(file)
        named = named and found_ids is not None
        ids += found_ids or []
        parts += [values] if len(values) else []
    if not parts:
        raise InputError(f"{path} holds no rows: embed again")
    widths = {part.shape[1] for part in parts}
    if len(widths) > 1:
        raise InputError(f"{path} holds vectors of {' and '.join(map(str, sorted(widths)))} numbers: embed again")
    about = _about(files[0])
    folder = path if path.is_dir() else path.parent
    return embeddings_of(np.concatenate(parts), ids if named else None, name=path.name, folder=folder, about=about)


def embeddings_of(
    values: ArrayLike,
    ids: Sequence[str] | None = None,
    *,
    name: str = "embeddings",
    folder: Path | None = None,
    about: dict[str, Any] | None = None,
) -> Embeddings:
    """Check vectors that are in memory.

    Args:
        values: (N, D) numbers of any type; they become float32.
        ids: N unique ids; by default the rows' numbers.
        name: Short name, for errors and reports.
        folder: Where image files of those ids may lie.
        about: Which encoder made them.

    Raises:
        InputError: Not a table of finite numbers with at least one row, a row of zeros only, or ids that repeat.
    """
    array = np.asarray(values)
    if array.ndim != 2 or not array.size or array.dtype.kind not in "fiu":
        raise InputError(
            f"{name} is an array of {array.dtype} {array.shape}: give numbers (N, D), a row for each image"
        )
    with np.errstate(over="ignore"):  # numbers beyond float32 become infinite and are reported below
        table = np.require(array, dtype=np.float32, requirements=["C", "W"])  # torch warns of arrays that are read-only
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
    try:
        values: NDArray[Any] = np.load(path, allow_pickle=False, mmap_mode="c")
    except (OSError, ValueError, EOFError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path} cannot be read as a NumPy array ({reason}): save it with np.save") from error
    return values


def _parquet_file(file: Path) -> tuple[list[str] | None, NDArray[np.float32]]:
    """Ids, if there are any, and vectors of one file."""
    opened = open_parquet(file)
    values_name, ids_name = (_column(opened.schema_arrow, names) for names in (VALUE_COLUMNS, ID_COLUMNS))
    try:
        table = opened.read(columns=[name for name in (ids_name, values_name) if name is not None])
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{file} cannot be read ({str(error).partition(chr(10))[0]}): put back a whole copy"
        ) from error
    ids = None if ids_name is None else [str(value) for value in table[ids_name].to_pylist()]
    chunks = [_rows(chunk, file) for chunk in table[values_name].chunks if len(chunk)]
    return ids, np.concatenate(chunks) if chunks else np.empty((0, 0), dtype=np.float32)


def _rows(column: Any, file: Path) -> NDArray[np.float32]:
    """(n, D) of a column of lists."""
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
        raise InputError(f"{file}: vectors hold {'missing numbers' if flat.null_count else flat.type}: give numbers")
    values: NDArray[Any] = flat.to_numpy(zero_copy_only=False)
    with np.errstate(over="ignore"):  # numbers beyond float32 become infinite and are reported later
        return values.astype(np.float32, copy=False).reshape(len(column), len(flat) // len(column))


def _column(schema: pa.Schema, names: Sequence[str]) -> str | None:
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    for name in names:
        if name in schema.names:
            is_list = any(check(schema.field(name).type) for check in lists)
            if is_list == (names is VALUE_COLUMNS):
                return name
    return None


def _about(file: Path) -> dict[str, Any]:
    try:
        about = json.loads((pq.read_schema(file).metadata or {}).get(ABOUT, b"{}"))
    except ValueError:
        return {}
    return about if isinstance(about, dict) else {}
