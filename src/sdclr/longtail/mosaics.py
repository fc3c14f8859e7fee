"""Mosaics of labeled images: a multi-label set whose attributes have a chosen long tail."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sdclr.data.annotations import NumberedIds
from sdclr.data.sources import Source
from sdclr.errors import BadImageError, InputError
from sdclr.longtail.splits import long_tail_counts

_BISECTIONS = 60  # to the last bit of a float64


class MosaicSource:
    """Square mosaics of another source's images; each attribute states whether a class is among the tiles.

    Args:
        source: Labeled images, all of one size.
        tiles: Positions in the source, row by row of each mosaic, `(N, grid * grid)`.
        name: Short name, for reports.

    Raises:
        InputError: The source has no labels, or the class of a tile is unknown.
    """

    def __init__(self, source: Source, tiles: NDArray[np.int64], name: str) -> None:
        labels = _labels(source)
        shown = labels[tiles]
        if (shown < 0).any():
            raise InputError(f"{source.name}: image {tiles[shown < 0][0]} has no label; take tiles of known classes")
        self.source = source
        self.tiles = tiles
        self.name = name
        self.ids: Sequence[str] = NumberedIds(name, len(tiles))
        self.labels: NDArray[np.int64] | None = None
        self.classes: tuple[str, ...] = ()
        self.attribute_names = source.classes or tuple(str(number) for number in range(int(labels.max()) + 1))
        self.attributes = np.zeros((len(tiles), len(self.attribute_names)), dtype=np.int8)
        np.put_along_axis(self.attributes, shown, 1, axis=1)

    def __len__(self) -> int:
        return len(self.tiles)

    def image(self, index: int, *, min_side: int | None = None) -> NDArray[np.uint8]:  # noqa: ARG002  # never reduced
        """Compose one mosaic, RGB, `(grid * H, grid * W, 3)`."""
        parts = [self.source.image(position) for position in self.tiles[index].tolist()]
        if len({part.shape for part in parts}) > 1:
            raise BadImageError(self.ids[index], "tiles of different sizes")
        grid = round(len(parts) ** 0.5)
        return np.concatenate([np.concatenate(parts[row * grid : (row + 1) * grid], axis=1) for row in range(grid)])


def mosaics(
    source: Source, count: int, *, grid: int = 2, imbalance: float = 50.0, seed: int = 0, name: str | None = None
) -> MosaicSource:
    """Draw mosaics with a long-tailed class distribution.

    Each tile is drawn independently: first its class, then one of the class's images. The class probabilities are such
    that the expected number of mosaics that show the class of rank k falls as `imbalance ** (-k / (K - 1))`, in a
    random class order. Classes without images in `source` are never shown.

    Args:
        source: Labeled images, all of one size.
        count: Number of mosaics.
        grid: Tiles per side.
        imbalance: Number of mosaics with the most frequent class divided by that with the rarest; 1 is balanced.
        seed: Determines the class order and every tile. Equal seeds give equal class orders for sources with the same
            classes, so that a test set can be drawn like the training set.
        name: By default the source's name and "-mosaics".

    Returns:
        The mosaics, composed on access.

    Raises:
        InputError: The source has no labels, or a number is out of range.
    """
    labels = _labels(source)
    classes = np.unique(labels[labels >= 0])
    if count < 1 or grid < 1 or not len(classes):
        raise InputError(
            f"{source.name}: {count} mosaics of {grid} x {grid} tiles from {len(classes)} classes; give 1 or more of "
            "each"
        )
    random = np.random.PCG64(seed)
    order = classes[np.argsort(random.random_raw(len(classes)), kind="stable")]
    ends = np.cumsum(tile_shares(len(classes), imbalance, tiles=grid * grid))
    # The stream of raw words stays the same across releases of NumPy; 53 bits of each make a number in [0, 1).
    uniform = (random.random_raw(2 * count * grid * grid) >> np.uint64(11)) * 2.0**-53
    of_class, of_member = uniform.reshape(2, count, grid * grid)
    ranks = np.minimum(np.searchsorted(ends, of_class, side="right"), len(classes) - 1)
    tiles = np.empty((count, grid * grid), dtype=np.int64)
    for rank, class_id in enumerate(order.tolist()):
        members, chosen = np.flatnonzero(labels == class_id), ranks == rank
        tiles[chosen] = members[(of_member[chosen] * len(members)).astype(np.int64)]
    return MosaicSource(source, tiles, name or f"{source.name}-mosaics")


def tile_shares(num_classes: int, imbalance: float, *, tiles: int) -> NDArray[np.float64]:
    """Probability of each class rank for one tile.

    A mosaic shows a class of share p with probability `1 - (1 - p) ** tiles`. These probabilities fall exponentially
    from rank to rank, and the shares sum to 1. Bisection finds the one remaining unknown.

    Returns:
        `(num_classes,)`, in descending order.

    Raises:
        InputError: A number is out of range.
    """
    long_tail_counts(num_classes, 2**62, imbalance)  # checks both
    profile = imbalance ** (-np.arange(num_classes) / max(num_classes - 1, 1))
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if (1 - (1 - middle * profile) ** (1 / tiles)).sum() < 1:
            low = middle
        else:
            high = middle
    shares: NDArray[np.float64] = 1 - (1 - high * profile) ** (1 / tiles)
    shares /= shares.sum()
    return shares


def _labels(source: Source) -> NDArray[np.int64]:
    if source.labels is None:
        raise InputError(f"{source.name}: has no labels; mosaics need labeled images")
    return source.labels
