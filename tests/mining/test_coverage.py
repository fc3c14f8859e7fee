"""ProbCover against its algorithm written plainly, and the rules that choose its radius."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import pairwise_distances

from sdclr.mining import coverage, selection
from sdclr.mining.coverage import greedy_cover, share_threshold
from sdclr.mining.selection import select_samples


def unit_rows(count, width=4, seed=0):
    x = np.random.default_rng(seed).normal(size=(count, width))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def plain_cover(x, count, radius, ties, known=()):
    """Algorithm 1 of the paper on sets of edges; after full coverage, all rows that are not picked are open again."""
    apart = pairwise_distances(np.concatenate([x, *known]))
    balls = [{j for j in range(len(x)) if j == i or apart[i, j] < radius} for i in range(len(apart))]
    covered = set().union(*balls[len(x) :]) if len(balls) > len(x) else set()
    picked = []
    for _ in range(count):
        if len(covered) == len(x):
            covered = set(picked)
        best = max(set(range(len(x))) - set(picked), key=lambda i: (len(balls[i] - covered), ties[i]))
        picked.append(best)
        covered |= balls[best]
    return picked


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_the_greedy_rule_is_that_of_the_paper(data):
    count = data.draw(st.integers(1, 40))
    x = unit_rows(count, seed=count)
    ties = np.random.default_rng(data.draw(st.integers(0, 9))).permutation(count)
    known = unit_rows(data.draw(st.integers(0, 3)), seed=1000)
    # Half-way between two distances, so that rounding decides nothing.
    distances = np.unique(np.concatenate([[0.0, 2.0], pairwise_distances(np.concatenate([x, known])).ravel()]))
    gaps = np.flatnonzero(np.diff(distances) > 1e-3)
    place = gaps[data.draw(st.integers(0, len(gaps) - 1))]
    radius = float(distances[place] + distances[place + 1]) / 2
    wanted = data.draw(st.integers(1, count))
    found = greedy_cover(
        torch.from_numpy(x),
        wanted,
        1 - radius**2 / 2,
        ties=ties,
        labeled=torch.from_numpy(known) if len(known) else None,
    )
    assert found == plain_cover(x, wanted, radius, ties, [known] if len(known) else [])


def test_blocks_change_nothing(monkeypatch):
    x = torch.from_numpy(unit_rows(500, 8))
    whole = greedy_cover(x[7:], 200, 0.6, ties=np.arange(493), labeled=x[:7])
    monkeypatch.setattr(coverage, "_BLOCK_BYTES", 4 * 500 * 13)
    assert greedy_cover(x[7:], 200, 0.6, ties=np.arange(493), labeled=x[:7]) == whole


@pytest.mark.parametrize("share", [0.01, 0.2, 1.0])
def test_an_average_ball_holds_its_share(share):
    x = unit_rows(150)
    cosine = (x @ x.T)[~np.eye(150, dtype=bool)]
    threshold = share_threshold(torch.from_numpy(x), share)
    assert (cosine > threshold).mean() <= share
    assert (cosine >= threshold - 1e-6).mean() >= share
    some = share_threshold(torch.from_numpy(x), share, centers=np.arange(0, 150, 2))
    assert some == pytest.approx(threshold, abs=0.2)


@pytest.mark.parametrize("share", [1e-9, 0.013, 0.2, 0.999, 1.0])
@pytest.mark.parametrize("centers", [None, [3, 17, 80]])
def test_the_threshold_is_the_smallest_cosine_that_at_most_the_share_exceeds(share, centers):
    x = unit_rows(90)
    asked = range(90) if centers is None else centers
    cosines = np.array([x[i] @ x[j] for i in asked for j in range(90) if i != j])
    expected = min(cosine for cosine in cosines if (cosines > cosine).mean() <= share)
    found = share_threshold(torch.from_numpy(x), share, centers=None if centers is None else np.array(centers))
    assert found == pytest.approx(expected, abs=1e-6)


def test_a_single_row_has_no_pairs_and_covers_itself():
    alone = torch.tensor([[0.6, 0.8]])
    threshold = share_threshold(alone, 1.0)
    assert threshold == np.inf
    assert greedy_cover(alone, 1, threshold, ties=np.zeros(1, dtype=np.int64)) == [0]


def test_a_cosine_equal_to_the_threshold_does_not_cover():
    x = torch.eye(3)[[0, 0, 1]]
    assert greedy_cover(x, 3, 0.0, ties=np.arange(3)) == [1, 2, 0]
    x = torch.eye(3)[[0, 0, 0, 1]]
    assert greedy_cover(x, 1, 0.0, ties=np.arange(4), labeled=torch.eye(3)[[0, 2]]) == [3]


def test_the_radius_is_measured_on_some_balls(monkeypatch):
    monkeypatch.setattr(selection, "_CENTERS", 3)
    x, known = unit_rows(120, 5), [10, 60]
    some = np.delete(np.arange(120), known)
    rng = np.random.default_rng(7)
    centers, ties = rng.permutation(118)[:3], rng.permutation(118)
    cosine = np.sort(np.concatenate([x[some[i]] @ np.delete(x[some], i, axis=0).T for i in centers]))[::-1]
    radius = np.sqrt(2 - 2 * cosine[int(len(cosine) / 8)])  # of 351 pairs, 43 are closer, one in eight
    expected = some[plain_cover(x[some], 6, radius - 1e-5, ties, [x[known]])]
    np.testing.assert_array_equal(select_samples(x, None, 6, method="coverage", labeled=known, seed=7), expected)


def test_coverage_goes_where_images_are_many():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), [60, 40, 30, 20])
    x = 3 * np.eye(8)[labels] + 0.1 * rng.normal(size=(150, 8))
    chosen = select_samples(x, None, 4, method="coverage")
    assert labels[chosen].tolist() == [0, 1, 2, 3]
    known = [0, 100]
    assert labels[select_samples(x, None, 2, method="coverage", labeled=known)].tolist() == [1, 3]


def test_mixed_adds_what_is_far_to_what_is_common():
    x = unit_rows(200, 6)
    chosen = select_samples(x, None, 22, method="mixed", labeled=[3, 4])
    far = chosen[3::4]
    common = np.delete(chosen, np.arange(3, 22, 4))
    assert len(far) == 5
    np.testing.assert_array_equal(common, select_samples(x, None, 17, method="coverage", labeled=[3, 4]))
    centers = [3, 4, *common]
    for one in far:
        reach = pairwise_distances(x, x[centers]).min(axis=1)
        assert reach[one] == pytest.approx(reach.max())
        centers.append(one)
    assert select_samples(x, None, 3, method="mixed").shape == (3,)


def test_more_images_than_are_looked_at(monkeypatch):
    """Of many images a random part is looked at; a budget beyond that part is filled from the rest."""
    monkeypatch.setattr(selection, "_DRAWN", 50)
    x = unit_rows(300, 8)
    for method in ("coverage", "typicality"):
        chosen = select_samples(x, None, 280, method=method, labeled=list(range(20)))
        assert sorted(chosen) == list(range(20, 300))
        assert len(set(select_samples(x, None, 40, method=method, labeled=list(range(200))).tolist())) == 40
