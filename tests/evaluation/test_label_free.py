import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist
from scipy.stats import skew, spearmanr
from sklearn.neighbors import NearestNeighbors

from sdclr.errors import InputError
from sdclr.evaluation import label_free
from sdclr.features.nearest import nearest

SIZES = st.lists(st.integers(0, 500), min_size=1, max_size=12).filter(any)


def _features(seed, count=60, width=7):
    return np.random.default_rng(seed).normal(size=(count, width)) + 0.5


def _unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@given(SIZES)
def test_gini_is_half_the_relative_mean_difference(sizes):
    known = np.array(sizes, dtype=float)
    plain = np.abs(known[:, None] - known).mean() / (2 * known.mean())
    assert label_free.gini(sizes) == pytest.approx(plain, abs=1e-12)


@given(SIZES)
def test_spectra_agree_on_what_is_equal(sizes):
    equal = [7] * len(sizes)
    assert label_free.effective_number(equal) == pytest.approx(len(sizes))
    assert label_free.smaller_half_share(equal) == pytest.approx(0.5)
    assert 1 - 1e-9 <= label_free.effective_number(sizes) <= len(sizes) + 1e-9
    assert label_free.smaller_half_share(sizes) <= 0.5 + 1e-12


def test_spectra_by_hand():
    assert label_free.smaller_half_share([5, 1, 4]) == pytest.approx((1 + 4 / 2) / 10)
    assert label_free.smaller_half_share([90, 6, 3, 1]) == pytest.approx(0.04)
    assert label_free.effective_number([1, 1, 2]) == pytest.approx(4 * 2**-0.5)
    assert label_free.effective_number([5, 0]) == 1


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_ranks_are_those_of_a_singular_value_decomposition(seed):
    rows = _features(seed)
    shares = np.linalg.svd(rows, compute_uv=False)
    shares /= shares.sum()
    assert label_free.rank_me(rows) == pytest.approx(math.exp(-(shares * np.log(shares)).sum()), rel=1e-4)
    variances = np.linalg.svd(_unit(rows) - _unit(rows).mean(0), compute_uv=False) ** 2
    variances /= variances.sum()
    assert label_free.directions(rows) == pytest.approx(math.exp(-(variances * np.log(variances)).sum()), rel=1e-4)
    assert label_free.leading_direction(rows) == pytest.approx(variances[0], rel=1e-4)


def test_ranks_of_known_shapes():
    axes = np.concatenate([np.eye(3, 8), -np.eye(3, 8)])
    assert label_free.rank_me(axes) == pytest.approx(3)
    assert label_free.directions(axes) == pytest.approx(3)
    assert label_free.leading_direction(axes) == pytest.approx(1 / 3)
    alike = np.ones((5, 4))
    assert label_free.rank_me(alike) == pytest.approx(1)
    assert label_free.directions(alike) == 1
    assert math.isnan(label_free.leading_direction(alike)) or label_free.leading_direction(alike) <= 1


@pytest.mark.parametrize("t", [2.0, 0.5])
def test_uniformity_is_that_of_all_pairs(t, monkeypatch):
    monkeypatch.setattr(label_free, "_BLOCK", 16)
    rows = _features(1)
    plain = math.log(np.exp(-t * pdist(_unit(rows), "sqeuclidean")).mean())
    assert label_free.uniformity(rows, t=t) == pytest.approx(plain, rel=1e-5)


def test_alignment_and_forgetting_are_of_each_image():
    one, other = _features(2), _features(3)
    apart = ((_unit(one) - _unit(other)) ** 2).sum(1)
    np.testing.assert_allclose(label_free.alignment(one, 3 * other), apart, rtol=1e-4)
    np.testing.assert_allclose(label_free.forgetting(one, other), apart / 2, rtol=1e-4)
    assert label_free.forgetting(one, one).max() < 1e-6
    assert label_free.forgetting(one, one).min() >= 0


def test_cells_follow_density_where_k_means_would_not():
    """Two regions of one extent, one with nine times the images: so have its cells."""
    rng = np.random.default_rng(0)
    offsets = np.concatenate([rng.uniform(-0.3, 0.3, size=(900, 2)), rng.uniform(-0.3, 0.3, size=(100, 2))])
    rows = np.concatenate([np.repeat([[1.0, 0.0], [-1.0, 0.0]], [900, 100], axis=0), offsets], axis=1)
    sizes = label_free.cell_sizes(rows, 20)
    assert sizes.sum() == 1000
    assert len(sizes) == 20
    assert label_free.gini(sizes) > 0.35


def test_cells_of_copies_are_as_many_as_there_are_images():
    assert sorted(label_free.cell_sizes(np.repeat(np.eye(3), 4, axis=0), 10).tolist()) == [4, 4, 4]


def test_hubness_is_a_skewness():
    rows = _features(4, count=200, width=20)
    found = nearest(rows, 5).indices
    named = np.bincount(found.numpy().ravel(), minlength=200)
    assert label_free.hubness(found, 200) == pytest.approx(skew(named))
    ring = (np.arange(6)[:, None] + [1, 2]) % 6
    assert label_free.hubness(ring, 6) == 0


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_dimension_of_a_uniform_cloud(dimension):
    rows = np.zeros((3000, 8))
    rows[:, :dimension] = np.random.default_rng(0).uniform(size=(3000, dimension))
    distances, _ = NearestNeighbors(n_neighbors=2).fit(rows).kneighbors()
    assert label_free.intrinsic_dimension(distances) == pytest.approx(dimension, rel=0.15)


def test_dimension_of_copies_is_unknown():
    assert math.isnan(label_free.intrinsic_dimension(np.zeros((4, 2))))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_correlation_with_size_is_spearmans(seed):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(6), [3, 9, 9, 1, 20, 5])
    values = rng.integers(0, 4, size=len(labels)) + labels % 2
    sizes = np.bincount(labels)
    means = [values[labels == label].mean() for label in range(6)]
    assert label_free.size_correlation(labels, values) == pytest.approx(spearmanr(sizes, means).statistic)


def test_correlation_needs_what_varies():
    assert math.isnan(label_free.size_correlation(np.array([0, 0, 1, 1]), [1, 2, 3, 4]))
    assert math.isnan(label_free.size_correlation(np.array([0, 0, 1]), [2, 2, 2]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: label_free.gini([]), "not all 0"),
        (lambda: label_free.gini([0, 0]), "not all 0"),
        (lambda: label_free.effective_number([3, -1]), r"cluster sizes are \[3, -1\]"),
        (lambda: label_free.uniformity(np.ones((1, 3))), "at least 2 images"),
        (lambda: label_free.alignment(np.ones((3, 2)), np.ones((4, 2))), "3 and 4 rows"),
        (lambda: label_free.forgetting(np.ones((3, 2)), np.ones((3, 3))), "3 features per image, not 2"),
        (lambda: label_free.rank_me(np.full((2, 2), np.nan)), "not finite"),
    ],
)
def test_names_what_is_wrong(call, message):
    with pytest.raises(InputError, match=message):
        call()
