"""Rarity from nearest neighbors: the distance to them, and its ratio to their own distances."""

import torch
from torch import Tensor

from sdclr.features.nearest import Neighbors


def neighbor_distance(neighbors: Neighbors, k: int) -> Tensor:
    """(N,) mean distance to the k nearest neighbors: a rare kind of image has few of its like beside it.

    It falls as density rises, so that it ranks as the plain k-nearest-neighbor density would.
    """
    return neighbors.distances[:, :k].mean(dim=1)


def local_outlier_factor(neighbors: Neighbors, k: int) -> Tensor:
    """Density of the k nearest neighbors over the image's own (Breunig et al., SIGMOD 2000, def. 5-7).

    About 1 inside a cluster however sparse the cluster is; above 1 for an image that is lonelier than its neighbors.
    It is thus made for odd single images, not for small classes.

    Args:
        neighbors: Of every image among the same images.
        k: How many of them count.

    Returns:
        (N,).
    """
    distances, indices = neighbors.distances[:, :k], neighbors.indices[:, :k]
    reach = torch.maximum(distances, distances[:, -1][indices])
    density = 1 / (reach.mean(dim=1) + 1e-10)  # images that are the same have no distance between them
    return density[indices].mean(dim=1) / density
