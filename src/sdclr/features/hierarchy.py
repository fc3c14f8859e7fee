"""A tree of clusters: k-means of features, then k-means of the centers, level by level.

After Vo et al., *Automatic Data Curation for Self-Supervised Learning: A Clustering-Based Approach*, TMLR 2024. Plain
k-means places most centers where most images are. At each level, the points nearest to each center are therefore
clustered again, equally many of each cluster, which spreads the centers evenly over the space that the points cover.
"""

import warnings
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

RESAMPLINGS: Final = 10
"""Number of times that points nearest to the centers are clustered again, as published for levels above the first."""

_BLOCK: Final = 16_384


def kmeans_centers(rows: NDArray[np.float32], count: int, *, seed: int = 0) -> NDArray[np.float32]:
    """Centers `(min(count, n), D)` of rows `(n, D)` by scikit-learn's mini-batch k-means."""
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # copies may leave fewer distinct rows than clusters
        found = MiniBatchKMeans(min(count, len(rows)), n_init=1, random_state=seed % 2**32).fit(rows)
    centers: NDArray[np.float32] = found.cluster_centers_.astype(np.float32)
    return centers


def nearest_center(rows: Tensor, centers: Tensor) -> Tensor:
    """`(n,)` int64 index of the nearest center `(K, D)` to each row `(n, D)`; of equally near centers the first."""
    half = centers.square().sum(dim=1) / 2
    parts = [(part @ centers.T - half).argmax(dim=1) for part in torch.split(rows, _BLOCK)]
    return torch.cat(parts) if len(rows) else torch.empty(0, dtype=torch.int64)


def hierarchical_kmeans(
    rows: NDArray[np.float32], counts: Sequence[int], *, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Cluster rows, then the centers, level by level, each time with resampling.

    A resampling takes, of each cluster, the points nearest to its center: half of an average cluster, as published.

    Args:
        rows: `(n, D)`, n at least 1.
        counts: Number of clusters at each level, the smallest clusters first.
        seed: Seed of the k-means initialization.

    Returns:
        Centers `(K, D)` of the smallest clusters, and `(K, L)` the cluster of each center at each level, the largest
        clusters first. The last column thus counts from 0 to K - 1.

    Example:
        >>> rows = np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32)
        >>> centers, paths = hierarchical_kmeans(rows, [100, 10])
        >>> clusters = paths[nearest_center(torch.from_numpy(rows), torch.from_numpy(centers))]
        >>> centers.shape, clusters.shape
        ((100, 8), (500, 2))
    """
    levels = []
    points = rows
    for count in counts:
        points = _resampled_centers(points, count, seed)
        levels.append(points)
    paths = [np.arange(len(levels[0]))]
    for lower, upper in pairwise(levels):
        parents = nearest_center(torch.from_numpy(lower), torch.from_numpy(upper)).numpy()
        paths.insert(0, parents[paths[0]])
    return levels[0], np.stack(paths, axis=1)


def _resampled_centers(points: NDArray[np.float32], count: int, seed: int) -> NDArray[np.float32]:
    centers = kmeans_centers(points, count, seed=seed)
    each = round(len(points) / count / 2)
    if each < 2:  # one point for each center adds no information
        return centers
    for _ in range(RESAMPLINGS):
        centers = kmeans_centers(points[_nearest_members(points, centers, each)], count, seed=seed)
    return centers


def _nearest_members(points: NDArray[np.float32], centers: NDArray[np.float32], each: int) -> NDArray[np.int64]:
    """Positions of the points nearest to their cluster's center, at most `each` of each cluster."""
    cluster = nearest_center(torch.from_numpy(points), torch.from_numpy(centers)).numpy()
    order = np.lexsort((np.square(points - centers[cluster]).sum(axis=1), cluster))
    place = np.arange(len(order)) - np.searchsorted(cluster[order], cluster[order])
    kept: NDArray[np.int64] = np.sort(order[place < each])
    return kept
