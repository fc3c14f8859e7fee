"""Image sources in tar shards in the WebDataset layout, with random access by an index."""

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sdclr.data.annotations import encode_labels
from sdclr.data.intensities import SeenByRange
from sdclr.data.parquet import files_of_split
from sdclr.data.stored import Stored
from sdclr.data.tar_index import SCHEMA, read_index
from sdclr.decoding.decode import BadImage, decode_image
from sdclr.decoding.formats import OTHER_SUFFIX
from sdclr.errors import BadImageError, InputError
from sdclr.files import check_keys, damaged, read_json
from sdclr.limits import ROW_GROUP, ROWS, TABLE
from sdclr.progress import stage

MANIFEST: Final = "manifest.json"
"""The file of `sdclr pack` that describes the shards beside it: ids, classes, counts, checksums."""
FORMAT: Final = "sdclr-shards-1"
_KEYS: Final = {"sha256": str, "first": int, "ids": list}
_NUMBERS: Final = re.compile(r"\{(\d{1,18})\.\.(\d{1,18})\}", flags=re.ASCII)
_ADDRESS: Final = re.compile(r"(pipe|[a-z][a-z0-9+.-]+:/)[:/]", flags=re.ASCII | re.IGNORECASE)
_SLICE: Final = 2**20


class ShardSource(SeenByRange):
    """Images in tar shards of the WebDataset layout: `KEY.jpg`, with its label in `KEY.cls` or `KEY.json`.

    Each shard is indexed once (`read_index`); after that, each image takes one read of its bytes. Order, batches and
    resuming are therefore as with any other source. An image's id is `SHARD.tar/KEY`, or its id in the `manifest.json`
    of `sdclr pack`. Members that are not usable images are listed in `skipped`, and so are images of that manifest that
    are missing from a shard.

    Args:
        shards: The tars, in order.
        keep_index: Keep the index in the user's cache.

    Raises:
        InputError: A shard is missing, or no shard holds an image.

    Examples:
        >>> shards = sdclr.pack("images", "shards").folder.glob("*.tar")
        >>> ShardSource(sorted(shards)).ids[0]
        'circle/00.jpg'
    """

    def __init__(self, shards: Sequence[Path], *, keep_index: bool = True) -> None:
        self._files = tuple(shards)
        self._root = Path(os.path.commonpath([file.absolute().parent for file in shards]))
        self.name = self._root.name
        manifests = {folder: _manifest(folder) for folder in {file.parent for file in shards}}
        self._checksums: dict[Path, str] = {}
        self.skipped: list[BadImage] = []
        parts = []
        ids: list[pa.Array] = []
        with stage("indexing shards", len(shards), unit="shards") as update:
            for number, file in enumerate(shards, start=1):
                manifest = manifests[file.parent]
                told = manifest["shards"].get(file.name) if manifest else None
                if told is None and not file.is_file():
                    raise InputError(f"{file} is not a file; give a folder of .tar files, or a-{{000..009}}.tar")
                table = read_index(file, keep=keep_index) if file.is_file() else SCHEMA.empty_table()
                parts.append(table.filter(pc.is_null(table["fault"])))
                ids.append(self._checked(file, parts[-1], table.filter(pc.is_valid(table["fault"])), told))
                if told is not None:
                    self._checksums[file] = told["sha256"]
                update(number)
        self._ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
        if not len(self):
            why = f": {self.skipped[0].id}: {self.skipped[0].reason}" if self.skipped else ""
            raise InputError(
                f"{self._root}: no image is in its tar files ({len(shards)}){why}; give tars with .jpg, .png, …"
            )
        ROWS.check(len(self), f"{self._root}: has {{}} images")
        TABLE.check(sum(part.nbytes for part in parts), f"{self._root}: keys and labels take {{}} bytes")
        texts = pa.concat_arrays(ids)
        self.ids: Sequence[str] = _Texts(texts)
        if pc.count_distinct(texts).as_py() < len(self):
            raise InputError(f"{self._root}: {MANIFEST} names two images alike; pack the images again")
        table = pa.concat_tables(parts)
        self._offsets, self._sizes = (table[name].to_numpy() for name in ("offset", "size"))
        named = {tuple(map(str, manifest["classes"])) for manifest in manifests.values() if manifest}
        self.labels, self.classes = self._read_labels(table["label"], named.pop() if len(named) == 1 else ())

    def __len__(self) -> int:
        return int(self._ends[-1])

    def image(self, index: int, *, min_side: int | None = None) -> NDArray[np.uint8]:
        """Decode one image to RGB, `(H, W, 3)`; see `decode_image`."""
        data, seen = self.encoded(index), self.intensities
        return decode_image(data, image_id=self.ids[index], min_side=min_side, intensities=seen)

    def encoded(self, index: int) -> bytes:
        """The stored bytes of one image.

        Raises:
            BadImageError: The image is too large, or the shard was removed or truncated after it was opened.
        """
        size, limit = int(self._sizes[index]), ROW_GROUP.value
        if size > limit:
            raise BadImageError(self.ids[index], f"{size:,} bytes, limit {limit:,}; {ROW_GROUP.variable} raises it")
        try:
            # Opened for each image: this takes less time than decoding, and shards need not stay open.
            file = os.open(self._file(index), os.O_RDONLY)
            try:
                data = os.pread(file, size, int(self._offsets[index]))
            finally:
                os.close(file)
        except OSError as error:
            raise BadImageError(self.ids[index], f"{self._file(index).name}: {error.strerror or error}") from error
        if len(data) < size:
            raise BadImageError(self.ids[index], "truncated")
        return data

    def stored(self, index: int) -> Stored:
        """Location of an image; see `stored_image`."""
        return Stored(self._file(index), int(self._offsets[index]), self.decoder())

    def blocks(self) -> NDArray[np.int64]:
        """`(N,)` number of the shard of each image; see `image_blocks`."""
        return np.repeat(np.arange(len(self._files)), np.diff(self._ends, prepend=0))

    def damaged_files(self) -> list[BadImage]:
        """Shards whose bytes differ from those that `sdclr pack` wrote, by their checksums in the manifest."""
        found = []
        with stage("comparing checksums", len(self._checksums), unit="shards") as update:
            for number, (file, told) in enumerate(self._checksums.items(), start=1):
                if _digest(file) != told:
                    reason = "other bytes than when it was packed"
                    found.append(BadImage(self._relative(file), reason, counted=True))
                update(number)
        return found

    def _file(self, index: int) -> Path:
        return self._files[int(np.searchsorted(self._ends, range(len(self))[index], side="right"))]

    def _relative(self, file: Path) -> str:
        return file.absolute().relative_to(self._root).as_posix()

    def _checked(self, file: Path, images: pa.Table, faults: pa.Table, told: dict[str, Any] | None) -> pa.Array:
        """The ids of the images of a shard; missing images and other members are added to `skipped`."""
        shard = self._relative(file)
        for name, reason in zip(faults["key"].to_pylist(), faults["fault"].to_pylist(), strict=True):
            counted = reason != OTHER_SUFFIX
            self.skipped.append(BadImage(f"{shard}/{name}" if name else shard, reason, counted=counted))
        keys = images["key"].combine_chunks()
        if told is None:
            return pc.binary_join_element_wise(shard, keys, "/").cast(pa.large_string()).cast(pa.large_binary())
        names = [str(name) for name in told["ids"]]
        places = {
            f"{number:09d}": place for place, number in enumerate(range(told["first"], told["first"] + len(names)))
        }
        found = [places.pop(key, -1) for key in keys.to_pylist()]
        if -1 in found:
            raise InputError(
                f"{file}: holds other images than {MANIFEST} says; pack the images again, or remove {MANIFEST}"
            )
        self.skipped += [BadImage(names[place], f"missing from {shard}", counted=True) for place in places.values()]
        return pa.array([names[place].encode("utf-8", "surrogateescape") for place in found], pa.large_binary())

    def _read_labels(
        self, texts: pa.ChunkedArray, names: tuple[str, ...]
    ) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
        if texts.null_count == len(texts):
            return None, ()
        # Labels repeat: each different label is read once.
        encoded = pa.chunked_array(texts.chunks).combine_chunks().dictionary_encode()
        values, classes = encode_labels([*encoded.dictionary.to_pylist(), None], str(self._root))
        places = encoded.indices.fill_null(len(encoded.dictionary)).to_numpy(zero_copy_only=False)
        return values[places], classes or (names if values.max() < len(names) else ())


class _Texts(Sequence[str]):
    """A compact sequence of texts; file names that are not UTF-8 have lone surrogates."""

    def __init__(self, texts: pa.LargeBinaryArray) -> None:
        self._texts = texts

    def __len__(self) -> int:
        return len(self._texts)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [_text(value) for value in self._texts[index].to_pylist()]
        return _text(self._texts[index].as_py())

    def __iter__(self) -> Iterator[str]:
        for begin in range(0, len(self), _SLICE):
            yield from self[begin : begin + _SLICE]


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


def open_shards(spec: str | Path, *, split: str | None = None, keep_index: bool = True) -> ShardSource:
    """Open tar shards.

    Args:
        spec: A tar; a folder of tars; or a pattern, "train-{000000..000009}.tar".
        split: In a folder, select the tars whose name starts with this. By default "train" if there are several
            beginnings.
        keep_index: Keep the index in the user's cache.

    Raises:
        InputError: A shard is missing, no shard is found, or the name is an address: nothing is downloaded.
    """
    text = str(spec)
    if _ADDRESS.match(text):
        raise InputError(
            f"wds:{text}: shards are read from disk, not through a network or a pipe; copy them to a folder, or mount "
            "it, and give wds:FOLDER"
        )
    path = Path(text).expanduser()
    if path.is_dir():
        tars = sorted(file for file in path.glob("*.tar") if not file.name.startswith("."))
        if not tars:
            raise InputError(f"{path}: holds no .tar files; give the folder that does")
        named = [path / name for name in (_manifest(path) or {"shards": ()})["shards"]]
        files = list(files_of_split(path, sorted({*tars, *named}), split, default=True)[0])
        return ShardSource(files, keep_index=keep_index)
    files = [Path(name) for name in _spelled_out(str(path))]
    if split is not None:
        raise InputError(f"{path}: has no split {split!r}; name the shards of that split")
    return ShardSource(files, keep_index=keep_index)


def _spelled_out(text: str) -> Iterator[str]:
    """Expand a pattern to names."""
    numbers = _NUMBERS.search(text)
    if numbers is None:
        yield text
        return
    first, last = int(numbers[1]), int(numbers[2])
    ROWS.check(abs(last - first) + 1, f"{text}: stands for {{}} shards")
    for number in range(first, last + 1):
        yield from _spelled_out(f"{text[: numbers.start()]}{number:0{len(numbers[1])}d}{text[numbers.end() :]}")


def _manifest(folder: Path) -> dict[str, Any] | None:
    """The description of the shards in a folder by `sdclr pack`; None if it has not written them."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    remedy = f"pack the images again, or remove {MANIFEST}"
    values = read_json(path, remedy)
    if values.get("format") != FORMAT:  # written by another tool
        return None
    check_keys(path, values, {"classes": list, "shards": dict}, remedy)
    for name, entry in values["shards"].items():
        if Path(name).name != name:
            raise damaged(path, f"it names {name!r}, which is not a file beside it", remedy)
        check_keys(path, entry if isinstance(entry, dict) else {}, _KEYS, remedy)
    return values


def _digest(file: Path) -> str | None:
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError:
        return None
