"""What is told about each kind: order, separation, medoid and odd images, against plain formulas."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from sdclr.features.nearest import nearest
from sdclr.mining import kinds as kinds_module
from sdclr.mining.kind_graph import distinct_images, neighbor_graph
from sdclr.mining.kinds import Kinds, find_kinds, kind_rarity


def groups(seed, sizes, spread, dim=16):
    """Directions around random centers, of any length, in random order. `spread` is that of each group."""
    generator = np.random.default_rng(seed)
    centers = np.linalg.qr(generator.normal(size=(dim, dim)))[0]
    parts = [
        center + width * generator.normal(size=(size, dim)) / np.sqrt(dim)
        for center, size, width in zip(centers, sizes, spread, strict=False)
    ]
    features = np.concatenate(parts)[generator.permutation(sum(sizes))]
    return (features * generator.uniform(0.1, 10, size=(len(features), 1))).astype(np.float32)


def test_values_have_the_documented_types():
    for features in (groups(0, (200, 30), (0.5, 0.5)), np.ones((1, 3)), np.ones((40, 3))):
        kinds = find_kinds(features)
        for name in ("labels", "sizes", "medoids", "odd"):
            assert getattr(kinds, name).dtype == np.int64
        assert kinds.separation.dtype == np.float64
        assert len(kinds) == len(kinds.sizes) == len(kinds.medoids) == len(kinds.separation)
        assert sum(len(kinds.members(kind)) for kind in range(len(kinds))) == len(features)
        for kind in range(len(kinds)):
            assert (kinds.labels[kinds.members(kind)] == kind).all()
            assert len(kinds.members(kind)) == kinds.sizes[kind]
        assert kind_rarity(kinds, np.zeros(len(features))).dtype == np.float32


@pytest.mark.parametrize("seed", range(3))
def test_the_medoid_is_nearest_to_the_mean_direction(seed):
    features = groups(seed, (150, 60, 30), (0.4, 0.6, 0.5))
    kinds = find_kinds(features)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    assert len(kinds) == 3
    for kind in range(3):
        members = np.flatnonzero(kinds.labels == kind)
        far = cdist(unit[members], unit[members].mean(axis=0, keepdims=True), metric="cosine")
        assert kinds.medoids[kind] == members[far.argmin()]


def test_kinds_of_one_size_are_sorted_by_separation_and_then_by_their_first_image():
    features = groups(1, (200, 40, 40, 40), (0.7, 0.6, 0.8, 0.7))
    kinds = find_kinds(features)
    assert kinds.sizes.tolist() == [200, 40, 40, 40]
    assert (np.diff(kinds.separation[1:]) > 0).all()
    kinds = find_kinds(groups(4, (16, 16, 16), (0.3, 0.3, 0.3)))
    assert kinds.sizes.tolist() == [16, 16, 16]
    assert kinds.separation.tolist() == [1, 1, 1]  # each image has its 10 neighbors among the other 15
    first = [int(kinds.members(kind)[0]) for kind in range(3)]
    assert first == sorted(first)


def test_links_among_many_copies_of_one_image_are_inside():
    """Eleven equal images and more count as that many, ten or fewer as one."""
    single = groups(5, (150, 25), (0.6, 0.9))
    for copies in (9, 10, 11, 30):
        features = np.concatenate([single, np.repeat(single[:1], copies - 1, axis=0)])
        found = nearest(features, 15)
        distinct = distinct_images(torch.from_numpy(features), found)
        assert distinct.copies.max() == copies
        graph = neighbor_graph(distinct.indices, distinct.distances).toarray()
        if copies > 10:
            graph[distinct.copies.argmax(), distinct.copies.argmax()] += copies - 1
        kinds = find_kinds(features)
        assert len(kinds) >= 2
        labels = kinds.labels[distinct.positions]
        for kind in range(len(kinds)):
            own = labels == kind
            assert kinds.separation[kind] == pytest.approx(graph[own][:, own].sum() / graph[own].sum())


@pytest.mark.parametrize("seed", range(4))
def test_odd_images_are_outliers_in_the_collection_and_in_their_kind(seed):
    features = groups(seed, (300, 60), (0.3, 0.9))
    features[:4] = np.random.default_rng(seed).normal(size=(4, 16))
    kinds = find_kinds(features, k=15)
    far = np.sort(cdist(features, features, metric="cosine"), axis=1)[:, 1:11].mean(axis=1)

    def outliers(values):
        low, high = np.percentile(np.log(values), [25, 75])
        return np.log(values) > high + 1.5 * (high - low)

    expected = outliers(far)
    for kind in range(len(kinds)):
        own = kinds.labels == kind
        expected[own] &= outliers(far[own])
    assert expected.any()
    assert (outliers(far) & ~expected).any()
    assert kinds.odd.tolist() == np.flatnonzero(expected)[np.argsort(-far[expected])].tolist()


def test_two_images_with_many_copies_each_are_two_kinds():
    kinds = find_kinds(np.eye(6)[[0] * 30 + [3] * 20])
    assert kinds.labels.tolist() == [0] * 30 + [1] * 20
    # One link of weight exp(-1) between both, and one for each copy inside.
    assert kinds.separation.tolist() == pytest.approx([copies / (copies + np.exp(-1)) for copies in (29, 19)])


def test_images_at_equal_distances_are_not_odd():
    assert len(find_kinds(np.eye(40)).odd) == 0


def test_copies_of_an_odd_image_are_listed_once_and_more_than_ten_are_not_odd():
    features = groups(2, (300,), (0.3,))
    stranger = np.random.default_rng(0).normal(size=(1, 16)).astype(np.float32)
    for copies, listed in ((1, 1), (10, 1), (11, 0)):
        kinds = find_kinds(np.concatenate([features, np.repeat(stranger, copies, axis=0)]))
        assert (kinds.odd >= 300).sum() == listed


@pytest.mark.parametrize(
    ("count", "k", "used"), [(2, 15, 1), (8, 15, 7), (40, 15, 10), (40, 1, 1), (120, 15, 12), (400, 15, 15)]
)
def test_small_collections_use_fewer_neighbors(count, k, used, monkeypatch):
    asked, search = [], kinds_module.find_neighbors

    def watched(features, k):
        asked.append(k)
        return search(features, k)

    features = np.random.default_rng(0).normal(size=(count, 8)).astype(np.float32)
    known = find_kinds(features, k=k, neighbors=nearest(features, min(2 * k, count - 1)))
    monkeypatch.setattr(kinds_module, "find_neighbors", watched)
    kinds = find_kinds(features, k=k)
    assert asked == [used]
    np.testing.assert_array_equal(kinds.odd, known.odd)


def plain_rarity(kinds, distance, leading):
    """The number of less rare images of each image, as a share of all."""
    waiting = {
        kind: sorted(np.flatnonzero(kinds.labels == kind), key=lambda one: (-distance[one], one)) for kind in leading
    }
    order = []
    while any(waiting.values()):
        for kind in sorted(leading, reverse=True):  # the smallest kind has the largest number
            order += waiting[kind][:1]
            waiting[kind] = waiting[kind][1:]
    others = [one for one in range(len(distance)) if kinds.labels[one] not in leading]
    less = {one: sum(distance[other] < distance[one] for other in others) for one in others}
    less |= {one: len(distance) - 1 - place for place, one in enumerate(order)}
    return [less[one] / len(distance) for one in range(len(distance))]


@pytest.mark.parametrize("leading", [[], [1, 3], [0, 2], [0, 1, 2, 3], None])
def test_rarity_is_the_share_of_images_that_are_less_rare(leading):
    generator = np.random.default_rng(0)
    labels = generator.permutation(np.repeat(np.arange(4), [80, 9, 5, 3]))
    sizes = np.bincount(labels)
    kinds = Kinds(labels, sizes, np.ones(4), np.zeros(4, dtype=np.int64), np.empty(0, dtype=np.int64))
    distance = generator.integers(12, size=97)  # with ties
    chosen = None if leading is None else np.isin(np.arange(4), leading)
    found = kind_rarity(kinds, distance, leading=chosen)
    expected = plain_rarity(kinds, distance, [2, 3] if leading is None else leading)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_array_equal(kind_rarity(kinds, distance.astype(np.uint8), leading=chosen), found)


def test_a_rare_kind_has_at_most_half_the_mean_size_over_images():
    def rare(sizes, *share):
        labels = np.repeat(np.arange(len(sizes)), sizes)
        return Kinds(labels, np.array(sizes), np.ones(len(sizes)), np.array(sizes), np.array(sizes)).rare(*share)

    # Over the images of 22 kinds of 100 and of one of 49 or 50, the mean size is 98.9.
    assert rare([100] * 22 + [49])[-1]
    assert not rare([100] * 22 + [50])[-1]
    assert rare([100, 50], 0.5).tolist() == [False, False]
    assert rare([100, 30], 0.5).tolist() == [False, True]
    assert rare([100, 30], 0.3).tolist() == [False, True]
    assert rare([100, 30], 0.29).tolist() == [False, False]
    assert rare([7, 7, 5, 3], 0.5).tolist() == [False, False, False, True]  # exactly half of 6
