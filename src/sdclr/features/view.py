"""The deterministic view of images for all evaluations, and the workers that compute it."""

import math
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from sdclr.data.intensities import with_intensities
from sdclr.data.sources import Source
from sdclr.decoding.decode import BadImage
from sdclr.decoding.workers import WorkerBatches
from sdclr.encoders.preprocessing import SMALL_SIDE, Preprocessing
from sdclr.errors import BadImageError

_FILTERS: Final = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
}

_LONGEST: Final = 16
"""Largest ratio of the sides of an image that is resized as a whole."""
_SUPPORT: Final = 4
"""Pixels around a point that a filter depends on, at the larger of the two scales; Lanczos takes three."""
_TOGETHER: Final = 64
"""Number of images that a worker decodes at once."""

View = tuple[int, NDArray[np.uint8] | BadImage]
"""Position in the source and `(S, S, 3)` view, or the reason why there is none."""
_Piece = tuple[NDArray[np.int64], Tensor, list[BadImage]]
"""Positions (N,), views (N, 3, S, S) uint8, and the bad images among them."""


def evaluation_view(image: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """The deterministic view of an image that every evaluation uses.

    An image with both sides up to `SMALL_SIDE` is resized without a crop. For a larger one the shorter side is resized
    to `preprocessing.resized_side` and the center is cropped, as in timm and torchvision. All resizing is antialiased.

    Args:
        image: (H, W, 3) RGB.
        preprocessing: Size S of the view in pixels, crop and interpolation.

    Returns:
        (S, S, 3) RGB; the image itself if it already has that size.
    """
    height, width = image.shape[:2]
    size, filter_ = preprocessing.image_size, _FILTERS[preprocessing.interpolation]
    if max(height, width) <= SMALL_SIDE:
        whole = height == width == size
        return image if whole else np.asarray(Image.fromarray(image).resize((size, size), filter_))
    short, shorter = preprocessing.resized_side, min(height, width)
    squash = preprocessing.crop_mode == "squash"
    resized = [short if squash else int(short * side / shorter) for side in (width, height)]
    corner = [round((side - size) / 2) for side in resized]
    begin, end = [0, 0], resized
    if max(resized) > _LONGEST * short:
        # Of a very long image, only the part that the pixels of the view depend on: a whole one may take gigabytes.
        around = math.ceil(_SUPPORT * max(1, short / shorter))
        begin = [max(0, place - around) for place in corner]
        end = [min(side, place + size + around) for side, place in zip(resized, corner, strict=True)]
    # Resize first, then crop: resizing only the crop's box is off by up to 2 of 255 levels at its edges.
    # Multiplied first: then the edge of a whole image is exact, and Pillow accepts it.
    (left, top), (right, bottom) = ((x * width / resized[0], y * height / resized[1]) for x, y in (begin, end))
    view = Image.fromarray(image).resize((end[0] - begin[0], end[1] - begin[1]), filter_, (left, top, right, bottom))
    x, y = (place - first for place, first in zip(corner, begin, strict=True))
    return np.asarray(view.crop((x, y, x + size, y + size)))


def decode_side(preprocessing: Preprocessing) -> int:
    """The minimum shorter side in pixels of a JPEG decoded at reduced scale for an evaluation view.

    Twice the needed size keeps the resampling accurate. It is more than `SMALL_SIDE`, so that an image that is large on
    disk is never treated as a small one.
    """
    return max(2 * preprocessing.resized_side, SMALL_SIDE + 1)


class _Views(Dataset[View]):
    """Position and evaluation view of each image, or the reason why there is none."""

    def __init__(self, source: Source, preprocessing: Preprocessing) -> None:
        self.source = source
        self.preprocessing = preprocessing
        self.min_side = decode_side(preprocessing)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, position: int) -> View:
        try:
            image = self.source.image(position, min_side=self.min_side)
        except BadImageError as error:
            return position, BadImage(error.image_id, error.reason, counted=True)
        return position, evaluation_view(image, self.preprocessing)


class _Pieces:
    """Positions in order, in small pieces, so that all workers share every batch. No piece belongs to two batches."""

    def __init__(self, positions: Sequence[int], batch_size: int) -> None:
        self.positions, self.batch_size = positions, batch_size

    def __iter__(self) -> Iterator[list[int]]:
        for start in range(0, len(self.positions), self.batch_size):
            batch = self.positions[start : start + self.batch_size]
            yield from (list(batch[piece : piece + _TOGETHER]) for piece in range(0, len(batch), _TOGETHER))


def view_loader(
    source: Source,
    preprocessing: Preprocessing,
    positions: Sequence[int],
    *,
    batch_size: int = 256,
    workers: int = 0,
    device: torch.device | None = None,
) -> WorkerBatches[_Piece]:
    """A loader of the pieces of `_collate`; workers decode two batches ahead."""
    workers = min(workers, -(-len(positions) // _TOGETHER))
    return WorkerBatches(
        _Views(with_intensities(source, preprocessing.intensities), preprocessing),
        workers=workers,
        collate_fn=_collate,
        batch_bytes=_TOGETHER * 3 * preprocessing.image_size**2,
        batch_sampler=_Pieces(positions, batch_size),
        prefetch_factor=max(2, -(-2 * batch_size // (_TOGETHER * workers))) if workers else None,
        pin_memory=device is not None and device.type == "cuda",
    )


def _collate(items: Sequence[View]) -> _Piece:
    """Positions (N,), views (N, 3, S, S) uint8, and the bad images of one piece."""
    good = [(position, view) for position, view in items if not isinstance(view, BadImage)]
    bad = [view for _, view in items if isinstance(view, BadImage)]
    positions = np.array([position for position, _ in good], dtype=np.int64)
    if not good:
        return positions, torch.empty(0, dtype=torch.uint8), bad
    return positions, torch.from_numpy(np.stack([view for _, view in good])).permute(0, 3, 1, 2), bad
