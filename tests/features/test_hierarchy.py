"""The tree of clusters: against scikit-learn, what resampling changes, and that it is always the same."""

import numpy as np
import pytest
import torch
from sklearn.metrics import pairwise_distances_argmin

from sdclr.features.hierarchy import hierarchical_kmeans, kmeans_centers, nearest_center


@pytest.fixture
def blobs():
    """Four groups of four blobs each; one group holds most points."""
    random = np.random.default_rng(0)
    groups = 100 * np.array([[0, 0], [1, 0], [0, 1], [1, 1]])
    blobs = (groups[:, None] + 10 * np.array([[0, 0], [1, 0], [0, 1], [1, 1]])).reshape(-1, 2)
    which = np.repeat(np.arange(16), [300] * 4 + [20] * 12)
    return (blobs[which] + random.normal(size=(len(which), 2))).astype(np.float32), which


def test_the_nearest_center_is_that_of_scikit_learn():
    rows, centers = np.random.default_rng(0).normal(size=(2, 40, 5)).astype(np.float32)
    found = nearest_center(torch.from_numpy(rows), torch.from_numpy(centers))
    assert found.tolist() == pairwise_distances_argmin(rows, centers).tolist()
    assert nearest_center(torch.empty(0, 5), torch.from_numpy(centers)).tolist() == []


def test_levels_follow_the_groups_and_hold_each_other(blobs):
    rows, which = blobs
    centers, paths = hierarchical_kmeans(rows, [16, 4])
    assert centers.shape == (16, 2)
    assert paths[:, 1].tolist() == list(range(16))
    clusters = paths[nearest_center(torch.from_numpy(rows), torch.from_numpy(centers))]
    assert len(np.unique(np.stack([clusters[:, 0], which // 4]), axis=1).T) == 4  # one cluster for each group
    # A cluster lies within one cluster of the level above.
    assert len(np.unique(clusters, axis=0)) == len(np.unique(clusters[:, 1]))


def test_resampling_takes_centers_from_the_dense_to_the_sparse():
    random = np.random.default_rng(1)
    dense, sparse = random.normal(size=(4000, 2)), random.uniform(-40, 40, size=(400, 2))
    rows = np.concatenate([dense, sparse]).astype(np.float32)

    def of_the_dense(centers):
        return float((np.linalg.norm(centers, axis=1) < 4).mean())

    plain, spread = kmeans_centers(rows, 60), hierarchical_kmeans(rows, [60])[0]
    assert of_the_dense(spread) < 0.7 * of_the_dense(plain)


def test_it_is_always_the_same(blobs):
    one, other = (hierarchical_kmeans(blobs[0], [30, 5], seed=2**40) for _ in range(2))
    for first, second in zip(one, other, strict=True):
        assert np.array_equal(first, second)
    assert not np.array_equal(one[0], hierarchical_kmeans(blobs[0], [30, 5], seed=1)[0])


def test_few_rows_and_copies_make_fewer_clusters():
    centers, paths = hierarchical_kmeans(np.ones((3, 2), dtype=np.float32), [10, 5])
    assert len(centers) == len(paths) == 3
    assert np.allclose(centers, 1)
    assert paths.shape == (3, 2)
    assert len(np.unique(paths[:, 0])) == 1
