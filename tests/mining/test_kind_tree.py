"""Separated groups of a tree, against the same rules on dense matrices, with all sums taken anew."""

import numpy as np
import pytest
from scipy import sparse

from sdclr.features.nearest import nearest
from sdclr.mining import kind_tree
from sdclr.mining.kind_graph import neighbor_graph
from sdclr.mining.kind_tree import build_tree, separated_groups

FRACTIONS = (1 / 2, 1 / 4, 1 / 8)


def planted_graph(seed, sizes=(40, 30, 25, 12, 6), inside=0.5, outside=0.02, *, apart=()):
    """Random weights among groups. Groups in `apart` have no links to others."""
    generator = np.random.default_rng(seed)
    group = np.repeat(np.arange(len(sizes)), sizes)
    same = group[:, None] == group
    chance = np.where(same, inside, outside)
    alone = np.isin(group, apart)
    chance[~same & (alone[:, None] | alone)] = 0
    graph = np.triu((generator.random(chance.shape) < chance) * generator.uniform(0.1, 1, chance.shape), 1)
    order = generator.permutation(len(group))
    return (graph + graph.T)[order][:, order], group[order]


def cloud(seed, dim, count=150):
    """The graph of points in a ball, whose parts lose only few of their links."""
    near = nearest(np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32), 8, metric="euclidean")
    return neighbor_graph(near.indices.numpy(), near.distances.numpy()).toarray()


def volume(graph, nodes):
    return graph[nodes].sum()


def cut(graph, nodes):
    return graph[nodes][:, ~nodes].sum()


class PlainTree:
    """A tree whose groups are sets of nodes of a dense graph."""

    def __init__(self, tree, graph):
        self.tree, self.graph = tree, graph
        self.nodes = [np.isin(tree.leaf, tree.leaves([group])) for group in range(len(tree.children))]

    def parts(self, groups, fraction):
        """Share of links that leave the largest subgroups with at most a fraction of the volume."""
        limit = fraction * sum(volume(self.graph, self.nodes[group]) for group in groups)

        def lost(group):
            size, pair = volume(self.graph, self.nodes[group]), self.tree.children[group]
            if size <= limit:
                return np.array([cut(self.graph, self.nodes[group]), size])
            if pair is None:
                return np.array([(1 - fraction) * size, size])
            return lost(pair[0]) + lost(pair[1])

        cuts, total = sum(lost(group) for group in groups)
        return min(1 - fraction, cuts / total) if total else 0

    def separated(self, groups, contrast):
        nodes = np.any([self.nodes[group] for group in groups], axis=0)
        whole = volume(self.graph, nodes)
        outside = contrast * cut(self.graph, nodes) / whole if whole else 0
        return any(
            outside <= min(1 - fraction, self.parts(groups, fraction)) * np.sqrt(fraction) for fraction in FRACTIONS
        )


def groups_at(contrast, tree, counts, least):
    """The groups at another contrast than the default."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind_tree, "CONTRAST", contrast)
        return separated_groups(tree, counts, least)


def plain_groups(tree, graph, counts, least, contrast):
    """The partition as a set of sets of nodes, and the share of links inside each."""
    plain, whole = PlainTree(tree, graph), graph.sum()
    wanted = [
        group
        for group, nodes in enumerate(plain.nodes)
        if counts[nodes].sum() >= least and volume(graph, nodes) <= whole / 2 and plain.separated([group], contrast)
    ]
    # Each leaf belongs to the smallest wanted group around it, or to the rest.
    around = []
    for leaf in range(tree.links.shape[0]):
        above = [group for group in wanted if leaf in tree.leaves([group])]
        around.append(min(above, key=lambda group: plain.nodes[group].sum(), default=-1))
    # A part is made of the largest groups whose leaves all belong to it.
    homes = [{around[leaf] for leaf in tree.leaves([group])} for group in range(len(tree.children))]
    parent = {child: group for group, pair in enumerate(tree.children) for child in pair or ()}
    found = {}
    for group, home in enumerate(homes):
        if len(home) == 1 and (group not in parent or len(homes[parent[group]]) > 1):
            found.setdefault(min(home), []).append(group)
    parts = list(found.values())
    pending = list(range(len(parts)))

    def nodes(number):
        return np.any([plain.nodes[group] for group in parts[number]], axis=0)

    while pending:
        number = min(pending, key=lambda one: volume(graph, nodes(one)))
        pending.remove(number)
        own, others = nodes(number), [one for one, part in enumerate(parts) if part and one != number]
        large = 2 * volume(graph, own) > whole
        if not others or (counts[own].sum() >= least and (large or plain.separated(parts[number], contrast))):
            continue
        links = {one: graph[own][:, nodes(one)].sum() for one in others}
        target = max(others, key=links.get if any(links.values()) else lambda one: volume(graph, nodes(one)))
        parts[target], parts[number] = parts[target] + parts[number], []
        pending = [*(one for one in pending if one != target), target]
    left = [nodes(number) for number, part in enumerate(parts) if part]
    return {frozenset(np.flatnonzero(own).tolist()): 1 - cut(graph, own) / volume(graph, own) for own in left}


CASES = {
    "groups": {},
    "few links between": {"outside": 0.004},
    "many links between": {"outside": 0.1},
    "parts without links": {"apart": (1, 3)},
    "small parts without links": {"sizes": (60, 20, 3, 2, 2), "apart": (2, 3, 4), "inside": 1.0},
    "one group": {"sizes": (90,)},
    "a small group beside a large one": {"sizes": (70, 20)},
    "many small": {"sizes": (9,) * 12, "inside": 0.9},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("least", "contrast"), [(10, 5.0), (10, 2.0), (4, 1.2), (25, 1.2)])
def test_groups_are_those_of_the_rules(case, seed, least, contrast):
    graph, _ = planted_graph(seed, **CASES[case])
    assert_groups_of_the_rules(graph, seed, least, contrast)


@pytest.mark.parametrize("dim", [1, 2, 4])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("contrast", [5.0, 2.0, 1.0])
def test_groups_of_a_cloud_are_those_of_the_rules(dim, seed, contrast):
    assert_groups_of_the_rules(cloud(seed, dim), seed, 10, contrast)


def assert_groups_of_the_rules(graph, seed, least, contrast):
    counts = np.random.default_rng(seed).choice([1, 1, 1, 5], size=len(graph))
    tree = build_tree(sparse.csr_matrix(graph), graph.max(axis=1))
    groups = groups_at(contrast, tree, counts, least)
    found = {
        frozenset(np.flatnonzero(groups.labels == group).tolist()): inside for group, inside in enumerate(groups.inside)
    }
    expected = plain_groups(tree, graph, counts, least, contrast)
    assert found.keys() == expected.keys()
    for nodes, inside in expected.items():
        assert found[nodes] == pytest.approx(inside, abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("case", ["groups", "parts without links", "many small"])
def test_parts_lose_the_share_of_the_rules(case, seed):
    graph, _ = planted_graph(seed, **CASES[case])
    tree = build_tree(sparse.csr_matrix(graph), graph.max(axis=1))
    plain = PlainTree(tree, graph)
    sets = [[group] for group in range(len(tree.children))] + [tree.roots, list(range(0, tree.links.shape[0], 2))]
    for groups in sets:
        for fraction in FRACTIONS:
            assert tree.parts(groups, fraction) == pytest.approx(plain.parts(groups, fraction), abs=1e-9)


def test_halves_of_equal_volume_are_parts():
    """Two groups of eight, all linked, with one link between them: a half loses 1 of 57."""
    graph = np.kron(np.eye(2), np.ones((8, 8)) - np.eye(8))
    graph[0, 8] = graph[8, 0] = 1
    tree = build_tree(sparse.csr_matrix(graph), np.zeros(16))
    (root,) = tree.roots
    assert tree.outside(root) == 0
    assert tree.parts([root], 1 / 2) == pytest.approx(1 / 57)
    graph[0, 8] = graph[8, 0] = 0
    tree = build_tree(sparse.csr_matrix(graph), np.zeros(16))
    groups = separated_groups(tree, np.ones(16, dtype=np.int64), 8)
    assert len(set(groups.labels[:8])) == len(set(groups.labels[8:])) == 1
    assert groups.inside.tolist() == [1, 1]


def test_the_unit_of_the_weights_does_not_matter():
    graph, _ = planted_graph(2, apart=(1, 3))
    counts = np.ones(len(graph), dtype=np.int64)
    first, other = (
        groups_at(2.0, build_tree(sparse.csr_matrix(graph * unit), graph.max(axis=1)), counts, 10)
        for unit in (1, 2**-10)
    )
    np.testing.assert_array_equal(other.labels, first.labels)
    np.testing.assert_allclose(other.inside, first.inside)
    assert 0 < first.inside.min() < 1


def test_the_default_contrast_is_five():
    graph, _ = planted_graph(0, outside=0.01)
    counts = np.ones(len(graph), dtype=np.int64)
    tree = build_tree(sparse.csr_matrix(graph), graph.max(axis=1))
    usual = separated_groups(tree, counts, 10).labels
    np.testing.assert_array_equal(usual, groups_at(5.0, tree, counts, 10).labels)
    assert len(np.unique(usual)) < len(np.unique(groups_at(1.0, tree, counts, 10).labels))


def test_the_order_of_the_nodes_does_not_matter():
    """Nodes of equal weight are told apart by `tie`."""
    graph, _ = planted_graph(1)
    graph = (graph > 0).astype(float)  # many nodes have the same number of links
    tie = np.random.default_rng(0).permutation(len(graph)) / 100
    order = np.random.default_rng(1).permutation(len(graph))
    tree = build_tree(sparse.csr_matrix(graph), tie)
    other = build_tree(sparse.csr_matrix(graph[order][:, order]), tie[order])
    np.testing.assert_array_equal(other.leaf, tree.leaf[order])
    assert other.children == tree.children
    np.testing.assert_allclose(other.links.toarray(), tree.links.toarray())
    member = np.eye(tree.links.shape[0])[tree.leaf]
    np.testing.assert_allclose(tree.links.toarray(), member.T @ graph @ member)
    assert tree.volume == pytest.approx(
        [graph[np.isin(tree.leaf, tree.leaves([one]))].sum() for one in range(len(tree.children))]
    )


def test_the_resolution_grows_with_the_number_of_nodes(monkeypatch):
    asked, communities = [], kind_tree._communities

    def watched(graph, resolution):
        asked.append(resolution)
        return communities(graph, resolution)

    monkeypatch.setattr(kind_tree, "_communities", watched)
    for count in (20, 50, 120):
        graph, _ = planted_graph(0, sizes=(count,))
        build_tree(sparse.csr_matrix(graph), np.zeros(count))
    assert asked == [1, 1, 2.4]


def test_nodes_without_links_are_groups_of_their_own():
    labels, links = kind_tree._communities(sparse.csr_matrix((4, 4)), 1.0)
    assert labels.tolist() == [0, 1, 2, 3]
    assert links.nnz == 0
    tree = build_tree(sparse.csr_matrix((4, 4)), np.zeros(4))
    assert tree.roots == [0, 1, 2, 3]
    assert tree.parts([0, 1], 1 / 2) == tree.outside(2) == 0
    groups = separated_groups(tree, np.full(4, 10), 10)
    assert groups.inside.tolist() == [1] * len(groups.inside)
