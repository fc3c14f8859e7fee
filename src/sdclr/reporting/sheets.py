"""Contact sheets of small pictures: example images of a collection, and training views."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from sdclr.data.source import class_name
from sdclr.data.sources import Source
from sdclr.errors import BadImageError, InputError
from sdclr.views.config import ViewConfig
from sdclr.views.parameters import draw_views
from sdclr.views.render import render

SIDE = 64
"""Side length of a picture on a sheet, in pixels."""

GAP = 4
"""Transparent pixels between pictures."""

Pixels = NDArray[np.uint8]


class ClassExamples(NamedTuple):
    """Example images of one class."""

    number: int
    """The class id."""
    name: str
    """The class name; its id if classes have no names."""
    images: int
    """Number of images in the class."""
    sheet: Image.Image | None
    """Some of the images in a row; None if none can be decoded."""


def contact_sheet(images: Pixels, *, columns: int) -> Image.Image:
    """Arrange pictures of equal size in rows.

    Args:
        images: RGB, `(N, H, W, 3)`.
        columns: Pictures per row.

    Returns:
        An RGBA image.

    Raises:
        InputError: There is no picture, or `columns` is not positive.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or not len(images):
        raise InputError(f"a sheet needs uint8 images (N, H, W, 3), not {images.dtype} of shape {images.shape}")
    if columns < 1:
        raise InputError(f"a sheet needs 1 or more columns, not {columns}")
    count, height, width, _ = images.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    sheet = np.zeros((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 4), dtype=np.uint8)
    for number, image in enumerate(images):
        top, left = (number // columns) * (height + GAP), (number % columns) * (width + GAP)
        sheet[top : top + height, left : left + width, :3] = image
        sheet[top : top + height, left : left + width, 3] = 255
    return Image.fromarray(sheet)


def example_sheet(source: Source, *, count: int = 24, columns: int = 12, side: int = SIDE) -> Image.Image | None:
    """Random images of a collection, the same at every call.

    Args:
        source: The images.
        count: Number of images.
        columns: Pictures per row.
        side: Side of each picture in pixels; images are cropped to their central square.

    Returns:
        The sheet; None if no image can be decoded.
    """
    chosen = _examples(source, np.arange(len(source)), count, side)
    return contact_sheet(np.stack(chosen), columns=columns) if chosen else None


def class_sheet(
    source: Source, *, per_class: int = 8, classes: int | None = None, side: int = SIDE
) -> list[ClassExamples]:
    """Example images of each class, from the most to the least frequent.

    Args:
        source: Labeled images.
        per_class: Images per class.
        classes: Number of classes to show, the most frequent and the rarest; by default all.
        side: Side of each picture in pixels; images are cropped to their central square.

    Returns:
        The classes that have images.

    Raises:
        InputError: The source has no labels.
    """
    if source.labels is None:
        raise InputError(f"{source.name} has no labels: examples by class need class folders or a label column")
    counts = np.bincount(source.labels[source.labels >= 0], minlength=len(source.classes))
    order = np.argsort(-counts, kind="stable")
    order = order[counts[order] > 0]
    if classes is not None and len(order) > classes:
        rarest = (classes + 1) // 2
        order = np.concatenate([order[: classes - rarest], order[len(order) - rarest :]])
    shown = []
    for number in order.tolist():
        chosen = _examples(source, np.flatnonzero(source.labels == number), per_class, side)
        sheet = contact_sheet(np.stack(chosen), columns=per_class) if chosen else None
        shown.append(ClassExamples(number, class_name(source, number), int(counts[number]), sheet))
    return shown


def view_sheet(
    source: Source, config: ViewConfig, *, seed: int = 0, count: int = 6, views: int = 8, side: int = SIDE
) -> Image.Image | None:
    """Images and their views, one image per row: the image itself, then its views.

    A run with this seed draws these views in its first epochs, unless it leaves images out.

    Args:
        source: The images.
        config: Settings of the views.
        seed: The run's seed.
        count: Number of images, spread over the source.
        views: Views per image; training draws two per epoch.
        side: Side of each picture in pixels, rounded down to a multiple of the view size.

    Returns:
        The sheet; None if no image can be decoded.

    Raises:
        InputError: `count` or `views` is not positive.
    """
    if count < 1 or views < 1:
        raise InputError(f"a sheet of views needs 1 or more images and views, not {count} and {views}")
    size = config.image_size
    scale = max(1, side // size)
    pictures: list[Pixels] = []
    for index in np.unique(np.linspace(0, len(source) - 1, count).round().astype(np.int64)).tolist():
        try:
            image = source.image(index, min_side=2 * size)  # as training decodes it
        except BadImageError:
            continue
        drawn = [_view(image, config, seed, number, index) for number in range(views)]
        pictures += [_square(image, size * scale), *(view.repeat(scale, 0).repeat(scale, 1) for view in drawn)]
    return contact_sheet(np.stack(pictures), columns=views + 1) if pictures else None


def _view(image: Pixels, config: ViewConfig, seed: int, number: int, index: int) -> Pixels:
    """One view. Numbers 0 and 1 are the views of epoch 0, 2 and 3 those of epoch 1."""
    height, width = image.shape[:2]
    epoch, view = divmod(number, 2)
    params = draw_views(
        config, seed=seed, epoch=epoch, indices=np.array([index]), view=view, height=height, width=width
    )
    drawn = render(torch.from_numpy(image).permute(2, 0, 1)[None], params, config.image_size)[0]
    pixels: Pixels = (drawn * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return pixels


def _examples(source: Source, members: NDArray[np.int64], count: int, side: int) -> list[Pixels]:
    """Up to `count` pictures of random members. Images that cannot be decoded are skipped."""
    return _first_good(source, np.random.default_rng(0).permutation(members).tolist(), count, side)


def _first_good(source: Source, candidates: Iterable[int], count: int, side: int) -> list[Pixels]:
    good: list[Pixels] = []
    for index in candidates:
        if len(good) == count:
            break
        try:
            good.append(_square(source.image(index, min_side=side), side))
        except BadImageError:
            continue
    return good


def _square(image: Pixels, side: int) -> Pixels:
    """The central square of an image, resized; enlarged by whole pixels if possible."""
    height, width = image.shape[:2]
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    square = image[top : top + short, left : left + short]
    method = Image.Resampling.NEAREST if side % short == 0 else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(np.ascontiguousarray(square)).resize((side, side), method))
