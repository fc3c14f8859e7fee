"""Open image sources of all kinds, and select subsets."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdclr.data.arrays import ArraySource, cifar, digits
from sdclr.data.box_files import is_boxes, open_boxes, split_options
from sdclr.data.boxes import BoxSource
from sdclr.data.drawing import check_indices
from sdclr.data.folder import FolderSource
from sdclr.data.hugging_face import open_data_set, open_hugging_face
from sdclr.data.intensities import with_intensities
from sdclr.data.manifest import ManifestSource
from sdclr.data.manifest_rows import SUFFIXES as MANIFESTS
from sdclr.data.parquet import ParquetSource, holds_images, parquet_files
from sdclr.data.shards import ShardSource, open_shards
from sdclr.data.source import (
    IndirectSource,
    Source,
    attributes_of,
    held_image,
    image_blocks,
    image_bytes,
    image_file,
    image_header,
    shrunk_image,
    stored_image,
    whole_image,
)
from sdclr.data.torch_dataset import Indexed
from sdclr.errors import InputError
from sdclr.files import absent_images, looking_at
from sdclr.intensities import Intensities

__all__ = [
    "ArraySource",
    "BoxSource",
    "FolderSource",
    "ImageSource",
    "ManifestSource",
    "ParquetSource",
    "ShardSource",
    "Source",
    "SubsetSource",
    "attributes_of",
    "cifar",
    "digits",
    "fingerprint",
    "held_image",
    "image_blocks",
    "image_bytes",
    "image_file",
    "image_header",
    "open_source",
    "shrunk_image",
    "stored_image",
    "whole_image",
]

SPLIT_NAMES = frozenset({"train", "training", "test", "testing", "val", "valid", "validation", "dev"})
"""Subfolders with these names are splits of a data set, not classes."""


_KINDS: Final = ("cifar10", "cifar100", "hf", "wds")
"""Kinds of images, as named before the colon of a text."""

_NO_ROOT: Final = "{} is not a manifest, and only manifests have a root: leave out root={}"

ImageSource: TypeAlias = Source | NDArray[np.uint8] | Path | str | Indexed | Iterable[Any]
"""Types that `open_source` accepts. The last two are data sets of torch and of Hugging Face's `datasets`."""


class SubsetSource(IndirectSource):
    """Some images of another source.

    Args:
        source: The source.
        indices: Positions in the source, each at most once, in the desired order.
        name: By default the source's name and the subset's size.

    Raises:
        InputError: An index is out of range or repeated.
    """

    def __init__(self, source: Source, indices: ArrayLike, name: str | None = None) -> None:
        self.indices = check_indices(indices, len(source), source.name)
        self.source = source
        self.name = name or f"{source.name}[{len(self.indices)}]"
        self.ids: Sequence[str] = [source.ids[index] for index in self.indices.tolist()]
        self.labels = None if source.labels is None else source.labels[self.indices]
        self.classes = source.classes
        attributes = attributes_of(source)
        self.attributes = None if attributes is None else attributes.values[self.indices]
        self.attribute_names = () if attributes is None else attributes.names

    def __len__(self) -> int:
        return len(self.indices)

    def place(self, index: int) -> tuple[Source, int]:
        """The source, and an image's position there."""
        return self.source, int(self.indices[index])

    def blocks(self) -> NDArray[np.int64] | None:
        """The shard or row group of each image; see `image_blocks`."""
        blocks = image_blocks(self.source)
        return None if blocks is None else blocks[self.indices]


def open_source(spec: ImageSource, *, split: str | None = None) -> Source:
    """Open images as a source.

    Args:
        spec: A source; an array; "digits"; "cifar10:FOLDER", "cifar100:FOLDER"; a folder of images or parquet files; a
            `.csv`, `.txt` or `.parquet` manifest; a `.parquet` file of images; tar shards, "wds:FOLDER" or
            "wds:FOLDER/a-{000..009}.tar"; a folder of Hugging Face's `datasets`, "hf:FOLDER"; a data set of `datasets`
            or torch. A text may end in ":SPLIT".
        split: The split, if the text does not name it. By default "train" if there are several.

    Returns:
        The source.

    Raises:
        InputError: No usable images are found, or the split is unknown or named twice.

    Examples:
        >>> source = sdclr.open_source("images")
        >>> len(source), source.classes, source.image(0).shape
        (60, ('circle', 'square', 'star'), (64, 64, 3))
        >>> len(sdclr.open_source("digits:test"))
        500
    """
    if isinstance(spec, np.ndarray):
        return ArraySource(spec)
    if not isinstance(spec, (str, Path)):
        source = spec if isinstance(spec, Source) else open_data_set(spec)
        if source is None:
            kind = type(spec).__name__
            raise InputError(f"{kind} is not a source of images; give a path, a uint8 array, a data set or a source")
        return source
    if not str(spec).strip():
        raise InputError("an empty name is not a source of images: give a folder or file (is a shell variable unset?)")
    with looking_at(spec):
        named, ranged = _without(spec, "intensities")
        found = _open_named(named, split)
        if ranged is None:
            return found
        chosen = with_intensities(found, Intensities.parse(ranged), given=True)
        if chosen is found:
            raise InputError(f"{named}: its images have 8 bits: leave out intensities={ranged}")
        return chosen


def _open_named(spec: str | Path, split: str | None) -> Source:
    """Open the images that a text or a path names."""
    spec, root = _without(spec, "root")
    kind, _, rest = str(spec).partition(":")
    known = kind == "digits" or (kind in _KINDS and bool(rest) and not Path(spec).exists())
    if root is not None and (known or is_boxes(spec)):
        raise InputError(_NO_ROOT.format(spec, root))
    if is_boxes(spec):
        return open_boxes(spec, split=split)
    if kind == "digits":
        return digits(_one_split(rest or None, split, spec) or "train")
    if known:
        return _open_kind(kind, rest, split)
    path, spelled = _path_and_split(str(spec))
    return _open_path(path, _one_split(spelled, split, spec), root)


def _without(spec: str | Path, option: str) -> tuple[str | Path, str | None]:
    """Remove one option from a name of images; return the rest and the option's value."""
    place, options = split_options(str(spec))
    if option not in options or Path(spec).exists():
        return spec, None
    value = options.pop(option)
    return ",".join([place, *(f"{name}={text}" for name, text in options.items())]), value


def _open_kind(kind: str, rest: str, split: str | None) -> Source:
    """Open the images of a text that names their kind before a colon."""
    place, options = split_options(rest) if kind == "hf" else (rest, {})
    path, spelled = _path_and_split(place)
    split = _one_split(spelled, split, f"{kind}:{rest}")
    match kind:
        case "hf":
            return open_hugging_face(path, options, split=split)
        case "wds":
            return open_shards(path if spelled else rest, split=split)
        case _:
            return cifar(path, "cifar10" if kind == "cifar10" else "cifar100", split or "train")


def fingerprint(source: Source) -> str:
    """SHA-256 of the ids in order, to check that a resumed run uses the same images."""
    digest = hashlib.sha256()
    for image_id in source.ids:
        # File names contain no NUL, so it separates the ids. Names that are not UTF-8 have lone surrogates.
        digest.update(image_id.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()


def _path_and_split(text: str) -> tuple[Path, str | None]:
    whole = Path(text).expanduser()
    place, colon, split = text.rpartition(":")
    if colon and place and split and not whole.exists() and Path(place).expanduser().exists():
        return Path(place).expanduser(), split
    return whole, None


def _one_split(spelled: str | None, given: str | None, spec: object) -> str | None:
    if spelled and given and spelled != given:
        raise InputError(f"{spec}: names the split {spelled!r}, but {given!r} is asked for too; name it once")
    return spelled or given


def _open_path(path: Path, split: str | None, root: str | None) -> Source:
    if not path.exists():
        place, options = split_options(str(path))
        if options and Path(place).exists():
            raise InputError(f"{path}: has no option {next(iter(options))!r}; use intensities=LOW,HIGH or root=FOLDER")
        raise absent_images(path)
    if root is not None and not Path(root).expanduser().is_dir():
        raise InputError(f"root={root} is not a folder; give the folder that the paths of {path} start from")
    if root is not None and path.suffix.lower() not in MANIFESTS:
        raise InputError(_NO_ROOT.format(path, root))
    if path.is_dir():
        return _open_folder(path, split)
    if path.suffix.lower() == ".tar":
        return open_shards(path, split=split)
    if root is None and path.suffix.lower() == ".parquet" and holds_images(path):
        return ParquetSource(path, split=split)
    if path.suffix.lower() not in MANIFESTS:
        raise InputError(
            f"{path}: is neither a folder nor a {', '.join(MANIFESTS)} or COCO .json file; give the folder of images"
        )
    if split is not None:
        raise InputError(f"{path}: a manifest has no split {split!r}; give one manifest for each split")
    return ManifestSource(path, root=None if root is None else Path(root).expanduser())


def _open_folder(path: Path, split: str | None) -> Source:
    tables = parquet_files(path)
    if tables and holds_images(tables[0]):
        return ParquetSource(path, split=split)
    folders = sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if split is None and folders and SPLIT_NAMES.issuperset(folders) and len(folders) > 1:
        if "train" not in folders:
            raise InputError(f"{path}: holds the splits {', '.join(folders)}; name one, as in {path}:{folders[0]}")
        split = "train"
    if split is None:
        return FolderSource(path)
    if split not in folders:
        raise InputError(f"{path}: holds no split {split!r}; it has the folders {', '.join(folders) or '(none)'}")
    return _open_folder(path / split, None)
