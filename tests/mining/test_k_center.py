"""Farthest-first traversal: each pick against all distances, measured anew."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from sdclr.mining import k_center
from sdclr.mining.k_center import farthest_first


def assert_farthest(x, picked, first, weights, centers):
    """Every pick has the largest weighted distance to the nearest chosen row, among rows that are not chosen."""
    apart, chosen = cdist(x, x), list(centers)
    for number, one in enumerate(picked):
        assert one not in chosen
        if chosen:
            reach = weights * apart[:, chosen].min(axis=1)
            free = np.setdiff1d(np.arange(len(x)), chosen)
            assert reach[one] == pytest.approx(reach[free].max(), rel=1e-4, abs=1e-4)
        else:
            assert (number, one) == (0, first)
        chosen.append(one)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_pick_is_the_farthest(data):
    count = data.draw(st.integers(1, 40))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    x = 5 * rng.normal(size=(count, 3))[rng.integers(data.draw(st.integers(1, count)), size=count)]  # with equal rows
    weights = rng.integers(4, size=count) / 2
    centers = data.draw(st.lists(st.integers(0, count - 1), unique=True, max_size=count))
    wanted = data.draw(st.integers(0, count - len(centers)))
    options = {} if data.draw(st.booleans()) else {"weights": torch.from_numpy(weights)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(k_center, "_ACTIVE", data.draw(st.integers(1, count + 1)))
        rows = torch.from_numpy(x.astype(np.float32))
        found = farthest_first(rows, wanted, count // 2, centers=centers, **options)
    assert len(found) == wanted
    assert_farthest(x, found, count // 2, weights if options else np.ones(count), centers)


@pytest.mark.parametrize("centers", [[], list(range(0, 120, 3))])
def test_blocks_change_nothing(centers, monkeypatch):
    x = np.random.default_rng(0).normal(size=(300, 5)).astype(np.float32)
    monkeypatch.setattr(k_center, "_BLOCK", 17)
    monkeypatch.setattr(k_center, "_CENTERS", 7)
    monkeypatch.setattr(k_center, "_ACTIVE", 9)
    found = farthest_first(torch.from_numpy(x), 60, 4, centers=centers)
    assert_farthest(x, found, 4, np.ones(300), centers)


def test_rows_are_measured_again_only_when_necessary(monkeypatch):
    """Most picks come from the 400 farthest rows, without a new distance of the other rows."""
    measured, approach = [], k_center._approach

    def watched(state, centers):
        measured.append(len(centers))
        approach(state, centers)

    monkeypatch.setattr(k_center, "_approach", watched)
    x = torch.randn(2000, 8, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(k_center, "_ACTIVE", 400)
    found = farthest_first(x, 200, 0)
    assert sum(measured) < 200
    assert len(measured) < 30
    measured.clear()
    monkeypatch.setattr(k_center, "_ACTIVE", 2000)
    assert farthest_first(x, 200, 0) == found
    assert measured == [1]  # where all rows are active, no other pick needs the others
