"""Sizes of clusters."""

import numpy as np

from sdclr.evaluation.clusters import find_clusters
from sdclr.mining.cluster_size import cluster_size, default_clusters


def test_size_is_that_of_the_images_own_cluster():
    rng = np.random.default_rng(0)
    features = np.repeat(np.eye(3), [20, 7, 3], axis=0) + rng.normal(scale=0.01, size=(30, 3))
    found = cluster_size(find_clusters(features, 3))
    assert found.tolist() == [20.0] * 20 + [7.0] * 7 + [3.0] * 3


def test_clusters_grow_with_the_root():
    assert [default_clusters(n) for n in (1, 2, 100, 10_000)] == [1, 1, 10, 100]
