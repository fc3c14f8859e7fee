"""The compared rarity scores, computed from features. All are larger for rarer images."""

import importlib
import math
from collections.abc import Callable
from types import ModuleType

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array, diags_array, eye_array
from scipy.stats import rankdata
from sklearn.cluster import HDBSCAN
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.preprocessing import normalize

from sdclr.evaluation.clusters import find_clusters
from sdclr.features.nearest import Neighbors, nearest
from sdclr.mining.neighbors import local_outlier_factor, neighbor_distance

Score = NDArray[np.float64]

DISTANCE_K, LOF_K, WALK_K, WALK_STEPS = 10, 20, 15, 16
SMALLEST_CLUSTER, COMPONENTS = 15, 50
SMALL_SHARE = 0.1
"""Clusters of HDBSCAN with at most this share of the images rank before noise."""


def kinds_module() -> ModuleType | None:
    """`sdclr.mining.kinds`, or None if this version of the library does not have it."""
    try:
        return importlib.import_module("sdclr.mining.kinds")
    except ModuleNotFoundError:
        return None


def baseline_scores(features: NDArray[np.float32], *, seed: int = 0) -> dict[str, Score]:
    """All scores except kinds and forgetting.

    Args:
        features: (N, D).
        seed: Seed of the isolation forest, k-means and the control.

    Returns:
        (N,) by the score's name.
    """
    rows = normalize(features)
    around = nearest(torch.from_numpy(features), LOF_K)
    distance = neighbor_distance(around, DISTANCE_K).double().numpy()
    return {
        "distance": distance,
        "lof": local_outlier_factor(around, LOF_K).double().numpy(),
        "hdbscan": hdbscan_score(rows, distance),
        "kmeans_sqrt": kmeans_score(features, max(1, round(math.sqrt(len(rows)))), distance, seed=seed),
        "kmeans_10": kmeans_score(features, 10, distance, seed=seed),
        "isolation_forest": -IsolationForest(random_state=seed).fit(rows).score_samples(rows),
        "walk": walk_score(around, WALK_K, WALK_STEPS),
        "random": np.random.default_rng(seed).random(len(rows)),
    }


def kinds_score(features: NDArray[np.float32], distance: ArrayLike, *, k: int = 15) -> tuple[Score, int]:
    """The score by kinds, and the number of kinds."""
    module = kinds_module()
    if module is None:
        raise ModuleNotFoundError("sdclr.mining.kinds is not there")
    find: Callable[..., object] = module.find_kinds
    found = find(features, k=k)
    score = module.kind_rarity(found, np.asarray(distance))
    return np.asarray(score, dtype=np.float64), len(module_sizes(found))


def module_sizes(found: object) -> NDArray[np.int64]:
    """Sizes of the kinds found."""
    return np.asarray(found.sizes)  # type: ignore[attr-defined]


def hdbscan_score(rows: NDArray[np.float32], distance: Score) -> Score:
    """Small clusters first, from the smallest; then noise by distance; then large clusters.

    Args:
        rows: (N, D) with length 1.
        distance: (N,), orders images within a cluster and within noise.
    """
    count = min(COMPONENTS, *rows.shape)
    reduced = PCA(count, random_state=0).fit_transform(rows)
    labels = HDBSCAN(min_cluster_size=min(SMALLEST_CLUSTER, len(rows) - 1), copy=True).fit_predict(reduced)
    sizes = np.append(np.bincount(labels[labels >= 0]), 0)[labels]
    noise = labels < 0
    primary = np.where(noise, -SMALL_SHARE * len(rows), -sizes)
    return _lexicographic(primary, distance)


def kmeans_score(features: NDArray[np.float32], clusters: int, distance: Score, *, seed: int) -> Score:
    """Small k-means clusters first; images within a cluster by distance."""
    found = find_clusters(features, min(clusters, len(features)), seed=seed)
    return _lexicographic(-found.sizes[found.labels], distance)


def walk_score(around: Neighbors, k: int, steps: int, *, block: int = 512) -> Score:
    """-1/Σp²: minus the effective number of images that a random walk on the symmetric neighbor graph reaches.

    An edge joins two images if either is among the k nearest neighbors of the other; every image has an edge to itself.

    Args:
        around: At least k neighbors of each of N images.
        k: Number of neighbors used.
        steps: Steps of the walk.
        block: Number of walks computed at once.

    Returns:
        (N,).
    """
    indices = around.indices[:, :k].numpy()
    total = len(indices)
    ones = np.ones(indices.size, dtype=np.float32)
    directed = csr_array((ones, (np.repeat(np.arange(total), k), indices.ravel())), shape=(total, total))
    graph = csr_array(((directed + directed.T + eye_array(total)) > 0).astype(np.float32))
    step = csr_array(diags_array(1 / graph.sum(axis=1)) @ graph).astype(np.float32)
    transposed = csr_array(step.T)
    reached = np.empty(total)
    for start in range(0, total, block):
        stop = min(start + block, total)
        walks = np.zeros((total, stop - start), dtype=np.float32)
        walks[np.arange(start, stop), np.arange(stop - start)] = 1
        for _ in range(steps):
            walks = transposed @ walks
        reached[start:stop] = 1 / np.square(walks).sum(axis=0)
    return -reached


def _lexicographic(first: ArrayLike, second: ArrayLike) -> Score:
    """Ranks by `first`, ties by `second`."""
    major, minor = rankdata(first, method="dense"), rankdata(second)
    return major + minor / (len(minor) + 1)
