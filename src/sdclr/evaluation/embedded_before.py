"""Reuse of embeddings of unchanged images from an existing file."""

from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sdclr.data.changes import Grown, ids_as_bytes, rows_in
from sdclr.data.sources import Source
from sdclr.errors import InputError
from sdclr.features.embeddings import read_about
from sdclr.features.extract import FeatureBatch
from sdclr.files import open_table, parquet_bytes, parsing, read_table, write_atomically
from sdclr.progress import tell

_OF_IMAGES: Final = {"run", "source", "fingerprint", "labels", "origin"}
"""Entries that may differ if embeddings are reused. The others describe encoder, view and precision."""
_AGAIN: Final = "delete it, and run `sdclr embed` again"


class Before(NamedTuple):
    """An existing file of embeddings."""

    file: Path
    rows: NDArray[np.int64]
    """(N,) row of each image in the file; -1 for images that must be encoded."""

    def unread(self, chunk: range) -> list[int]:
        """Positions in a chunk that must be encoded."""
        found: list[int] = (np.flatnonzero(self.rows[chunk.start : chunk.stop] < 0) + chunk.start).tolist()
        return found

    def batches(self, chunk: range) -> list[FeatureBatch]:
        """The file's embeddings for a chunk, by row group."""
        positions = np.flatnonzero(self.rows[chunk.start : chunk.stop] >= 0) + chunk.start
        rows, found = self.rows[positions], list[FeatureBatch]()
        with parsing(self.file, _AGAIN), open_table(self.file, _AGAIN) as opened:
            sizes = [opened.metadata.row_group(number).num_rows for number in range(opened.num_row_groups)]
            starts = np.cumsum([0, *sizes])
            groups = np.searchsorted(starts, rows, side="right") - 1
            for group in np.unique(groups).tolist():
                column = opened.read_row_group(group, columns=["embedding"])["embedding"].combine_chunks()
                values = column.flatten().to_numpy(zero_copy_only=False).reshape(sizes[group], -1)
                mine = groups == group
                found.append(FeatureBatch(values[rows[mine] - starts[group]], positions[mine], [], 0))
        return found


def read_before(file: Path, source: Source, versions: NDArray[np.int64], about: dict[str, Any]) -> Before | None:
    """Find the embeddings of an existing file that can be reused; None if the file cannot be used.

    The user is told how many images are new, changed and removed, or why the encoder's changes prevent reuse.

    Args:
        file: The output file.
        source: The N images.
        versions: (N,), from `image_versions`.
        about: Description of the embeddings.
    """
    try:
        known, listed = read_about(file), read_table(_list_of(file), columns=("id", "version"))
        with open_table(file) as opened:
            rows = opened.metadata.num_rows
    except InputError:
        return None
    if any(known.get(name) != about[name] for name in about.keys() - _OF_IMAGES):
        tell(
            f"the encoder or its settings have changed since {file} was made: all {len(source):,} images are "
            "embedded again"
        )
        return None
    if rows != len(listed):
        return None
    found = rows_in(listed["id"], source.ids)
    same = listed["version"].to_numpy()[found] == versions
    before = Before(file, np.where((found >= 0) & same, found, -1))
    grown = Grown.of(found, same, rows)
    if any(grown):
        tell(grown.line(len(source), int((before.rows < 0).sum())))
    return before


def keep_images(file: Path, source: Source, versions: NDArray[np.int64], left_out: set[str]) -> None:
    """Store ids and versions of the images in a file's rows, for the next call.

    Args:
        file: The file.
        source: The N images.
        versions: (N,) versions of the images.
        left_out: Ids of images without a row.
    """
    kept = [position for position, image_id in enumerate(source.ids) if image_id not in left_out]
    ids = ids_as_bytes([source.ids[position] for position in kept])
    write_atomically(_list_of(file), parquet_bytes(pa.table({"id": ids, "version": versions[kept]})))


def _list_of(file: Path) -> Path:
    return file.with_name(f".{file.name}.images")
