"""The one deterministic view through which every evaluation sees images, and the workers that make it."""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sdclr.data.decode import BadImage, prepare_worker
from sdclr.data.sources import Source
from sdclr.errors import BadImageError

SMALL_SIDE = 96
"""Images up to this many pixels on both sides are seen whole."""

_TOGETHER: Final = 64
"""Images that a worker decodes in one go."""

View = tuple[int, NDArray[np.uint8] | BadImage]
"""Position in the source and `(S, S, 3)` view, or why there is none."""


def evaluation_view(image: NDArray[np.uint8], image_size: int) -> NDArray[np.uint8]:
    """The deterministic view of an image that every evaluation uses.

    An image with both sides up to `SMALL_SIDE` is resized whole. Of a larger one the shorter side is brought to
    `image_size * 256 / 224` and the centre is cut out, as is customary on ImageNet. Both use antialiased bicubic.

    Args:
        image: (H, W, 3) RGB.
        image_size: Side S of the view in pixels.

    Returns:
        (S, S, 3) RGB; the image itself if it has that size already.
    """
    height, width = image.shape[:2]
    box: tuple[float, float, float, float] = (0, 0, width, height)
    if max(height, width) <= SMALL_SIDE:
        if height == width == image_size:
            return image
    else:
        # Only the part that survives the centre crop is resampled. Pillow's filter reaches over the box's edge, so the
        # pixels are those of resizing everything and cropping afterwards.
        short, shorter = _resized_side(image_size), min(height, width)
        resized_width, resized_height = (int(short * side / shorter) for side in (width, height))
        left, top = round((resized_width - image_size) / 2), round((resized_height - image_size) / 2)
        x_scale, y_scale = width / resized_width, height / resized_height
        box = (
            left * x_scale,
            top * y_scale,
            min((left + image_size) * x_scale, width),
            min((top + image_size) * y_scale, height),
        )
    view = Image.fromarray(image).resize((image_size, image_size), Image.Resampling.BICUBIC, box=box)
    return np.asarray(view)


def decode_side(image_size: int) -> int:
    """The shorter side in pixels that a JPEG decoded at reduced scale must keep for a view of side `image_size`.

    Twice the size needed keeps the resampling faithful. More than `SMALL_SIDE`, so that an image which is large on disk
    is never taken for a small one.
    """
    return max(2 * _resized_side(image_size), SMALL_SIDE + 1)


class _Views(Dataset[View]):
    """Position and evaluation view of each image, or why there is none."""

    def __init__(self, source: Source, image_size: int) -> None:
        self.source = source
        self.image_size = image_size
        self.min_side = decode_side(image_size)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, position: int) -> View:
        try:
            image = self.source.image(position, min_side=self.min_side)
        except BadImageError as error:
            return position, BadImage(error.image_id, error.reason, counted=True)
        return position, evaluation_view(image, self.image_size)


class _Pieces:
    """Positions in order, a few at a time: all workers share in every batch. No piece belongs to two batches."""

    def __init__(self, positions: range, batch_size: int) -> None:
        self.positions, self.batch_size = positions, batch_size

    def __iter__(self) -> Iterator[list[int]]:
        for start in range(0, len(self.positions), self.batch_size):
            batch = self.positions[start : start + self.batch_size]
            yield from (list(batch[piece : piece + _TOGETHER]) for piece in range(0, len(batch), _TOGETHER))


def view_loader(
    source: Source,
    image_size: int,
    positions: range,
    *,
    batch_size: int = 256,
    workers: int = 0,
    device: torch.device | None = None,
) -> DataLoader[View]:
    """Pieces of what `_collate` gives; workers decode two batches ahead."""
    workers = min(workers, -(-len(positions) // _TOGETHER))
    return DataLoader(
        _Views(source, image_size),
        batch_sampler=_Pieces(positions, batch_size),
        num_workers=workers,
        collate_fn=_collate,
        worker_init_fn=prepare_worker,
        prefetch_factor=max(2, -(-2 * batch_size // (_TOGETHER * workers))) if workers else None,
        pin_memory=device is not None and device.type == "cuda",
    )


def _collate(items: Sequence[View]) -> tuple[NDArray[np.int64], Tensor, list[BadImage]]:
    """Positions (N,), views (N, 3, S, S) uint8, and the bad images of one piece."""
    good = [(position, view) for position, view in items if not isinstance(view, BadImage)]
    bad = [view for _, view in items if isinstance(view, BadImage)]
    positions = np.array([position for position, _ in good], dtype=np.int64)
    if not good:
        return positions, torch.empty(0, dtype=torch.uint8), bad
    return positions, torch.from_numpy(np.stack([view for _, view in good])).permute(0, 3, 1, 2), bad


def _resized_side(image_size: int) -> int:
    """What the shorter side of a large image is brought to before the centre crop, in pixels."""
    return round(image_size * 256 / 224)
