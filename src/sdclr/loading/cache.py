"""A disk cache of decoded and shrunk images, from which later epochs draw their views.

An entry is one file: a header and the raw pixels, which are memory-mapped and not read. Its name is a hash of the
image's location (its file, or its row in a Parquet file) and of everything that determines its pixels (the size, the
versions of the decoding libraries). The header holds size and modification time of the file and checksums. An entry is
written to a temporary file and renamed, so processes need no locks and never read a half-written entry. Missing, stale
and damaged entries are decoded and written again: the cache saves time and changes no result.

The cache is in `$XDG_CACHE_HOME/sdclr/images`, by default `~/.cache/sdclr/images`. All runs of a user share it. It may
be deleted at any time, even during a run.
"""

import mmap
import os
import secrets
import shutil
import struct
import time
import warnings
import zlib
from collections.abc import Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Final, NamedTuple

import cv2
import numpy as np
import PIL
import torch
from numpy.typing import NDArray

from sdclr.data.source import IndirectSource, Source, image_blocks, shrunk_image, stored_image
from sdclr.data.stored import CACHE_GB, Stored
from sdclr.errors import BadImageError
from sdclr.files import user_cache_folder

_FORMAT: Final = "1"
_MAGIC: Final = b"sdclrpix"
_HEAD: Final = struct.Struct("<8sQqIIQI")
"""Magic, size and modification time of the image's file, height, width, checksums of the pixels and of the header."""
_PIXELS_AT: Final = 64
_SAMPLED: Final = 4
"""Number of images that are decoded to estimate the space of all images."""
_ABANDONED: Final = 3600.0
"""Seconds after which a temporary file belongs to a process that has ended."""
_FREE_SHARE: Final = 0.5
"""Fraction of the free disk space that the cache may take."""


def cached(source: Source, side: int, *, limit_gb: float = CACHE_GB, writers: int = 1, tell: bool = True) -> Source:
    """A source whose images are decoded once, if they come from files and there is room for them.

    The least recently used entries, of any set, are removed to make room for new ones. If there is too little room for
    all images, some are kept, and the others are decoded each time.

    Args:
        source: The images.
        side: The short side to which they are shrunk; see `sdclr.decoding.shrink`.
        limit_gb: Maximum size of the whole cache in GB; 0 disables it.
        writers: Number of processes that share the room for new entries.
        tell: Warn in one line if the cache cannot be written or holds only a part of the images.

    Returns:
        A `CachedSource`, for `shrunk_image`; `source` itself if nothing can be kept.

    Examples:
        >>> images = cached(sdclr.open_source("images"), 32)
        >>> shrunk_image(images, 0, 32).shape
        (32, 32, 3)
    """
    if limit_gb <= 0 or stored_image(source, 0) is None:
        return source
    folder: Path | str = "cache"
    try:
        folder = user_cache_folder() / "images"
        store = _Store(folder, side)
        store.check()
        images = CachedSource(source, side, store)
        need = images.expected_bytes()
        room = store.make_room(need, images, round(limit_gb * 1e9)) if need else 0
    except OSError as error:
        if tell:
            warnings.warn(
                f"{folder}: decoded images cannot be kept here ({error.strerror or error}), so that every epoch "
                "decodes them again: set XDG_CACHE_HOME to a folder that can be written",
                stacklevel=2,
            )
        return source
    if tell and room < need:
        warnings.warn(
            f"{folder}: has room for {_gb(room)} of {_gb(need)} of decoded images, so that every epoch decodes the "
            f"rest again: raise --cache-gb from {limit_gb:g}, or free disk space",
            stacklevel=2,
        )
    images.share_room(writers)
    return images


class CachedSource(IndirectSource):
    """Images of another source that are kept on disk once they are shrunk. See `cached`.

    Args:
        source: The images.
        side: The short side to which they are shrunk.
        store: The folder of the cache.
    """

    def __init__(self, source: Source, side: int, store: "_Store") -> None:
        self.source = source
        self.name, self.ids, self.labels, self.classes = source.name, source.ids, source.labels, source.classes
        self.attributes: NDArray[np.generic] | None = getattr(source, "attributes", None)
        self.attribute_names: Sequence[str] = getattr(source, "attribute_names", ())
        self.trouble: str | None = None
        """Reason why this process has stopped writing, if it has."""
        self._side, self._store = side, store
        self._left = 0
        # Entries that this run has written or checked, shared by all its decoding processes.
        self._known = torch.zeros(len(source), dtype=torch.uint8)
        self._known.share_memory_()  # type: ignore[no-untyped-call]  # torch leaves it untyped

    def __len__(self) -> int:
        return len(self.source)

    def place(self, index: int) -> tuple[Source, int]:
        """The source, and an image's position there."""
        return self.source, index

    def blocks(self) -> NDArray[np.int64] | None:
        """The shard or row group of each image; see `image_blocks`."""
        return image_blocks(self.source)

    def shrunk(self, index: int, side: int) -> NDArray[np.uint8]:
        """One image, shrunk, `(H, W, 3)`, read-only; see `shrunk_image`."""
        if side != self._side:
            return shrunk_image(self.source, index, side)
        stored = stored_image(self.source, index)
        state = None if stored is None else _state(stored.file)
        if stored is None or state is None:
            return shrunk_image(self.source, index, side)
        path, known = self._store.path(stored), bool(self._known[index])
        pixels = _read(path, state, check=not known)
        if pixels is None:
            pixels = shrunk_image(self.source, index, side)
            known = not self._keep(path, state, pixels)
        if not known:
            self._known[index] = 1
            with suppress(OSError):
                os.utime(path)  # the least recently used entries are removed first
        return pixels

    def expected_bytes(self) -> int:
        """Estimated space of all images in bytes, from a few of them; 0 if those cannot be decoded."""
        sizes = []
        for index in np.unique(np.linspace(0, len(self) - 1, _SAMPLED).astype(np.int64)).tolist():
            with suppress(BadImageError):
                sizes.append(_PIXELS_AT + self.shrunk(index, self._side).nbytes)
        return round(len(self) * sum(sizes) / len(sizes)) if sizes else 0

    def entries(self) -> set[str]:
        """Names of the entries of all images, whether they exist or not."""
        places = (stored_image(self.source, index) for index in range(len(self)))
        return {self._store.name(stored) for stored in places if stored is not None}

    def share_room(self, writers: int) -> None:
        """Let each of `writers` processes write its share of the available room."""
        self._left = self._store.room // max(1, writers)

    def _keep(self, path: Path, state: "_State", pixels: NDArray[np.uint8]) -> bool:
        """Write an entry if there is room; return whether it was written."""
        size = _PIXELS_AT + pixels.nbytes
        if size > self._left:
            return False
        try:
            _write(path, state, pixels)
        except OSError as error:  # usually a full disk
            self._left = 0
            self.trouble = (
                f"{self._store.folder}: {error.strerror or error}, so that images that are not yet kept are decoded "
                "in every epoch: free disk space, or lower --cache-gb"
            )
            return False
        self._left -= size
        return True


class _State(NamedTuple):
    """Size and modification time of a file, to detect changes."""

    size: int
    changed: int


def _state(file: Path) -> _State | None:
    """The state of a file; None if it cannot be read, which decoding will report."""
    try:
        status = file.stat()
    except OSError:
        return None
    return _State(status.st_size, status.st_mtime_ns)


class _Store:
    """The folder of the cache, for images of one size."""

    def __init__(self, folder: Path, side: int) -> None:
        self.folder = folder
        self.room = 0
        versions = (_FORMAT, PIL.__version__, cv2.__version__, torch.__version__)
        self._settings = f"{side} {' '.join(versions)}"

    def path(self, stored: Stored) -> Path:
        """The file of an entry."""
        name = self.name(stored)
        return self.folder / name[0] / name  # few folders: ext4 spreads them over the disk, which takes time

    def name(self, stored: Stored) -> str:
        """The name of the file of an entry."""
        place = os.fsencode(os.path.abspath(stored.file))  # noqa: PTH100  # a tenth of Path's time
        page = f"\0{stored.at}" if stored.at else ""
        what = f"\0{stored.row}\0{stored.decoder}{page}\0{self._settings}".encode()
        return blake2b(place + what, digest_size=16).hexdigest()

    def check(self) -> None:
        """Create the folder, and check that it is writable.

        Raises:
            OSError: It is not writable.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        probe = self.folder / f".{secrets.token_hex(8)}"
        probe.write_bytes(b"")
        probe.unlink()

    def make_room(self, need: int, images: CachedSource, limit: int) -> int:
        """Remove the least recently used entries until the entries of all images fit, or no others are left.

        Args:
            need: Bytes of all entries of the images.
            images: The images.
            limit: Maximum size of the cache in bytes.

        Returns:
            Bytes that entries of these images may take, including existing entries.
        """
        found = self._found()
        total = sum(size for size, _ in found.values())
        free = shutil.disk_usage(self.folder).free
        names = images.entries() if found else set()
        own = {path for path in found if path.name in names}
        had = sum(found[path][0] for path in own)
        others = sorted(found.keys() - own, key=lambda path: found[path][1])
        for path in [*others, *sorted(own)]:
            short = need - had > min(limit - total, int(_FREE_SHARE * free))
            if not (total > limit or (short and path not in own)):
                break
            path.unlink(missing_ok=True)
            size = found[path][0]
            total, free = total - size, free + size
            had -= size if path in own else 0
        self.room = max(0, min(limit - total, int(_FREE_SHARE * free)))
        return had + self.room

    def _found(self) -> dict[Path, tuple[int, float]]:
        """Size and time of last use of every entry; removes abandoned temporary files."""
        found = {}
        for folder in self.folder.iterdir():
            with suppress(OSError), os.scandir(folder) as entries:
                for entry in entries:
                    status = entry.stat()
                    if entry.name.startswith(".") and time.time() - status.st_mtime > _ABANDONED:
                        Path(entry.path).unlink(missing_ok=True)
                        continue
                    found[Path(entry.path)] = (status.st_size, status.st_mtime)
        return found


def _read(path: Path, state: _State, *, check: bool) -> NDArray[np.uint8] | None:
    """The pixels of an entry, memory-mapped; None if it is missing, stale or damaged.

    Args:
        path: The entry.
        state: The current state of the image's file.
        check: Check the checksum of the pixels, too.
    """
    try:
        file = os.open(path, os.O_RDONLY)
        try:
            mapped = mmap.mmap(file, 0, access=mmap.ACCESS_READ)
        finally:
            os.close(file)
        magic, size, changed, height, width, pixels_sum, head_sum = _HEAD.unpack_from(mapped)
    except (OSError, ValueError, struct.error):
        return None
    sound = magic == _MAGIC and head_sum == zlib.crc32(mapped[: _HEAD.size - 4])
    if not sound or (size, changed) != state or len(mapped) != _PIXELS_AT + 3 * height * width:
        return None
    pixels = np.frombuffer(mapped, dtype=np.uint8, offset=_PIXELS_AT)
    if check and _sum(pixels) != pixels_sum:
        return None
    return pixels.reshape(height, width, 3)


def _write(path: Path, state: _State, pixels: NDArray[np.uint8]) -> None:
    """Write an entry completely or not at all.

    It need not be on disk when this returns: after a power failure, a partial entry has a wrong checksum.

    Raises:
        OSError: The entry cannot be written.
    """
    pixels = np.ascontiguousarray(pixels)
    head = _HEAD.pack(_MAGIC, *state, *pixels.shape[:2], _sum(pixels), 0)[:-4]
    head += struct.pack("<I", zlib.crc32(head))
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    if not path.parent.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with aside.open("xb") as file:
            file.write(head.ljust(_PIXELS_AT, b"\0"))
            file.write(pixels.data)
        aside.replace(path)
    except OSError:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        raise


def _sum(pixels: NDArray[np.uint8]) -> int:
    """A checksum: the sum of all 64-bit words, which takes a tenth of the time of a CRC.

    It detects lost pages and single wrong bits.
    """
    flat = pixels.reshape(-1)
    words = flat[: len(flat) // 8 * 8].view(np.uint64)
    return (int(words.sum()) + int(flat[8 * len(words) :].sum())) % 2**64


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 5e7 else f"{size / 1e9:.2g} GB"
