"""The protocol of image sources, and optional methods of sources.

Labels of a source are used only for evaluation and reports, never for training.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdclr.data.attributes import Attributes
from sdclr.data.stored import Stored
from sdclr.decoding.decode import Header
from sdclr.decoding.shrink import shrink
from sdclr.errors import InputError


class Edges(NamedTuple):
    """A rectangle as fractions of its image's sides: 0 is the left or upper edge of the image, 1 the opposite edge."""

    left: float
    top: float
    right: float
    bottom: float


class WholeImage(NamedTuple):
    """The image that contains an item, and the item's rectangle in it."""

    file: Path
    edges: Edges


@runtime_checkable
class Source(Protocol):
    """A collection of images with ids."""

    name: str
    """Short name for reports: "digits-train", the folder's name."""
    ids: Sequence[str]
    """One stable and unique id for each image: a relative path, "train/00012"."""
    labels: NDArray[np.int64] | None
    """Class ids `(N,)`, -1 where unknown; None if the source has no labels."""
    classes: tuple[str, ...]
    """Class names; () if there are none."""

    def __len__(self) -> int: ...

    def image(self, index: int, *, min_side: int | None = None) -> NDArray[np.uint8]:
        """Decode one image.

        Args:
            index: Its position.
            min_side: A JPEG or a very large image may be decoded at reduced scale, as long as its shorter side has at
                least this many pixels.

        Returns:
            RGB, `(H, W, 3)`.

        Raises:
            BadImageError: The image cannot be decoded.
        """
        ...


def image_file(source: Source, index: int) -> Path | None:
    """The file of one image; None if it is not a separate file, but in memory or a row of a table."""
    file: Callable[[int], Path | None] | None = getattr(source, "file", None)
    return None if file is None else file(index)


def image_bytes(source: Source, index: int) -> bytes | None:
    """The encoded bytes of an image that is a row of a table; None if the source stores no such bytes."""
    encoded: Callable[[int], bytes | None] | None = getattr(source, "encoded", None)
    return None if encoded is None else encoded(index)


def image_header(source: Source, index: int) -> Header | None:
    """The header of an image file; None if the source does not read headers."""
    header: Callable[[int], Header] | None = getattr(source, "header", None)
    return None if header is None else header(index)


def stored_image(source: Source, index: int) -> Stored | None:
    """Location of the encoded image whose pixels `Source.image` returns; None if there is no such file.

    A source with a method `stored` promises that its images depend on nothing else. A decoded image can then be kept
    until the file changes.
    """
    stored: Callable[[int], Stored | None] | None = getattr(source, "stored", None)
    return None if stored is None else stored(index)


def held_image(source: Source, index: int) -> NDArray[np.uint8] | None:
    """The pixels of an image in memory, which must not be modified; None if the image must be decoded."""
    held: Callable[[int], NDArray[np.uint8] | None] | None = getattr(source, "held", None)
    return None if held is None else held(index)


def image_blocks(source: Source) -> NDArray[np.int64] | None:
    """`(N,)` number of the shard or row group of each image; None if each image is a file."""
    blocks: Callable[[], NDArray[np.int64] | None] | None = getattr(source, "blocks", None)
    return None if blocks is None else blocks()


def shrunk_image(source: Source, index: int, side: int) -> NDArray[np.uint8]:
    """One image, shrunk as by `shrink`: decoded now, or kept by a `CachedSource`. It must not be modified.

    Raises:
        BadImageError: The image cannot be decoded.
    """
    shrunk: Callable[[int, int], NDArray[np.uint8]] | None = getattr(source, "shrunk", None)
    return shrink(source.image(index, min_side=side), side) if shrunk is None else shrunk(index, side)


def attributes_of(source: Source) -> Attributes | None:
    """The attributes of the images (several labels per image); None if a source has none.

    A source has them as `attributes` `(N, A)`, booleans or 1 (shown), 0 (not shown) and -1 (unknown), and
    `attribute_names`; without names they are numbered.

    Raises:
        InputError: The attributes do not match the images or their names.
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


def class_name(source: Source, number: int) -> str:
    """Name of a class; its number if it has no name."""
    return source.classes[number] if number < len(source.classes) else str(number)


def label_name(source: Source, index: int) -> str:
    """Class name of an image; "" if unknown."""
    number = -1 if source.labels is None else int(source.labels[index])
    return "" if number < 0 else class_name(source, number)


def whole_image(source: Source, index: int) -> WholeImage | None:
    """The image that contains an annotated box, and the box's rectangle; None if items are whole images."""
    whole: Callable[[int], WholeImage | None] | None = getattr(source, "whole", None)
    return None if whole is None else whole(index)


class IndirectSource:
    """Base of sources whose images lie in other sources, which know all about them."""

    def place(self, index: int) -> tuple[Source, int]:
        """The source of an image, and the image's position there."""
        raise NotImplementedError

    def image(self, index: int, *, min_side: int | None = None) -> NDArray[np.uint8]:
        """Decode one image to RGB, `(H, W, 3)`."""
        source, position = self.place(index)
        return source.image(position, min_side=min_side)

    def file(self, index: int) -> Path | None:
        """The file of an image; see `image_file`."""
        return image_file(*self.place(index))

    def encoded(self, index: int) -> bytes | None:
        """The encoded bytes of an image; see `image_bytes`."""
        return image_bytes(*self.place(index))

    def header(self, index: int) -> Header | None:
        """The header of an image; see `image_header`."""
        return image_header(*self.place(index))

    def stored(self, index: int) -> Stored | None:
        """Location of an image; see `stored_image`."""
        return stored_image(*self.place(index))

    def held(self, index: int) -> NDArray[np.uint8] | None:
        """The pixels of an image in memory; see `held_image`."""
        return held_image(*self.place(index))

    def shrunk(self, index: int, side: int) -> NDArray[np.uint8]:
        """One image, shrunk; see `shrunk_image`."""
        return shrunk_image(*self.place(index), side)

    def whole(self, index: int) -> WholeImage | None:
        """The image that contains a box; see `whole_image`."""
        return whole_image(*self.place(index))
