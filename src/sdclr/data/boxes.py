"""Objects in images: each annotated box is a separate item, so that rare objects are found, too."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sdclr.data.annotations import check_unique
from sdclr.data.intensities import SeenByRange
from sdclr.data.source import Edges, WholeImage
from sdclr.data.stored import Stored
from sdclr.decoding.decode import BadImage, decode_image, read_header
from sdclr.errors import BadImageError, InputError

MARGIN: Final = 0.1
"""Default margin around a box, as a fraction of its sides."""

_SCALES: Final = (8, 4, 2, 1)
"""Factors by which JPEG decoding can reduce an image."""


@dataclass(frozen=True)
class Box:
    """One annotated object."""

    key: str
    """Its stable name inside its image: the id of the annotation, or its number."""
    edges: Edges
    """Its rectangle. Parts outside of the image are cut off."""
    category: str = ""
    """The name of its class; empty if it has none."""
    fault: str = ""
    """Short reason why it is left out; empty if it is used."""


@dataclass(frozen=True)
class AnnotatedImage:
    """An image and its boxes."""

    id: str
    """The path of the image, relative to the folder of the images."""
    file: Path
    boxes: Sequence[Box]
    size: tuple[int, int] | None = None
    """Width and height in pixels from the annotation; None if it has none."""


@dataclass(frozen=True)
class Annotations:
    """Contents of one annotation file, or of a folder of them."""

    name: str
    """Short name for reports."""
    images: Sequence[AnnotatedImage]
    categories: tuple[str, ...] = ()
    """Names of the classes, in the order of their numbers; () if only the boxes name classes."""
    faults: Sequence[BadImage] = field(default_factory=tuple)
    """Other parts that are left out: annotations of unknown images, damaged files."""


class BoxSource(SeenByRange):
    """Boxes of annotated images as a source: each box is an item.

    An item's id is `IMAGE#KEY`. Its pixels are a crop: the box with a margin, extended to a square as far as the image
    allows. Encoders use only the central square of their input, so an elongated crop would lose its ends. A box is
    listed in `skipped` if its image is missing, it is outside of its image, or it has no area. Classes are used only
    for reports.

    Args:
        annotations: Images and their boxes, as returned by `read_coco`, `read_yolo` and `read_voc`.
        margin: Margin on each side of a box, as a fraction of its width or height; 0 adds none.

    Raises:
        InputError: No box can be used, the margin is negative, or ids repeat.

    Examples:
        >>> from sdclr.data.box_files import read_coco
        >>> cells = BoxSource(read_coco("cells/instances.json"), margin=0.2)
        >>> cells.ids[0], cells.image(0).shape
        ('plate.png#1', (42, 42, 3))
    """

    def __init__(self, annotations: Annotations, *, margin: float = MARGIN) -> None:
        if not (math.isfinite(margin) and margin >= 0):
            raise InputError(f"margin is {margin}: give 0 or more, as a share of a box's sides")
        self.name = annotations.name
        self._margin = margin
        self._images = annotations.images
        self.skipped: list[BadImage] = list(annotations.faults)
        self._items = list(self._good(annotations.images))
        if not self._items:
            boxes = sum(len(image.boxes) for image in annotations.images)
            why = f"; the first fault: {self.skipped[0].id}: {self.skipped[0].reason}" if self.skipped else ""
            raise InputError(
                f"{self.name}: none of its {boxes} boxes in {len(annotations.images)} images can be used{why}"
            )
        self.ids: Sequence[str] = [f"{self._images[image].id}#{box.key}" for image, box in self._items]
        check_unique(self.ids, self.name, "give each annotation an id of its own")
        self.labels, self.classes = _labels([box for _, box in self._items], annotations.categories)
        self._last: tuple[tuple[int, int], NDArray[np.uint8]] | None = None

    def __len__(self) -> int:
        return len(self._items)

    def image(self, index: int, *, min_side: int | None = None) -> NDArray[np.uint8]:
        """Decode the image of a box and crop it, `(H, W, 3)`.

        Args:
            index: The position of the box.
            min_side: A JPEG may be decoded at reduced scale, as long as the crop's shorter side has this many pixels.

        Raises:
            BadImageError: The image cannot be decoded, or is not the annotated one.
        """
        number, box = self._items[index]
        image = self._images[number]
        width, height = self._size(image, self.ids[index])
        left, top, right, bottom = crop_of(box.edges, (width, height), self._margin)
        scale = 1
        if min_side is not None:
            scale = next(
                scale for scale in _SCALES if min(right - left, bottom - top) >= min_side * scale or scale == 1
            )
        pixels = self._decoded(number, scale, (width, height), self.ids[index])
        across, down = pixels.shape[1] / width, pixels.shape[0] / height
        rows = slice(math.floor(top * down), max(math.floor(top * down) + 1, math.ceil(bottom * down)))
        columns = slice(math.floor(left * across), max(math.floor(left * across) + 1, math.ceil(right * across)))
        return pixels[rows, columns].copy()

    def whole(self, index: int) -> WholeImage:
        """The image of a box, and the box's rectangle in it; see `whole_image`."""
        number, box = self._items[index]
        return WholeImage(self._images[number].file, box.edges)

    def stored(self, index: int) -> Stored:
        """Location of the encoded image of a box; see `stored_image`."""
        number, box = self._items[index]
        edges = ",".join(f"{edge:.6f}" for edge in box.edges)
        return Stored(self._images[number].file, None, self.decoder(edges, f"{self._margin:g}"))

    def _good(self, images: Sequence[AnnotatedImage]) -> Iterator[tuple[int, Box]]:
        """Yield image number and box for each usable box. The others are listed in `skipped`."""
        for number, image in enumerate(images):
            missing = bool(image.boxes) and not image.file.is_file()
            for box in image.boxes:
                fault = box.fault or _fault(box.edges) or ("its image is missing" if missing else "")
                if fault:
                    self.skipped.append(BadImage(f"{image.id}#{box.key}", fault, counted=True))
                else:
                    yield number, box

    def _size(self, image: AnnotatedImage, item: str) -> tuple[int, int]:
        if image.size is not None:
            return image.size
        header = read_header(image.file, image_id=item)
        return header.width, header.height

    def _decoded(self, number: int, scale: int, size: tuple[int, int], item: str) -> NDArray[np.uint8]:
        """The whole image. The last one is kept, because the boxes of one image are consecutive."""
        last = self._last  # read once: threads may share this source
        if last is not None and last[0] == (number, scale):
            return last[1]
        pixels = decode_image(
            self._images[number].file,
            image_id=item,
            min_side=max(1, min(size) // scale),
            intensities=self.intensities,
        )
        found, stated = pixels.shape[1] / pixels.shape[0], size[0] / size[1]
        # Allows one pixel of rounding at the smallest scale; a rotated or wrong image differs by far more.
        if abs(math.log(found / stated)) > 2 / min(pixels.shape[:2]) + 0.01:
            raise BadImageError(
                item, f"its image has the sides {pixels.shape[1]}:{pixels.shape[0]}, the annotation {size[0]}:{size[1]}"
            )
        self._last = ((number, scale), pixels)
        return pixels

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_last": None}  # each worker decodes its own images


def crop_of(edges: Edges, size: tuple[int, int], margin: float) -> tuple[float, float, float, float]:
    """The crop of an image for a box.

    Args:
        edges: Edges of the box, as fractions of the image's sides.
        size: Width and height of the image in pixels.
        margin: Margin on each side, as a fraction of the box's width or height.

    Returns:
        Left, top, right and bottom in pixels, inside of the image: the box with its margin, widened to a square that is
        moved into the image, and cut if the image is too small for it.

    Examples:
        >>> crop_of(Edges(0.4, 0.4, 0.6, 0.5), (100, 100), 0.5)
        (30.0, 25.0, 70.0, 65.0)
    """
    width, height = size
    left, right = max(0.0, edges.left) * width, min(1.0, edges.right) * width
    top, bottom = max(0.0, edges.top) * height, min(1.0, edges.bottom) * height
    side = (1 + 2 * margin) * max(right - left, bottom - top)
    left, right = _span((left + right) / 2, side, width)
    top, bottom = _span((top + bottom) / 2, side, height)
    return left, top, right, bottom


def _span(center: float, side: float, room: float) -> tuple[float, float]:
    """Start and end of `side` pixels around a center, moved and cut to fit into [0, room]."""
    side = min(side, room)
    low = min(max(0.0, center - side / 2), room - side)
    return low, low + side


def _fault(edges: Edges) -> str:
    """Reason why a box is unusable, or an empty text."""
    if not all(math.isfinite(edge) for edge in edges):
        return "its edges are no finite numbers"
    if edges.right <= edges.left or edges.bottom <= edges.top:
        return "it has no area"
    if edges.right <= 0 or edges.bottom <= 0 or edges.left >= 1 or edges.top >= 1:
        return "it lies outside of its image"
    return ""


def _labels(boxes: Sequence[Box], categories: Sequence[str]) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
    """Class numbers and names; classes that the annotations list keep their order."""
    named = {box.category for box in boxes if box.category}
    if not named:
        return None, ()
    classes = (*categories, *sorted(named.difference(categories)))
    number_of = {name: number for number, name in enumerate(classes)}
    return np.array([number_of.get(box.category, -1) for box in boxes], dtype=np.int64), classes
