"""Groups of graph nodes that are separated from the rest, at any scale.

A tree of groups is built by repeatedly joining the two groups with the largest weight between them relative to their
volumes. A group of the tree is separated if it loses a much smaller share of its weight than its parts lose.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from sdclr.mining.kind_links import Links
from sdclr.out_of_memory import return_freed_memory

if TYPE_CHECKING:
    from scipy import sparse

CONTRAST: Final = 5.0
"""Minimum factor between the links that a separated group's parts lose and the links lost at constant density."""

_FRACTIONS: Final = (1 / 2, 1 / 4, 1 / 8)
"""Sizes of the parts that a group is compared with, as fractions of the group."""

_SEED_IMAGES: Final = 50
"""Scale in images below which modularity may join nodes before the tree is built."""

_GAIN: Final = 1e-3
"""Minimum gain in modularity per round (the usual value)."""


@dataclass
class Tree:
    """Groups of nodes: leaves first, then each join after its two groups.

    Attributes:
        leaf: (N,) leaf of each node.
        links: (L, L) weight between leaves; on the diagonal, twice the weight inside each leaf.
        volume: Sum of the weighted degrees of each group's nodes.
        cut: Weight of the links that leave each group.
        children: The two groups of each join, None for leaves.
        roots: Groups without links to other groups.
    """

    leaf: NDArray[np.int64]
    links: sparse.csr_matrix[np.float64]
    volume: list[float] = field(default_factory=list)
    cut: list[float] = field(default_factory=list)
    children: list[tuple[int, int] | None] = field(default_factory=list)
    roots: list[int] = field(default_factory=list)

    def outside(self, group: int) -> float:
        """Share of a group's links that leave it (its conductance), in [0, 1]."""
        return _share(self.cut[group], self.volume[group])

    def parts(self, groups: Iterable[int], fraction: float) -> float:
        """Share of links that leave the parts of a set of groups, in [0, 1 - fraction].

        The parts are the largest subgroups with at most `fraction` of the volume of the set. The result is their mean,
        weighted by volume, and at most the share that such a part of a complete graph loses.
        """
        pending = list(groups)
        limit = sum(self.volume[group] for group in pending) * fraction
        lost = total = 0.0
        while pending:
            group = pending.pop()
            pair = self.children[group]
            if self.volume[group] <= limit:
                lost += self.cut[group]
            elif pair is not None:
                pending += pair
                continue
            else:  # a leaf, which cannot be split
                lost += self.volume[group] * (1 - fraction)
            total += self.volume[group]
        return min(1 - fraction, _share(lost, total))

    def leaves(self, groups: Iterable[int]) -> list[int]:
        """Leaves of a set of groups."""
        pending, found = list(groups), []
        while pending:
            group = pending.pop()
            pair = self.children[group]
            if pair is None:
                found.append(group)
            else:
                pending += pair
        return found


def _share(part: float, whole: float) -> float:
    return max(0.0, part / whole) if whole > 0 else 0.0


def build_tree(graph: sparse.csr_matrix[np.float64], tie: NDArray[np.floating]) -> Tree:
    """Tree of groups by average linkage on a graph (Bonald et al., *Hierarchical graph clustering*, 2018).

    Modularity at a high resolution (Louvain) first joins nodes into leaves of a few nodes. This keeps all larger groups
    intact, and makes the tree small.

    Args:
        graph: (N, N) symmetric; weights on the diagonal count as inside links. It is released early, so that a caller
            without another reference to it needs less memory.
        tie: (N,) sort key for nodes of equal weighted degree, so that the result does not depend on the nodes' order.
    """
    from scipy import sparse

    count = graph.shape[0]
    strength = np.asarray(graph.sum(axis=1)).ravel()
    order = np.lexsort((np.round(tie, 6), np.round(strength, 9)))
    graph = graph[order]
    return_freed_memory()  # memory from building the graph
    graph = sparse.csr_matrix((graph.data, _places(order)[graph.indices], graph.indptr), shape=graph.shape)
    graph.sort_indices()
    labels, links = _communities(graph, max(1.0, count / _SEED_IMAGES))
    del graph
    return_freed_memory()
    first = np.full(links.shape[0], count)
    np.minimum.at(first, labels, np.arange(count))
    known = np.argsort(first)  # leaves are numbered in the order of their first nodes
    leaf = np.empty(count, dtype=np.int64)
    leaf[order] = _places(known)[labels]
    tree = Tree(leaf, links[known][:, known])
    _join_all(tree)
    return tree


def _places(order: NDArray[np.int64]) -> NDArray[np.int32]:
    """The inverse permutation: the position of each number in an order."""
    places = np.empty(len(order), dtype=np.int32)
    places[order] = np.arange(len(order), dtype=np.int32)
    return places


def _communities(
    graph: sparse.csr_matrix[np.float64], resolution: float
) -> tuple[NDArray[np.integer], sparse.csr_matrix[np.float64]]:
    """Communities of a graph by modularity, and the graph of these communities.

    `sknetwork.clustering.Louvain` finds the same communities, but copies the graph several times.

    Returns:
        (N,) community of each node, and the (L, L) weights between communities.
    """
    from scipy import sparse
    from sknetwork.clustering.louvain_core import optimize_core

    labels, total = np.arange(graph.shape[0]), graph.data.sum()
    gain = np.inf if graph.nnz else 0.0
    while gain > _GAIN and graph.shape[0] > 1:
        count, kind = graph.shape[0], graph.indices.dtype
        shares = np.asarray(graph.sum(axis=1) / total, dtype=np.float32).ravel()
        weights = np.divide(graph.data, total, out=np.empty(graph.nnz, dtype=np.float32), casting="same_kind")
        own = (graph.diagonal() / total).astype(np.float32)
        start, empty = np.arange(count, dtype=kind), np.zeros(count, dtype=np.float32)
        sums = [shares.copy() for _ in range(3)]
        found, gain = optimize_core(
            start, graph.indices, graph.indptr, weights, shares, *sums, empty, own, resolution, _GAIN
        )
        del weights
        _, joined = np.unique(found, return_inverse=True)
        labels = joined[labels]
        member = sparse.csr_matrix((np.ones(count), joined.astype(kind), np.arange(count + 1, dtype=kind)))
        graph = (member.T.tocsr() @ (graph @ member)).tocsr()
    return labels, graph


def _join_all(tree: Tree) -> None:
    """Join groups, closest first, until none are linked.

    The queue has only the closest partner of each group. A joined group is never closer to a third one than the closer
    of its two parts was (average linkage is reducible). So an entry with a removed partner is a bound, and is updated
    when it reaches the front.
    """
    count = tree.links.shape[0]
    near = Links(tree.links, 2 * count)
    volume = np.zeros(2 * count)
    volume[:count] = np.asarray(tree.links.sum(axis=1)).ravel()
    cut = tree.cut = (volume[:count] - tree.links.diagonal()).tolist()
    tree.children = [None] * count
    heap = [closest for group in range(count) if (closest := _closest(near, volume, group))]
    heapq.heapify(heap)
    gone = [False] * count
    while heap:
        _, a, b, group = heapq.heappop(heap)
        if gone[group]:
            continue
        new = group
        if not (gone[a] or gone[b]):
            new = len(gone)
            volume[new] = volume[a] + volume[b]
            cut.append(cut[a] + cut[b] - 2 * near.join(a, b, new))
            tree.children.append((a, b))
            gone[a] = gone[b] = True
            gone.append(False)
        closest = _closest(near, volume, new)
        if closest:
            heapq.heappush(heap, closest)
    tree.volume = volume[: len(gone)].tolist()
    tree.roots = [group for group, joined in enumerate(gone) if not joined]


def _closest(near: Links, volume: NDArray[np.float64], group: int) -> tuple[float, int, int, int] | None:
    """Heap entry of a group's closest partner: negative closeness, both groups in order, and the group."""
    others, weights = near.of(group)
    if not len(others):
        return None
    closeness = weights / (volume[group] * volume[others])
    most = closeness.max()
    found = int(others[closeness == most].min())
    return -float(most), min(group, found), max(group, found), group


@dataclass(frozen=True)
class Groups:
    """Partition of graph nodes into separated groups.

    Attributes:
        labels: (N,) group of each node.
        inside: (K,) share of each group's links that stay inside, in [0, 1].
    """

    labels: NDArray[np.int64]
    inside: NDArray[np.float64]


def separated_groups(tree: Tree, counts: NDArray[np.int64], least: int) -> Groups:
    """Split a tree into groups that are separated from the rest.

    Candidates are the separated groups of the tree with at most half the total volume. They may be nested, so each part
    of the partition is a candidate without the candidates inside it. Starting with the smallest, a part that is too
    small or not separated joins the part with the strongest link to it.

    Args:
        tree: The tree.
        counts: (N,) number of images per node.
        least: Minimum number of images of a group.
    """
    sizes = np.bincount(tree.leaf, weights=counts).tolist()
    for pair in tree.children[len(sizes) :]:
        sizes.append(sum(sizes[group] for group in pair or ()))
    half = sum(tree.volume[root] for root in tree.roots) / 2
    wanted = {
        group
        for group in range(len(sizes))
        if sizes[group] >= least and tree.volume[group] <= half and _is_separated(tree, [group])
    }
    parts = _parts(tree, wanted)
    return _merged(tree, parts, sizes, least)


def _is_separated(tree: Tree, groups: list[int], cut: float | None = None) -> bool:
    """Whether a set of groups loses far fewer links than its parts.

    At constant density, n images in d dimensions lose a share of their links that decreases as n^(-1/d). A part with a
    fraction f of the images loses f^(-1/d) times as much as the whole, in two or more dimensions at most f^(-1/2).
    Parts of at least one size must exceed this by the factor `CONTRAST`.
    """
    lost = sum(tree.cut[group] for group in groups) if cut is None else cut
    outside = CONTRAST * _share(lost, sum(tree.volume[group] for group in groups))
    return any(
        outside <= (1 - fraction) * fraction**0.5 and outside <= tree.parts(groups, fraction) * fraction**0.5
        for fraction in _FRACTIONS
    )


def _parts(tree: Tree, wanted: set[int]) -> list[list[int]]:
    """Split the tree at the wanted groups: each part as groups of the tree, the part of the roots first."""
    holds = [group in wanted for group in range(len(tree.children))]
    for group, pair in enumerate(tree.children):
        if pair is not None:
            holds[group] = holds[group] or holds[pair[0]] or holds[pair[1]]
    parts: list[list[int]] = [[]]
    pending = [(root, 0) for root in tree.roots]
    while pending:
        group, part = pending.pop()
        if group in wanted:
            part = len(parts)
            parts.append([])
        pair = tree.children[group]
        if pair is None or not (holds[pair[0]] or holds[pair[1]]):
            parts[part].append(group)
        else:
            pending += [(pair[0], part), (pair[1], part)]
    return [part for part in parts if part]


def _merged(tree: Tree, parts: list[list[int]], sizes: list[float], least: int) -> Groups:
    """Join parts that are too small or not separated with the part of their strongest link."""
    from scipy import sparse

    owner = np.empty(tree.links.shape[0], dtype=np.int64)
    for number, groups in enumerate(parts):
        owner[tree.leaves(groups)] = number
    member = sparse.csr_matrix((np.ones(len(owner)), (np.arange(len(owner)), owner)))
    between = (member.T @ tree.links @ member).tocsr()
    near = Links(between, len(parts))
    volume = np.asarray(between.sum(axis=1)).ravel()
    whole = volume.sum()
    size = [sum(sizes[group] for group in part) for part in parts]
    heap = [(float(volume[number]), number) for number in range(len(parts))]
    heapq.heapify(heap)
    into = list(range(len(parts)))
    while heap:
        known, part = heapq.heappop(heap)
        if into[part] != part or known != volume[part]:
            continue
        others, weights = near.of(part)
        lost = float(weights.sum())
        if size[part] >= least and (2 * volume[part] > whole or _is_separated(tree, parts[part], lost)):
            continue
        if not len(others):
            others = np.array([other for other in range(len(parts)) if into[other] == other != part], dtype=np.int64)
            weights = volume[others]
        if not len(others):
            break
        target = int(others[weights == weights.max()].min())
        near.join(target, part, target)
        into[part] = target
        volume[target], volume[part] = volume[target] + volume[part], 0.0
        size[target] += size[part]
        parts[target] = parts[target] + parts[part]
        heapq.heappush(heap, (float(volume[target]), target))
    final = np.array([_last(into, part) for part in range(len(parts))])
    kept, final = np.unique(final, return_inverse=True)
    inside = [1 - _share(float(near.of(part)[1].sum()), float(volume[part])) for part in kept.tolist()]
    return Groups(final[owner][tree.leaf], np.array(inside))


def _last(into: list[int], part: int) -> int:
    while into[part] != part:
        part = into[part]
    return part
