"""The graph of distinct images against the same rules in plain loops."""

import numpy as np
import pytest
import torch

from sdclr.features.nearest import Neighbors, nearest
from sdclr.mining import kind_graph
from sdclr.mining.kind_graph import distinct_images, neighbor_graph


def cosine_distances(features):
    rows = features.astype(np.float64)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return 1 - rows @ rows.T


def plain_neighbors(apart, k):
    """Indices and distances of the k nearest others of each image."""
    apart = apart.copy()
    np.fill_diagonal(apart, np.inf)
    order = np.argsort(apart, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(apart, order, axis=1)


def plain_leaders(indices, distances):
    """Copies are linked images; the image with the most copies represents all of them that are not taken."""
    count, k = indices.shape
    limit = max(1e-6, 0.1 * np.median(distances[:, min(10, k) - 1]))
    copies = [set() for _ in range(count)]
    for image in range(count):
        for other, far in zip(indices[image].tolist(), distances[image].tolist(), strict=True):
            if far <= limit:
                copies[image].add(other)
                copies[other].add(image)
    leader, free = list(range(count)), set(range(count))
    for image in sorted(range(count), key=lambda one: (-len(copies[one]), distances[one].sum())):
        if image in free and copies[image]:
            for other in copies[image] & free:
                leader[other] = image
            free -= copies[image] | {image}
    return leader


def plain_distinct(features, k):
    """Merge copies until there are none, with neighbors sought anew each time. Returns the positions and owners."""
    positions, owner = list(range(len(features))), list(range(len(features)))
    while len(positions) > 1:
        indices, distances = plain_neighbors(cosine_distances(features[positions]), min(k, len(positions) - 1))
        leader = plain_leaders(indices, distances)
        blank = [place for place, image in enumerate(positions) if not features[image].any()]
        for place in blank:
            leader[place] = blank[0]
        kept = [place for place, image in enumerate(leader) if place == image]
        if len(kept) == len(positions):
            break
        stands = {positions[place]: positions[image] for place, image in enumerate(leader)}
        owner = [stands[image] for image in owner]
        positions = [positions[place] for place in kept]
    return positions, owner


def bursts(seed, dim=6):
    """Single images, bursts of several sizes and widths, and a chain of images that are each a copy of the next."""
    generator = np.random.default_rng(seed)
    single = generator.normal(size=(60, dim))
    parts = [single]
    for size, width in ((2, 0.01), (4, 0.1), (9, 0.15), (25, 0.2)):
        parts.append(single[size] + width * generator.normal(size=(size, dim)))
    angles = np.linspace(0, 1.5, 30)
    parts.append(np.outer(np.cos(angles), single[0]) + np.outer(np.sin(angles), single[1]))
    features = np.concatenate(parts)
    return features[generator.permutation(len(features))].astype(np.float32)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("k", [3, 10, 15])
def test_copies_are_merged_as_the_rules_say(k, seed):
    features = bursts(seed)
    distinct = distinct_images(torch.from_numpy(features), nearest(features, k))
    positions, owner = plain_distinct(features, k)
    assert 60 <= len(positions) < len(features)
    assert distinct.positions.tolist() == positions
    assert distinct.positions[distinct.owner].tolist() == owner
    assert distinct.copies.tolist() == [owner.count(image) for image in positions]
    indices, distances = plain_neighbors(cosine_distances(features[positions]), k)
    np.testing.assert_array_equal(distinct.indices, indices)
    np.testing.assert_allclose(distinct.distances, distances, atol=1e-6)


@pytest.mark.parametrize("places", [[0, 1, 2, 3, 4], [0, 1, 2, -2, -1], [7, 40, -3, -2, -1], [-3, -2, -1]])
def test_images_without_a_direction_are_one(places):
    features = bursts(0)
    blank = np.arange(len(features) + len(places))[places]
    mixed = np.zeros((len(features) + len(places), 6), dtype=np.float32)
    mixed[np.setdiff1d(np.arange(len(mixed)), blank)] = features
    distinct = distinct_images(torch.from_numpy(mixed), nearest(mixed, 10))
    assert (distinct.positions[distinct.owner[blank]] == min(blank)).all()
    assert distinct.copies[distinct.owner[min(blank)]] == len(blank)
    positions, owner = plain_distinct(mixed, 10)
    assert distinct.positions.tolist() == positions
    assert distinct.positions[distinct.owner].tolist() == owner


def test_collections_of_copies_of_one_or_two_images():
    same = torch.ones(7, 4)
    alone = distinct_images(same, nearest(same, 3))
    assert alone.indices.shape == alone.distances.shape == (1, 0)
    assert alone.indices.dtype == np.int64
    assert alone.distances.dtype == np.float32
    assert alone.copies.tolist() == [7]
    assert alone.owner.tolist() == [0] * 7
    two = torch.eye(4)[[0, 1] * 8]
    both = distinct_images(two, nearest(two, 3))
    assert sorted(both.positions % 2) == [0, 1]
    assert both.indices.tolist() == [[1], [0]]
    assert both.distances.tolist() == [[1], [1]]
    assert both.copies.tolist() == [8, 8]


def plain_graph(indices, distances, tuning=5):
    """Jaccard index times closeness for each pair, from the formulas. Distances below rounding count as rounding."""
    count, k = indices.shape
    lists = [{image, *others} for image, others in enumerate(indices.tolist())]
    known = [dict(zip(a, b, strict=True)) for a, b in zip(indices.tolist(), distances.tolist(), strict=True)]
    scale = np.maximum(distances[:, min(tuning, k) - 1].astype(np.float64), 1e-6)
    graph = np.zeros((count, count))
    for a in range(count):
        for b in range(count):
            lengths = [near[other] for near, other in ((known[a], b), (known[b], a)) if other in near]
            if lengths:
                ratio = max(*lengths, 1e-6) / np.sqrt(scale[a] * scale[b])
                graph[a, b] = len(lists[a] & lists[b]) / len(lists[a] | lists[b]) * np.exp(-min(ratio, 30))
    return graph


def tight_and_far(seed):
    """A tight group and images that are thousands of times as far from it, so that the closest weights would be 0."""
    generator = np.random.default_rng(seed)
    tight = np.eye(1, 8) + 1e-3 * generator.normal(size=(20, 8))
    return np.concatenate([tight, np.repeat(np.eye(1, 8, 3), 9, axis=0), generator.normal(size=(6, 8))])


@pytest.mark.parametrize("k", [1, 3, 5, 9])
@pytest.mark.parametrize("features", [np.random.default_rng(0).normal(size=(70, 4)), tight_and_far(1)])
def test_weights_are_those_of_the_formulas(features, k):
    found = nearest(features.astype(np.float32), k)
    indices, distances = found.indices.numpy(), found.distances.numpy()
    graph = neighbor_graph(indices, distances)
    assert graph.dtype == np.float64
    linked = {(a, b) for a, others in enumerate(indices.tolist()) for b in others}
    assert graph.nnz == len(linked | {(b, a) for a, b in linked})  # no weight is rounded to zero
    np.testing.assert_allclose(graph.toarray(), plain_graph(indices, distances), rtol=1e-5)


def test_more_than_127_shared_neighbors_are_counted():
    found = nearest(np.random.default_rng(0).normal(size=(150, 4)).astype(np.float32), 140)
    indices, distances = found.indices.numpy(), found.distances.numpy()
    np.testing.assert_allclose(neighbor_graph(indices, distances).toarray(), plain_graph(indices, distances), rtol=1e-5)


def test_blocks_change_no_weight(monkeypatch):
    found = nearest(np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32), 7)
    whole = neighbor_graph(found.indices.numpy(), found.distances.numpy()).toarray()
    monkeypatch.setattr(kind_graph, "_LINKS", 101)
    monkeypatch.setattr(kind_graph, "_PAIRS", 37)
    blocks = neighbor_graph(found.indices.numpy().astype(np.int32), found.distances.numpy()).toarray()
    np.testing.assert_array_equal(blocks, whole)


def test_offsets_of_large_matrices_do_not_overflow():
    assert kind_graph._starts(2**16, 2**15 - 1).dtype == np.int32
    large = kind_graph._starts(2**16, 2**15)
    assert large.dtype == np.int64
    assert large[[0, 1, -1]].tolist() == [0, 2**15, 2**31]


def test_images_that_lost_neighbors_are_sought_again_and_no_others(monkeypatch):
    """Only images with a removed neighbor are sought: a search among all takes hours for a million images."""
    asked = []
    search = kind_graph.find_neighbors

    def watched(features, k, *, queries):
        asked.append((k, len(queries)))
        return search(features, k, queries=queries)

    monkeypatch.setattr(kind_graph, "find_neighbors", watched)
    generator = np.random.default_rng(0)
    apart = generator.normal(size=(40, 8))
    apart[:20, 0] += 30
    apart[20:, 1] += 30
    features = torch.from_numpy(np.concatenate([apart, apart[:1]]).astype(np.float32))
    distinct = distinct_images(features, nearest(features, 6))
    found = nearest(features, 6).indices.numpy()
    # Of the two equal images one goes, and those of the first twenty that had it among their neighbors are sought.
    (gone,) = set(range(41)) - set(distinct.positions.tolist())
    losers = {row for row in range(41) if gone in found[row] and row != gone}
    assert asked == [(7, len(losers))]
    assert 0 < len(losers) <= 20


def test_an_approximate_search_may_miss_the_image_itself(monkeypatch):
    """Of an image that does not find itself, the farthest of k + 1 neighbors is left out."""

    def search(features, k, *, queries):
        order, far = plain_neighbors(cosine_distances(features.numpy()), k)
        rows = (queries @ features.T).argmax(dim=1).numpy()
        indices, distances = order[rows], far[rows].astype(np.float32)
        for place, row in enumerate(rows.tolist()):
            if row % 2:  # half of the images find themselves first
                indices[place, 1:], distances[place, 1:] = indices[place, :-1], distances[place, :-1]
                indices[place, 0], distances[place, 0] = row, 0
        return Neighbors(torch.from_numpy(distances), torch.from_numpy(indices))

    monkeypatch.setattr(kind_graph, "find_neighbors", search)
    features = bursts(1)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    distinct = distinct_images(torch.from_numpy(features), nearest(features, 8))
    positions, _ = plain_distinct(features, 8)
    assert distinct.positions.tolist() == positions
    np.testing.assert_array_equal(distinct.indices, plain_neighbors(cosine_distances(features[positions]), 8)[0])


def test_fewer_images_than_neighbors_are_left():
    generator = np.random.default_rng(3)
    few = np.eye(5) + 0.1 * generator.normal(size=(5, 5))
    features = np.repeat(few, 4, axis=0).astype(np.float32)
    known = nearest(features, 12)
    distinct = distinct_images(torch.from_numpy(features), Neighbors(known.distances, known.indices))
    assert len(distinct.positions) == 5
    assert distinct.copies.tolist() == [4] * 5
    indices, distances = plain_neighbors(cosine_distances(few), 4)
    np.testing.assert_array_equal(distinct.indices, indices)
    np.testing.assert_allclose(distinct.distances, distances, atol=1e-6)
