"""Rarity from nearest neighbors: the distance to them, and the local outlier factor."""

import torch
from torch import Tensor

from sdclr.features.nearest import Neighbors


def neighbor_distance(neighbors: Neighbors, k: int) -> Tensor:
    """(N,) mean distance to the k nearest neighbors, which is large for images with few similar ones.

    It decreases with density, so it ranks like the k-nearest-neighbor density estimate.
    """
    return neighbors.distances[:, :k].mean(dim=1)


def local_outlier_factor(neighbors: Neighbors, k: int) -> Tensor:
    """Density of the k nearest neighbors divided by the image's density (Breunig et al., SIGMOD 2000, def. 5-7).

    It is about 1 inside a cluster of any density, and above 1 for an image with a lower density than its neighbors. So
    it finds single odd images, not small classes.

    Args:
        neighbors: Neighbors of every image among the same images.
        k: Number of neighbors to use.

    Returns:
        (N,) factors.
    """
    distances, indices = neighbors.distances[:, :k], neighbors.indices[:, :k]
    reach = torch.maximum(distances, distances[:, -1][indices])
    density = 1 / (reach.mean(dim=1) + 1e-10)  # the distance between equal images is 0
    return density[indices].mean(dim=1) / density
