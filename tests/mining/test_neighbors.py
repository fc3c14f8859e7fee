"""Scores from neighbors against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors

from sdclr.features.nearest import nearest
from sdclr.mining.neighbors import local_outlier_factor, neighbor_distance
from sdclr.mining.typicality import distance_in_cluster


@pytest.fixture(scope="module")
def features():
    return np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)


@pytest.mark.parametrize("k", [1, 10])
def test_distance_is_the_mean_over_the_nearest(features, k):
    expected = NearestNeighbors(n_neighbors=k, metric="cosine").fit(features).kneighbors()[0].mean(axis=1)
    found = neighbor_distance(nearest(features, 20), k)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("k", [1, 10])
def test_outlier_factor_is_scikit_learns(features, k):
    judge = LocalOutlierFactor(n_neighbors=k, metric="cosine").fit(features)
    found = local_outlier_factor(nearest(features, 20), k)
    np.testing.assert_allclose(found.numpy(), -judge.negative_outlier_factor_, rtol=1e-4)


def test_images_that_are_the_same_have_finite_scores():
    found = local_outlier_factor(nearest(torch.ones(30, 4), 5), 5)
    np.testing.assert_allclose(found.numpy(), 1)


def test_distance_in_a_cluster_is_the_mean_over_its_twenty_nearest(features):
    sizes = [120, 50, 22, 21, 20, 3, 2, 1, 1]
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(9), sizes))
    rows = np.concatenate([features, features[:40] + 5])
    found = distance_in_cluster(torch.from_numpy(rows), labels)
    assert found.dtype == np.float64
    for cluster, size in enumerate(sizes):
        members = rows[labels == cluster]
        expected = [0.0]
        if size > 1:
            search = NearestNeighbors(n_neighbors=min(20, size - 1)).fit(members)
            expected = search.kneighbors()[0].mean(axis=1)
        np.testing.assert_allclose(found[labels == cluster], expected, rtol=1e-4)
