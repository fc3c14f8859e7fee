import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score

from sdclr.errors import InputError
from sdclr.evaluation import clusters
from sdclr.evaluation.clusters import find_clusters


def _blobs(sizes, seed=0, width=8):
    """Images about far corners of the sphere, and which corner each is from."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    rows = np.eye(len(sizes), width)[labels] + np.random.default_rng(seed).normal(scale=0.05, size=(len(labels), width))
    return rows * np.random.default_rng(seed).uniform(0.2, 5, size=(len(labels), 1)), labels


def test_groups_that_lie_apart_are_found_largest_first():
    rows, truth = _blobs([5, 80, 20])
    found = find_clusters(rows, 3)
    assert adjusted_rand_score(truth, found.labels) == 1
    assert found.sizes.tolist() == [80, 20, 5]
    np.testing.assert_array_equal(found.labels, np.array([2, 0, 1])[truth])
    np.testing.assert_allclose(found.centers, np.eye(3, 8)[[1, 2, 0]], atol=0.05)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(12, 60))
def test_labels_sizes_and_centers_agree(seed, k, count):
    rows = np.random.default_rng(seed).normal(size=(count, 5)).astype(np.float32)
    labels, sizes, centers = find_clusters(rows, k, seed=seed)
    np.testing.assert_array_equal(np.bincount(labels, minlength=len(sizes)), sizes)
    assert (sizes > 0).all()
    assert (np.diff(sizes) <= 0).all()
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_array_equal(((unit[:, None] - centers) ** 2).sum(2).argmin(1), labels)


def test_the_seed_decides():
    rows = np.random.default_rng(0).normal(size=(300, 10))
    first, again, other = (find_clusters(rows, 7, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.labels, again.labels)
    assert not np.array_equal(first.labels, other.labels)


@pytest.mark.parametrize("copies", [2, 40])
def test_copies_make_fewer_clusters(copies):
    """Three distinct images have three clusters at the most, however many copies there are."""
    rows = np.repeat(np.eye(3), copies, axis=0)
    found = find_clusters(rows, 5)
    assert found.sizes.tolist() == [copies] * 3


def test_rows_beyond_those_fitted_are_assigned_to_the_nearest_center(monkeypatch):
    monkeypatch.setattr(clusters, "_FITTED", 50)
    rows, truth = _blobs([200, 100, 60])
    found = find_clusters(rows, 3)
    assert adjusted_rand_score(truth, found.labels) == 1
    assert found.sizes.tolist() == [200, 100, 60]


@pytest.mark.parametrize(
    ("rows", "k", "message"),
    [
        (np.eye(4), 0, "k=0 clusters of 4 images: choose k from 1 to 4"),
        (np.eye(4), 5, "k=5 clusters of 4 images"),
        (np.ones(4), 1, r"\(N, D\) table"),
    ],
)
def test_names_what_is_wrong(rows, k, message):
    with pytest.raises(InputError, match=message):
        find_clusters(rows, k)
