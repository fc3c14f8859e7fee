"""Where images come from: one small protocol, and every kind of collection behind it.

Labels that a source carries serve evaluation and reports alone; nothing here hands them to training.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdclr.data.annotations import NumberedIds, check_unique, encode_labels
from sdclr.data.attributes import Attributes
from sdclr.data.folder import FolderSource
from sdclr.data.longtail import check_indices, train_validation_split
from sdclr.data.manifest import ManifestSource
from sdclr.data.parquet import ParquetSource, holds_images, parquet_files
from sdclr.data.shrink import shrink
from sdclr.data.stored import Stored
from sdclr.errors import InputError
from sdclr.files import looking_at

__all__ = [
    "ArraySource",
    "FolderSource",
    "ImageSource",
    "ManifestSource",
    "ParquetSource",
    "Source",
    "SubsetSource",
    "attributes_of",
    "cifar",
    "digits",
    "fingerprint",
    "image_bytes",
    "image_file",
    "open_source",
    "shrunk_image",
    "stored_image",
]

SPLIT_NAMES = frozenset({"train", "training", "test", "testing", "val", "valid", "validation", "dev"})
"""Sub-folders of these names are splits of a data set, not classes."""


@runtime_checkable
class Source(Protocol):
    """Anything that names images and can give each of them."""

    name: str
    """Short, for reports: "digits-train", the folder's name."""
    ids: Sequence[str]
    """One stable and unique id for each image: a relative path, "train/00012"."""
    labels: NDArray[np.int64] | None
    """Class ids `(N,)`, -1 where unknown; None where the source has none."""
    classes: tuple[str, ...]
    """Class names, () where there are none."""

    def __len__(self) -> int: ...

    def image(self, index: int, *, min_side: int | None = None) -> NDArray[np.uint8]:
        """Decode one image.

        Args:
            index: Its position.
            min_side: A JPEG may come at reduced scale as long as its shorter side keeps this many pixels.

        Returns:
            RGB, `(H, W, 3)`.

        Raises:
            BadImageError: The image cannot be decoded.
        """
        ...


ImageSource: TypeAlias = Source | NDArray[np.uint8] | Path | str
"""What `open_source` takes."""


def image_file(source: Source, index: int) -> Path | None:
    """The file of one image, or None where images are no files of their own: in memory, or rows of a table."""
    file: Callable[[int], Path | None] | None = getattr(source, "file", None)
    return None if file is None else file(index)


def image_bytes(source: Source, index: int) -> bytes | None:
    """The encoded bytes of an image that is a row of a table; None where a source stores no such bytes."""
    encoded: Callable[[int], bytes | None] | None = getattr(source, "encoded", None)
    return None if encoded is None else encoded(index)


def stored_image(source: Source, index: int) -> Stored | None:
    """Where the encoded image lies whose pixels `Source.image` gives; None where there is no such file.

    A source that offers this by a method `stored` promises that its images depend on nothing else: what is decoded once
    is then kept until the file changes.
    """
    stored: Callable[[int], Stored | None] | None = getattr(source, "stored", None)
    return None if stored is None else stored(index)


def shrunk_image(source: Source, index: int, side: int) -> NDArray[np.uint8]:
    """One image, shrunk as by `shrink`: decoded now, or by a `CachedSource` before. Not to be written to.

    Raises:
        BadImageError: The image cannot be decoded.
    """
    shrunk: Callable[[int, int], NDArray[np.uint8]] | None = getattr(source, "shrunk", None)
    return shrink(source.image(index, min_side=side), side) if shrunk is None else shrunk(index, side)


def attributes_of(source: Source) -> Attributes | None:
    """Several labels an image, or None where a source has none.

    A source carries them as `attributes` `(N, A)`, booleans or 1 (shown), 0 (not shown) and -1 (unknown), and
    `attribute_names`; without names they are numbered.

    Raises:
        InputError: They do not fit the images or each other.
    """
    values: ArrayLike | None = getattr(source, "attributes", None)
    if values is None:
        return None
    array = np.asarray(values)
    names: Sequence[str] | None = getattr(source, "attribute_names", None)
    if not names:
        names = [str(number) for number in range(array.shape[1] if array.ndim == 2 else 0)]
    if len(array) != len(source):
        raise InputError(f"{source.name}: has attributes of {len(array)} images, but {len(source)} images; give all")
    try:
        return Attributes(values=array, names=tuple(names))
    except InputError as error:
        raise InputError(f"{source.name}: {error}") from error


class ArraySource:
    """Images that are already decoded.

    Args:
        images: RGB `(N, H, W, 3)` or grey `(N, H, W)`, uint8.
        labels: Class ids `(N,)`, -1 where unknown.
        ids: Unique ids; by default "NAME/00000", …
        name: Short name, for reports.
        classes: Class names.
        attributes: Several labels an image, `(N, A)`; see `attributes_of`.
        attribute_names: Their names; by default "0", "1", …

    Raises:
        InputError: Wrong type or shape, or ids that repeat.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        labels: ArrayLike | None = None,
        ids: Sequence[str] | None = None,
        name: str = "array",
        classes: Sequence[str] = (),
        *,
        attributes: ArrayLike | None = None,
        attribute_names: Sequence[str] = (),
    ) -> None:
        grey_or_rgb = images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 3)
        if images.dtype != np.uint8 or not grey_or_rgb or images.size == 0:
            raise InputError(
                f"{name}: the array has shape {images.shape} and type {images.dtype}; give uint8 images as "
                "(N, height, width, 3) or (N, height, width)"
            )
        for what, values in (("labels", labels), ("ids", ids)):
            if values is not None and len(np.asarray(values)) != len(images):
                raise InputError(
                    f"{name}: {len(np.asarray(values))} {what} for {len(images)} images; give one for each"
                )
        self._images = images
        self.name = name
        self.ids: Sequence[str] = NumberedIds(name, len(images)) if ids is None else ids
        if ids is not None:
            check_unique(ids, name, "give unique ids")
        self.labels = None if labels is None else encode_labels(np.asarray(labels).tolist(), name)[0]
        self.classes = tuple(classes)
        self.attributes = None if attributes is None else np.asarray(attributes)
        self.attribute_names = tuple(attribute_names)
        attributes_of(self)

    def __len__(self) -> int:
        return len(self._images)

    def image(self, index: int, *, min_side: int | None = None) -> NDArray[np.uint8]:  # noqa: ARG002  # nothing to decode
        """One image as RGB, `(H, W, 3)`, copied."""
        image = self._images[index]
        return np.repeat(image[..., None], 3, axis=-1) if image.ndim == 2 else image.copy()


class SubsetSource:
    """Some images of another source.

    Args:
        source: The source.
        indices: Positions in it, each at most once, in the order wanted.
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

    def image(self, index: int, *, min_side: int | None = None) -> NDArray[np.uint8]:
        """Decode one image to RGB, `(H, W, 3)`."""
        return self.source.image(int(self.indices[index]), min_side=min_side)

    def file(self, index: int) -> Path | None:
        """The file of an image; see `image_file`."""
        return image_file(self.source, int(self.indices[index]))

    def encoded(self, index: int) -> bytes | None:
        """The encoded bytes of an image; see `image_bytes`."""
        return image_bytes(self.source, int(self.indices[index]))

    def stored(self, index: int) -> Stored | None:
        """Where an image lies; see `stored_image`."""
        return stored_image(self.source, int(self.indices[index]))

    def shrunk(self, index: int, side: int) -> NDArray[np.uint8]:
        """One image, shrunk; see `shrunk_image`."""
        return shrunk_image(self.source, int(self.indices[index]), side)


def digits(split: str = "train") -> ArraySource:
    """scikit-learn's 1,797 handwritten digits, 8x8: the data set that is always there.

    Args:
        split: "train" (1,297 images) or "test" (500, equally many of each digit).

    Returns:
        The images as grey uint8.

    Raises:
        InputError: There is no such split.
    """
    from sklearn.datasets import load_digits  # slow to import, and seldom needed

    data = load_digits()
    train, test = train_validation_split(data.target, validation=500, seed=0)
    chosen = {"train": train, "test": test}.get(split)
    if chosen is None:
        raise InputError(f'digits: has no split {split!r}; choose "train" or "test"')
    return ArraySource(
        np.rint(data.images[chosen] * (255 / 16)).astype(np.uint8),
        labels=data.target[chosen],
        ids=[f"digits/{index:04d}" for index in chosen.tolist()],
        name=f"digits-{split}",
        classes=[str(name) for name in data.target_names],
    )


def cifar(
    root: Path | str,
    dataset: Literal["cifar10", "cifar100"] = "cifar10",
    split: str = "train",
    *,
    download: bool = False,
) -> ArraySource:
    """CIFAR-10 or CIFAR-100 in the original order, as torchvision stores them (Krizhevsky, 2009).

    Args:
        root: The folder that holds, or shall hold, torchvision's copy.
        dataset: Which of the two.
        split: "train" (50,000 images) or "test" (10,000).
        download: Fetch the data set where it is not on disk yet.

    Returns:
        The images, 32x32.

    Raises:
        InputError: There is no such split or data set, or it is not on disk.
    """
    from torchvision import datasets  # slow to import, and seldom needed

    kinds = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}
    if dataset not in kinds:
        raise InputError(f'{dataset}: is not known here; choose "cifar10" or "cifar100"')
    if split not in {"train", "test"}:
        raise InputError(f'{dataset}: has no split {split!r}; choose "train" or "test"')
    try:
        data = kinds[dataset](str(root), train=split == "train", download=download)
    except RuntimeError as error:
        raise InputError(
            f"{root}: holds no whole copy of {dataset}; fetch it with sdclr.data.sources.cifar({str(root)!r}, "
            f"{dataset!r}, download=True)"
        ) from error
    ids = NumberedIds(split, len(data.data))
    return ArraySource(data.data, labels=data.targets, ids=ids, name=f"{dataset}-{split}", classes=data.classes)


def open_source(spec: ImageSource, *, split: str | None = None) -> Source:
    """Open whatever names images.

    Args:
        spec: A source; an array; "digits"; "cifar10:ROOT" or "cifar100:ROOT"; a folder of images or of parquet files; a
            `.csv`, `.txt` or `.parquet` manifest; a `.parquet` file of images. A text may end in ":SPLIT".
        split: The split, where the text does not say it. By default "train" where there are several.

    Returns:
        The source.

    Raises:
        InputError: Nothing usable is there, or the split is unknown or named twice.
    """
    if isinstance(spec, np.ndarray):
        return ArraySource(spec)
    if not isinstance(spec, (str, Path)):
        if isinstance(spec, Source):
            return spec
        raise InputError(f"{type(spec).__name__}: is no source of images; give a path, a uint8 array or a source")
    if not str(spec).strip():
        raise InputError("an empty name is no source of images: give a folder or a file (is a shell variable unset?)")
    with looking_at(spec):
        text, _, rest = str(spec).partition(":")
        if text == "digits":
            return digits(_one_split(rest or None, split, spec) or "train")
        if text in {"cifar10", "cifar100"} and rest and not Path(spec).exists():
            place, spelled = _path_and_split(rest)
            return cifar(
                place, "cifar10" if text == "cifar10" else "cifar100", _one_split(spelled, split, spec) or "train"
            )
        path, spelled = _path_and_split(str(spec))
        return _open_path(path, _one_split(spelled, split, spec))


def fingerprint(source: Source) -> str:
    """SHA-256 over the ids, in order: whether a resumed run sees the same images as before."""
    digest = hashlib.sha256()
    for image_id in source.ids:
        # No file name holds a NUL, so the parts stay apart. Names that are not UTF-8 come as lone surrogates.
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


def _open_path(path: Path, split: str | None) -> Source:
    if not path.exists():
        raise InputError(f'{path}: is not there; give an existing path, "digits", "cifar10:ROOT" or "cifar100:ROOT"')
    if path.is_dir():
        return _open_folder(path, split)
    if path.suffix.lower() == ".parquet" and holds_images(path):
        return ParquetSource(path, split=split)
    if path.suffix.lower() not in {".csv", ".txt", ".parquet"}:
        raise InputError(f"{path}: is neither a folder nor a .csv, .txt or .parquet file; give the folder of images")
    if split is not None:
        raise InputError(f"{path}: a manifest has no split {split!r}; give one manifest for each split")
    return ManifestSource(path)


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
