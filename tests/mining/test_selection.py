"""Choosing images to label: what each method promises, against plain formulas and a collection that is known."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata
from sklearn.metrics import pairwise_distances

from sdclr.errors import InputError
from sdclr.evaluation.clusters import find_clusters
from sdclr.features.nearest import nearest
from sdclr.mining import k_center, selection
from sdclr.mining.selection import DEFAULT, select_samples
from sdclr.mining.typicality import most_clusters

METHODS = list(selection._METHODS)


def long_tailed(seed=0, sizes=(400, 200, 100, 30, 12, 6), width=16, spread=0.6):
    """Round clouds of points in random directions, and the cloud of each."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    centers = 4 * np.linalg.qr(rng.normal(size=(width, width)))[0][: len(sizes)]
    points = centers[labels] + rng.normal(size=(len(labels), width)) * spread
    order = rng.permutation(len(labels))
    return points[order].astype(np.float32), labels[order]


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def plain_farthest_first(x, count, first, weights, known=()):
    """As the paper writes it: all distances, one pick after the other."""
    apart, picked = pairwise_distances(x), []
    for _ in range(count):
        chosen = [*known, *picked]
        if chosen:
            reach = weights * apart[:, chosen].min(axis=1)
            reach[chosen] = -1
            picked.append(int(reach.argmax()))
        else:
            picked.append(first)
    return picked


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_a_choice_keeps_its_promises(method, data):
    count = data.draw(st.integers(1, 60))
    known = data.draw(st.sets(st.integers(0, count - 1), max_size=count - 1))
    budget = data.draw(st.integers(1, count - len(known)))
    distinct = data.draw(st.integers(1, count))  # images may be there twice
    x = np.random.default_rng(count).normal(size=(distinct, 5))[np.arange(count) % distinct]
    rarity = np.random.default_rng(1).integers(3, size=count)  # with ties
    options = {"method": method, "labeled": sorted(known), "clusters": 4, "seed": budget}
    chosen = select_samples(x, rarity, budget, **options)
    assert chosen.dtype == np.int64
    assert chosen.shape == (budget,)
    assert len(set(chosen.tolist())) == budget
    assert not set(chosen.tolist()) & known
    np.testing.assert_array_equal(select_samples(x, rarity, budget, **options), chosen)
    if method not in {"typicality", "coverage", "mixed"} and budget > 1:
        np.testing.assert_array_equal(select_samples(x, rarity, budget - 1, **options), chosen[:-1])


@pytest.mark.parametrize("method", METHODS)
def test_all_images_can_be_chosen(method):
    x, _ = long_tailed(sizes=(20, 9))
    assert set(select_samples(x, None, 29, method=method)) == set(range(29))
    assert select_samples(x[:1], None, 1, method=method).tolist() == [0]


def test_the_rarest_come_first():
    rarity = [0.1, 0.9, -3.0, 0.9, 5.0]
    assert select_samples(np.eye(5), rarity, 4, method="rarity").tolist() == [4, 1, 3, 0]
    assert select_samples(np.eye(5), rarity, 2, method="rarity", labeled=[4]).tolist() == [1, 3]


def test_equal_rarities_are_taken_in_the_order_of_the_images():
    rarity = np.random.default_rng(0).integers(3, size=500)
    expected = sorted(range(500), key=lambda row: (-rarity[row], row))
    for scores in (rarity, rarity.astype(np.uint8)):
        assert select_samples(np.ones((500, 2)), scores, 300, method="rarity").tolist() == expected[:300]


def test_rarity_is_the_distance_to_ten_neighbors_by_default():
    x, _ = long_tailed()
    apart = pairwise_distances(x, metric="cosine")
    mean = np.sort(apart, axis=1)[:, 1:11].mean(axis=1)
    assert select_samples(x, None, 20, method="rarity").tolist() == np.argsort(-mean)[:20].tolist()


@pytest.mark.parametrize("known", [[], [3, 500]])
@pytest.mark.parametrize("active", [1, 20, 4096])
def test_farthest_first_is_the_plain_algorithm(known, active, monkeypatch):
    x, _ = long_tailed()
    monkeypatch.setattr(k_center, "_ACTIVE", active)
    chosen = select_samples(x, None, 40, method="k_center", labeled=known, seed=5)
    expected = plain_farthest_first(unit(x), 40, chosen[0], np.ones(len(x)), known)
    assert chosen.tolist() == expected


@pytest.mark.parametrize("alpha", [0.5, 4])
def test_weights_multiply_distance_and_percentile(alpha):
    x, _ = long_tailed()
    rarity = nearest(x, 10).distances.mean(dim=1).numpy()
    weights = ((rarity.argsort().argsort() + 1) / len(x)) ** alpha
    expected = plain_farthest_first(unit(x), 40, int(rarity.argmax()), weights)
    assert select_samples(x, rarity, 40, method="weighted", alpha=alpha).tolist() == expected
    # Only the order of scores counts.
    assert select_samples(x, np.exp(9 * rarity) - 5, 40, method="weighted", alpha=alpha).tolist() == expected


def test_weights_of_common_images_do_not_vanish():
    """The square of the smallest weight is 1e-45 here, below the range of float32."""
    x = np.random.default_rng(0).normal(size=(300, 8))
    rarity = np.random.default_rng(1).permutation(300)
    weights = ((rarity + 1) / 300) ** 9.0
    expected = plain_farthest_first(unit(x), 290, int(rarity.argmax()), weights)
    assert select_samples(x, rarity, 290, method="weighted", alpha=9).tolist() == expected


def test_equal_scores_share_a_percentile():
    x, _ = long_tailed()
    rarity = np.random.default_rng(0).integers(9, size=len(x))
    weights = (rankdata(rarity) / len(x)) ** 4
    expected = plain_farthest_first(unit(x), 40, int(rarity.argmax()), weights)
    assert select_samples(x, rarity, 40, method="weighted").tolist() == expected


def test_without_alpha_weights_leave_variety_alone():
    x, _ = long_tailed()
    rarity = np.arange(len(x))
    chosen = select_samples(x, rarity, 30, method="weighted", alpha=0)
    assert chosen.tolist() == plain_farthest_first(unit(x), 30, len(x) - 1, np.ones(len(x)))


def test_both_takes_variety_and_rarity_in_turn():
    x, _ = long_tailed()
    far, rare = (select_samples(x, None, 30, method=method).tolist() for method in ("k_center", "rarity"))
    expected = list(dict.fromkeys(one for pair in zip(far, rare, strict=True) for one in pair))[:30]
    assert select_samples(x, None, 30, method="both").tolist() == expected


@pytest.mark.parametrize("alpha", [0.0, 3.0])
def test_draws_are_in_proportion_to_the_power_of_the_percentile(alpha):
    count, draws = 5, 6000
    rarity = np.array([3, 1, 5, 2, 4])
    first = [
        int(select_samples(np.eye(count), rarity, 1, method="sampled", alpha=alpha, seed=seed)[0])
        for seed in range(draws)
    ]
    share = (rarity / count) ** alpha
    share /= share.sum()
    sigma = np.sqrt(share * (1 - share) / draws)
    assert (np.abs(np.bincount(first, minlength=count) / draws - share) < 4 * sigma + 1e-9).all()


def test_the_shortest_waiting_times_are_drawn():
    x, _ = long_tailed()
    rarity = np.random.default_rng(0).integers(9, size=len(x))
    waiting = np.random.default_rng(5).exponential(size=len(x)) / (rankdata(rarity) / len(x)) ** 2
    expected = [row for row in np.argsort(waiting).tolist() if row not in {3, 70}][:200]
    assert select_samples(x, rarity, 200, method="sampled", alpha=2, labeled=[3, 70], seed=5).tolist() == expected


def test_random_choices_have_the_base_rate():
    x, labels = long_tailed()
    chosen = [select_samples(x, None, 75, method="random", seed=seed) for seed in range(300)]
    share = np.mean([(labels[one] >= 3).mean() for one in chosen])
    base = (labels >= 3).mean()
    assert abs(share - base) < 4 * np.sqrt(base * (1 - base) / (300 * 75))


def test_clusters_give_their_rarest_in_turn():
    x, labels = long_tailed(spread=0.05)
    rarity = np.random.default_rng(0).normal(size=len(x))
    chosen = select_samples(x, rarity, 18, method="clusters", clusters=6)
    for turn, part in enumerate(chosen.reshape(3, 6)):
        assert sorted(labels[part]) == list(range(6))
        assert (np.diff(rarity[part]) <= 0).all()
        for one in part:
            same = np.sort(rarity[labels == labels[one]])[::-1]
            assert rarity[one] == same[turn]


@pytest.mark.parametrize("seed", [0, 3])
def test_the_seed_is_that_of_the_clusters(seed):
    """Clouds that overlap are divided anew by each seed."""
    x = np.random.default_rng(0).normal(size=(200, 3))
    rarity = np.random.default_rng(1).permutation(200)
    labels = find_clusters(unit(x), 12, seed=seed).labels
    expected = sorted(
        (max(np.flatnonzero(labels == one), key=rarity.__getitem__) for one in range(12)), key=lambda one: -rarity[one]
    )
    assert select_samples(x, rarity, 12, method="clusters", clusters=12, seed=seed).tolist() == expected
    labels = find_clusters(unit(x), 15, seed=seed).labels
    chosen = select_samples(x, None, 15, method="typicality", seed=seed)
    assert chosen.tolist() == plain_typicality(unit(x), labels, 15, [])


def test_one_cluster_gives_the_rarest_and_the_default_is_a_hundred():
    x, rarity = np.random.default_rng(0).normal(size=(300, 3)), np.random.default_rng(1).permutation(300)
    expected = np.argsort(-rarity)[:120]
    np.testing.assert_array_equal(select_samples(x, rarity, 120, method="clusters", clusters=1), expected)
    usual, hundred, more = (
        select_samples(x, rarity, 120, method="clusters", **options)
        for options in ({}, {"clusters": 100}, {"clusters": 101})
    )
    np.testing.assert_array_equal(usual, hundred)
    assert usual.tolist() != more.tolist()


def test_clusters_with_labels_wait_for_the_others():
    x, labels = long_tailed(spread=0.05)
    known = np.concatenate([np.flatnonzero(labels == kind)[:2] for kind in (0, 4)])
    chosen = select_samples(x, None, 8, method="clusters", clusters=6, labeled=known)
    assert sorted(labels[chosen]) == [1, 1, 2, 2, 3, 3, 5, 5]


def plain_typicality(x, labels, budget, known):
    """TypiClust as its paper writes it, on given clusters.

    The largest cluster with fewest labels gives its most typical image. Typicality is the inverse of the mean distance
    to 20 neighbors of the same cluster. Clusters of fewer than 5 images are left out.
    """
    picked, had = [], np.bincount(labels[known], minlength=labels.max() + 1)
    while len(picked) < budget:
        free = [i for i in range(len(x)) if i not in picked and i not in known]
        sizes = np.bincount(labels)
        clusters = {int(labels[i]) for i in free if sizes[labels[i]] >= 5}
        best = min(clusters, key=lambda one: (had[one], -sizes[one], one))
        members = np.flatnonzero(labels == best)
        apart = pairwise_distances(x[members])
        count = min(20, len(members) - 1)
        typical = {int(i): 1 / np.sort(row)[1 : count + 1].mean() for i, row in zip(members, apart, strict=True)}
        picked.append(max((i for i in members.tolist() if i in free), key=typical.__getitem__))
        had[best] += 1
    return picked


@pytest.mark.parametrize(("budget", "known"), [(6, []), (12, []), (5, [0, 50, 51]), (30, [7])])
def test_typicality_is_that_of_the_paper(budget, known):
    x, _ = long_tailed(sizes=(120, 60, 30, 12, 6, 3))
    x = unit(x)
    labels = find_clusters(x, min(budget + len(known), most_clusters(len(x)))).labels
    assert (np.bincount(labels) < 5).any() == (budget > 6)  # there are clusters to be left out
    chosen = select_samples(x, None, budget, method="typicality", labeled=known)
    assert chosen.tolist() == plain_typicality(x, labels, budget, known)


def test_small_clusters_come_after_all_others():
    labels = np.repeat(np.arange(4), [20, 10, 4, 1])
    x = 3 * np.eye(6)[labels] + 0.01 * np.random.default_rng(0).normal(size=(35, 6))
    chosen = select_samples(x, None, 4, method="typicality")
    assert labels[chosen].tolist() == [0, 1, 0, 1]
    found = find_clusters(x, most_clusters(35))
    small = found.sizes[found.labels[select_samples(x, None, 35, method="typicality")]] < 5
    assert 0 < small.sum() < 35
    assert (np.diff(small.astype(int)) >= 0).all()


def test_clusters_are_as_many_as_images_allow():
    assert [most_clusters(count) for count in (1, 12, 99, 276, 4000, 10**6)] == [1, 10, 10, 27, 400, 500]


def test_kinds_come_first_and_then_what_is_far():
    x, labels = long_tailed(spread=0.05)
    found = select_samples(x, None, 9, method="kinds", kinds=labels)
    assert labels[found[:6]].tolist() == [0, 1, 2, 3, 4, 5]
    for one in found[:6]:
        members = unit(x)[labels == labels[one]]
        assert unit(x)[one] @ members.mean(axis=0) == pytest.approx((members @ members.mean(axis=0)).max(), abs=1e-6)
    assert found[6:].tolist() == select_samples(x, None, 3, method="k_center", labeled=found[:6]).tolist()
    known = np.flatnonzero(np.isin(labels, [0, 4]))[:30]
    known = np.union1d(known, np.flatnonzero(labels == 4)[:1])
    found = select_samples(x, None, 4, method="kinds", kinds=labels, labeled=known)
    assert labels[found].tolist() == [1, 2, 3, 5]
    assert labels[select_samples(x, None, 2, method="kinds", kinds=labels)].tolist() == [0, 1]


def test_kinds_of_one_size_come_in_the_order_of_their_numbers():
    generator = np.random.default_rng(0)
    sizes = generator.integers(1, 4, size=150)
    kinds = generator.permutation(np.repeat(np.arange(150), sizes))
    chosen = select_samples(generator.normal(size=(len(kinds), 4)), None, 150, method="kinds", kinds=kinds)
    assert kinds[chosen].tolist() == sorted(range(150), key=lambda kind: (-sizes[kind], kind))


def test_kinds_are_sought_where_none_are_given():
    x, labels = long_tailed(spread=0.05, sizes=(300, 100, 40))
    found = select_samples(x, None, 3, method="kinds")
    assert labels[found].tolist() == [0, 1, 2]


def test_typicality_goes_to_clusters_without_labels():
    x, labels = long_tailed(spread=0.05)
    known = [int(np.flatnonzero(labels == kind)[0]) for kind in (0, 2, 3)]
    chosen = select_samples(x, None, 3, method="typicality", labeled=known)
    assert labels[chosen].tolist() == [1, 4, 5]


def test_farthest_first_finds_more_of_the_tail_than_chance():
    found = []
    for seed in range(5):
        x, labels = long_tailed(seed)
        tail = labels >= 3
        chosen = select_samples(x, None, 37, method="k_center")
        found.append(tail[chosen].sum() / tail.sum())
        assert len(np.unique(labels[chosen])) == 6
    assert np.mean(found) > 3 * 37 / len(x)


def test_the_default_is_near_most_images_and_meets_more_classes_than_chance():
    def gap(x, chosen):
        """Median distance of an image to the nearest of those chosen."""
        return np.median(pairwise_distances(unit(x), unit(x[chosen])).min(axis=1))

    gaps, classes = [], []
    for seed in range(5):
        x, labels = long_tailed(seed)
        both = [select_samples(x, None, 12, seed=seed), select_samples(x, None, 12, method="random", seed=seed)]
        gaps.append([gap(x, chosen) for chosen in both])
        classes.append([len(np.unique(labels[chosen])) for chosen in both])
    assert (np.array(gaps)[:, 0] < np.array(gaps)[:, 1]).all()
    assert np.mean(classes, axis=0)[0] > np.mean(classes, axis=0)[1]
    assert DEFAULT == "typicality"


def test_labeled_images_may_be_named_twice_in_any_order():
    x, _ = long_tailed()
    once = select_samples(x, None, 9, method="mixed", labeled=[3, 50])
    np.testing.assert_array_equal(select_samples(x, None, 9, method="mixed", labeled=np.uint8([50, 3, 50])), once)


def test_tensors_serve_as_well():
    x, _ = long_tailed()
    np.testing.assert_array_equal(select_samples(torch.from_numpy(x), None, 9), select_samples(x, None, 9))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget": 0}, "budget=0: 4 of 6 images are not labeled yet"),
        ({"budget": 5}, "budget=5: 4 of 6"),
        ({"method": "rarest"}, "method='rarest' is not known: choose from random, rarity"),
        ({"alpha": -1.0}, "alpha=-1.0 must lie in [0, 16]"),
        ({"alpha": 17}, "alpha=17 must lie in [0, 16]"),
        ({"alpha": float("nan")}, "alpha=nan"),
        ({"clusters": 0}, "clusters=0 must be 1 or more"),
        ({"rarity": [1, 2]}, "rarity has shape (2,) for 6 images"),
        ({"rarity": [1, 2, np.nan, 4, 5, 6]}, "rarity row 2 is not finite: leave bad images out"),
        ({"kinds": [0, 1]}, "kinds has shape (2,)"),
        ({"kinds": [0, 0, 0, 0, 0, -1]}, "give one whole number, 0 or more"),
        ({"labeled": [6]}, "labeled holds 6: positions of 6 images go from 0 to 5"),
        ({"labeled": [-1]}, "labeled holds -1"),
        ({"labeled": [0.5]}, "give a list of positions"),
        ({"labeled": [[0, 1]]}, "labeled has shape (1, 2)"),
        ({"labeled": [False, True]}, "type bool: give a list of positions"),
        ({"kinds": [0.0, 1, 1, 1, 1, 1]}, "type float64 for 6 images"),
        ({"kinds": [[0]] * 6}, "kinds has shape (6, 1)"),
        ({"rarity": [[1]] * 6}, "rarity has shape (6, 1)"),
        ({"alpha": float("inf")}, "alpha=inf"),
        ({"features": np.zeros(6)}, "features must be an (N, D) table"),
        ({"features": np.full((6, 2), np.nan)}, "features row 0 is not finite"),
    ],
)
def test_what_cannot_be_used_is_named(change, message):
    given = {"features": np.eye(6), "rarity": np.arange(6), "budget": 2, "labeled": [0, 1]} | change
    positional = [given.pop(name) for name in ("features", "rarity", "budget")]
    with pytest.raises(InputError, match=re.escape(message)):
        select_samples(*positional, **given)
