"""Weighted orders: how often each sample comes, and how its copies are spread."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sdclr.errors import InputError
from sdclr.loading.weighting import weighted_order

weights = arrays(np.float64, st.integers(1, 60), elements=st.floats(0, 100)).filter(lambda w: w.sum() > 1e-6)


@given(weights, st.integers(0, 2**16))
def test_every_sample_comes_as_often_as_its_weight_says(weights, seed):
    keys = weighted_order(weights, np.random.default_rng(seed))
    n = len(weights)
    assert len(keys) == n
    counts = np.bincount(keys % n, minlength=n)
    expected = n * weights / weights.sum()
    assert (np.abs(counts - expected) < 1 + 1e-6).all()
    for sample in np.flatnonzero(counts):  # copies are numbered from 0, each once
        assert sorted(keys[keys % n == sample] // n) == list(range(counts[sample]))


@given(st.integers(1, 60), st.integers(0, 2**16))
def test_equal_weights_give_a_permutation(n, seed):
    assert sorted(weighted_order(np.full(n, 0.3), np.random.default_rng(seed))) == list(range(n))


@pytest.mark.parametrize("draws", [1, 6, 7, 20])
def test_another_number_of_draws_keeps_the_shares(draws):
    weights = np.array([0, 1, 1, 2, 0, 2, 1, 0])
    keys = weighted_order(weights, np.random.default_rng(draws), draws)
    assert len(set(keys.tolist())) == draws
    counts, wanted = np.bincount(keys % 8, minlength=8), draws * weights / 7
    assert (np.abs(counts - wanted) < 1 + 1e-9).all()
    assert not counts[weights == 0].any()


def test_shares_are_those_of_the_weights_over_many_epochs():
    weights = np.array([0.2, 0.7, 1.1, 3.0])
    counts = np.zeros(4)
    for seed in range(4000):
        counts += np.bincount(weighted_order(weights, np.random.default_rng(seed)) % 4, minlength=4)
    np.testing.assert_allclose(counts / counts.sum(), weights / weights.sum(), atol=0.005)


def test_copies_are_spread():
    weights = np.ones(1000)
    weights[:10] = 20
    keys = weighted_order(weights, np.random.default_rng(0))
    batches = keys.reshape(10, 100) % 1000
    counts = np.bincount(keys % 1000, minlength=1000)
    for sample in range(10):
        each = (batches == sample).sum(axis=1)
        assert each.max() - each.min() <= 2
        assert each.sum() == counts[sample]


@pytest.mark.parametrize("wrong", [[1.0, -1.0], [0.0, 0.0], [1.0, np.nan], [np.inf, 1.0]])
def test_weights_that_make_no_sense_are_refused(wrong):
    with pytest.raises(InputError, match="finite"):
        weighted_order(np.array(wrong), np.random.default_rng(0))
