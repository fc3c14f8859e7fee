"""Detects images that changed under the same names, by size and modification time of their files."""

import hashlib
import io
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sdclr.data.sources import Source, held_image, stored_image
from sdclr.errors import InputError
from sdclr.files import read_array, write_atomically
from sdclr.progress import listening, tell

_UNKNOWN = (-1, -1)


def file_states(source: Source) -> NDArray[np.int64]:
    """(N, 2) size in bytes and modification time in nanoseconds of each image's file; -1 if there is none.

    Call it before images are read: the next comparison then detects changes made meanwhile.
    """
    states = np.full((len(source), 2), -1, dtype=np.int64)
    last: tuple[Path | None, tuple[int, int]] = (None, _UNKNOWN)
    for index in range(len(source)):
        stored = stored_image(source, index)
        if stored is None:
            continue
        if stored.file != last[0]:  # a table holds many images
            last = (stored.file, _state(stored.file))
        states[index] = last[1]
    return states


def image_versions(source: Source) -> NDArray[np.int64]:
    """(N,) a number for each image that changes with its file, its box or its pixels in memory; 0 if unknown.

    For a file it depends on size and modification time, for a row of a table on those of the table.
    """
    versions = np.zeros(len(source), dtype=np.int64)
    for index, state in enumerate(file_states(source).tolist()):
        stored, held = stored_image(source, index), held_image(source, index)
        if stored is not None:
            known = f"{state} {stored.decoder}".encode()  # the decoder of a box includes its edges
        elif held is not None:
            known = np.array(held.shape).tobytes() + np.ascontiguousarray(held).tobytes()
        else:
            continue
        versions[index] = int.from_bytes(hashlib.blake2b(known, digest_size=8).digest(), "little", signed=True)
    return versions


class Grown(NamedTuple):
    """Numbers of new, changed and removed images."""

    new: int
    changed: int
    gone: int

    @classmethod
    def of(cls, rows: NDArray[np.int64], same: NDArray[np.bool_], before: int) -> Self:
        """Count new, changed and removed images.

        Args:
            rows: (N,) row of each current image among the earlier images, -1 if there is none.
            same: (N,) whether its version equals that of the row.
            before: Number of earlier images.
        """
        found = rows >= 0
        return cls(int((~found).sum()), int((found & ~same).sum()), before - int(found.sum()))

    def line(self, images: int, left: int) -> str:
        """The numbers as a line of text.

        Args:
            images: Number of current images.
            left: Number of images that must be embedded.
        """
        return f"{images:,} images: {self.new:,} new, {self.changed:,} changed, {self.gone:,} gone; {left:,} to embed"


def rows_in(known: pa.ChunkedArray, ids: Sequence[str]) -> NDArray[np.int64]:
    """(N,) row of each id in `known`, ids as returned by `ids_as_bytes`; -1 if there is none."""
    found = pc.index_in(ids_as_bytes(ids), value_set=known.combine_chunks())
    rows: NDArray[np.int64] = found.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return rows


def ids_as_bytes(ids: Sequence[str]) -> pa.Array:
    """Encode ids as bytes, because names that are not UTF-8 have lone surrogates."""
    return pa.array([image_id.encode("utf-8", "surrogateescape") for image_id in ids], pa.binary())


def changed_since(path: Path, states: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions of images whose state differs from that written by `keep_states`; empty if it wrote none for them."""
    try:
        before = read_array(path)
    except InputError:
        return np.empty(0, dtype=np.int64)
    if before.shape != states.shape:
        return np.empty(0, dtype=np.int64)
    return np.flatnonzero((before != states).any(axis=1))


def keep_states(path: Path, states: NDArray[np.int64]) -> None:
    """Write the states of images for a later comparison, unless the file already holds them."""
    with suppress(InputError):
        if np.array_equal(read_array(path), states):
            return
    buffer = io.BytesIO()
    np.save(buffer, states)
    write_atomically(path, buffer.getbuffer())


def described(source: Source, changed: NDArray[np.int64]) -> str:
    """The number of changed images and the id of the first, as part of a message."""
    first = source.ids[int(changed[0])]
    return (
        f"1 image has changed: {first}" if len(changed) == 1 else f"{len(changed)} images have changed, first {first},"
    )


def warn_of_changes(path: Path, source: Source, states: NDArray[np.int64], *, begun: bool) -> None:
    """Report images that were replaced since the last training, with a warning if there is no listener.

    Then write the current states. Training continues: it identifies images by name, and new versions of a few do no
    harm. The result differs, though.

    Args:
        path: File of the states, in the training folder.
        source: The images.
        states: Current states.
        begun: Whether training had begun before.
    """
    if not (states >= 0).any():
        return
    changed = changed_since(path, states)
    if begun and len(changed):
        line = f"{described(source, changed)} since {path.parent} was last trained: it continues with the current files"
        if listening() is None:
            warnings.warn(line, stacklevel=3)
        tell(line)
    keep_states(path, states)


def _state(file: Path) -> tuple[int, int]:
    try:
        status = file.stat()
    except OSError:
        return _UNKNOWN
    return status.st_size, status.st_mtime_ns
