"""Clusters of features: k-means on the unit sphere."""

import warnings
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F

from sdclr.errors import InputError
from sdclr.features.extract import checked_features
from sdclr.features.hierarchy import nearest_center
from sdclr.progress import stage

_FITTED: Final = 50_000
"""Maximum number of rows for fitting the centers; the others are only assigned to them."""


class Clusters(NamedTuple):
    """A partition of images.

    Attributes:
        labels: (N,) int64, the cluster of each image; cluster 0 has the most images.
        sizes: (K,) int64, number of images in each cluster, in descending order; none is empty.
        centers: (K, D) float32, means of the features on the unit sphere.
    """

    labels: NDArray[np.int64]
    sizes: NDArray[np.int64]
    centers: NDArray[np.float32]


def find_clusters(features: ArrayLike | Tensor, k: int, *, seed: int = 0) -> Clusters:
    """k-means of features scaled to length 1 (scikit-learn's, with k-means++ initialization).

    Centers are fitted to at most 50,000 rows, drawn at random. Every row is then assigned to the nearest center.

    Args:
        features: (N, D).
        k: Number of clusters.
        seed: Seed of the initialization.

    Returns:
        The clusters, largest first; fewer than k if some would be empty.

    Raises:
        InputError: If the features are not a finite (N, D) array, or k is outside [1, N].
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    rows = F.normalize(checked_features(features, "features").cpu()).numpy()
    if not 1 <= k <= len(rows):
        raise InputError(f"k={k} clusters of {len(rows)} images: choose k from 1 to {len(rows)}")
    rng = np.random.default_rng(seed)
    fitted = rows if len(rows) <= _FITTED else rows[rng.choice(len(rows), _FITTED, replace=False)]
    with stage("clustering", len(fitted)), warnings.catch_warnings():
        # Copies of images may leave fewer than k distinct ones. Centers then coincide, and only the first gets images.
        warnings.simplefilter("ignore", ConvergenceWarning)
        means = KMeans(k, n_init=1, random_state=seed).fit(fitted).cluster_centers_.astype(np.float32)
    found = nearest_center(torch.from_numpy(rows), torch.from_numpy(means)).numpy()
    sizes = np.bincount(found, minlength=len(means))
    order = np.argsort(-sizes, kind="stable")
    order = order[sizes[order] > 0]
    renamed = np.empty(len(means), dtype=np.int64)
    renamed[order] = np.arange(len(order))
    return Clusters(renamed[found], sizes[order].astype(np.int64), means[order])
