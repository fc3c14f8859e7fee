"""Links between groups, against plain dictionaries, and communities, against scikit-network."""

from collections import Counter

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.metrics import adjusted_rand_score
from sknetwork.clustering import Louvain

from sdclr.data.sources import digits
from sdclr.features.nearest import nearest
from sdclr.mining import kind_tree
from sdclr.mining.kind_graph import neighbor_graph
from sdclr.mining.kind_links import Links
from sdclr.mining.kinds import find_kinds, kind_rarity


class PlainLinks:
    """What `kind_links.Links` does, by a dictionary for each group."""

    def __init__(self, weights, room):
        self.near = [dict(zip(row.indices.tolist(), row.data.tolist(), strict=True)) for row in weights]
        for group, others in enumerate(self.near):
            others.pop(group, None)
        self.near += [{} for _ in range(room - len(self.near))]

    def of(self, group):
        return np.array(list(self.near[group])), np.array(list(self.near[group].values()))

    def join(self, a, b, into):
        joined = Counter(self.near[a]) + Counter(self.near[b])
        weight = self.near[a].get(b, 0)
        self.near[a], self.near[b] = {}, {}
        for group in (a, b):
            del joined[group]
            for others in self.near:
                others.pop(group, None)
        self.near[into] = dict(joined)
        for other, link in joined.items():
            self.near[other][into] = link
        return weight


def flat_digits():
    source = digits("train")
    return np.stack([source.image(index)[..., 0].ravel() for index in range(600)]).astype(np.float32)


def planted():
    """Three groups, two of them small."""
    generator = np.random.default_rng(9)
    parts = [generator.normal(size=24) + 0.5 * generator.normal(size=(size, 24)) for size in (600, 60, 55)]
    return np.concatenate(parts).astype(np.float32)


@pytest.mark.parametrize(
    "features",
    [flat_digits(), planted(), np.random.default_rng(8).normal(size=(700, 4)).astype(np.float32)],
    ids=["digits", "planted", "random"],
)
def test_dictionaries_of_links_give_the_same_kinds(features, monkeypatch):
    kinds = find_kinds(features)
    monkeypatch.setattr(kind_tree, "Links", PlainLinks)
    plain = find_kinds(features)
    for name in ("labels", "sizes", "medoids", "odd"):
        np.testing.assert_array_equal(getattr(kinds, name), getattr(plain, name))
    np.testing.assert_allclose(kinds.separation, plain.separation, rtol=1e-12)
    far = nearest(torch.from_numpy(features), 10).distances.mean(dim=1).numpy()
    np.testing.assert_array_equal(kind_rarity(kinds, far), kind_rarity(plain, far))


@pytest.mark.parametrize("seed", range(5))
def test_links_are_joined_as_dictionaries_would_be(seed):
    generator = np.random.default_rng(seed)
    table = np.triu(generator.integers(0, 4, size=(30, 30)), 1)
    weights = sparse.csr_matrix((table + table.T).astype(float))
    links, plain, left = Links(weights, 60), PlainLinks(weights, 60), list(range(30))
    for step in range(29):
        a, b = generator.choice(left, 2, replace=False).tolist()
        into = 30 + step if seed % 2 else a  # a new group, or one of the two
        assert links.join(a, b, into) == plain.join(a, b, into)
        left = [into, *(group for group in left if group not in (a, b))]
        for group in left:
            assert dict(zip(*(part.tolist() for part in links.of(group)), strict=True)) == plain.near[group]


def test_a_joined_group_has_no_links_left():
    links = Links(sparse.csr_matrix([[0, 2, 1], [2, 0, 4], [1, 4, 0.0]]), 4)
    assert links.join(0, 1, 3) == 2
    for group in (0, 1):
        assert [len(part) for part in links.of(group)] == [0, 0]
    assert links.join(0, 1, 0) == 0
    assert [part.tolist() for part in links.of(2)] == [[3], [5]]


def test_communities_are_those_of_scikit_network():
    near = nearest(torch.from_numpy(flat_digits()), 15)
    graph = neighbor_graph(near.indices.numpy(), near.distances.numpy())
    found, between = kind_tree._communities(graph, 20.0)
    louvain = Louvain(20.0, sort_clusters=False)
    labels = louvain.fit_predict(graph)
    assert len(set(found.tolist())) > 20
    assert adjusted_rand_score(found, labels) == 1
    member = np.eye(between.shape[0])[found]
    np.testing.assert_allclose(between.toarray(), member.T @ graph.toarray() @ member)
