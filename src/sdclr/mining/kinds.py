"""Kinds of images: groups that are separated from the rest. The number of groups is found automatically.

The distance to the nearest neighbors finds rare images that are far from each other. It fails if rare images are
similar: in a tight group they have near neighbors, and rank last. Such a group is visible in the graph of nearest
neighbors: few links leave it. This module finds such groups in six steps.

1. Near-copies (frames of a burst) are merged into one image, so that they do not fill each other's lists of neighbors.
2. Each image is linked to its k nearest neighbors. The weight of a link is the share of common neighbors (the Jaccard
   index of the two lists: Jarvis and Patrick 1973; PhenoGraph, Levine et al. 2015) times the closeness relative to
   local distances (the self-tuning Gaussian of Zelnik-Manor and Perona 2004). So links that exist only because each
   image has k neighbors have a low weight. Groups larger than k hardly depend on k; smaller groups can be missed.
3. Modularity at a high resolution (Louvain, Blondel et al. 2008) finds communities far smaller than kinds. At the usual
   resolution, small kinds are lost in large collections (Fortunato and Barthélemy 2007). Leiden (Traag et al. 2019)
   repairs disconnected communities; here, step 5 does this, and Louvain needs no random numbers.
4. Average linkage joins the communities into a tree (Bonald et al. 2018).
5. A group of the tree is separated if few of its links leave it (its conductance) compared with the links that leave
   its halves, quarters or eighths. At constant density, n images in d dimensions lose a share of their links that
   decreases as n^(-1/d), so in two or more dimensions halves lose at most 1.4 times as much as the whole. Separated
   groups need five times that contrast. The rule compares a group with its parts, so it adapts to the collection
   instead of using a fixed conductance. It is the ratio of inner to outer conductance that defines clusters in Kannan,
   Vempala and Vetta (JACM 2004) and in Oveis Gharan and Trevisan (SODA 2014).
6. The separated groups are kinds. All other images form one kind, usually the largest.

The algorithm is deterministic, needs no seed, and is linear in N k once the neighbors are known.

Images that are far from all others are not a kind. They are listed in `Kinds.odd`.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F

from sdclr.errors import InputError
from sdclr.features.approximate import find_neighbors
from sdclr.features.extract import checked_features
from sdclr.features.nearest import Neighbors
from sdclr.mining.kind_graph import DistinctImages, distinct_images, neighbor_graph
from sdclr.mining.kind_tree import build_tree, separated_groups
from sdclr.out_of_memory import return_freed_memory
from sdclr.progress import stage

LEAST_IMAGES: Final = 10
"""Minimum number of distinct images of a kind."""

BURST: Final = 10
"""Maximum number of near-copies that count as one image. More form a kind, such as black frames or a repeated image."""

RARE_SHARE: Final = 0.1
"""Maximum size of a rare kind, as a share of the total size of the larger kinds."""

_NEAR: Final = 10
"""Number of neighbors to measure the distance of an image to all others."""

_LEAST_NEIGHBORS: Final = 10
_FENCE: Final = 1.5
"""Outliers are more than this many interquartile ranges above the upper quartile (Tukey 1977)."""


@dataclass(frozen=True)
class Kinds:
    """Kinds of the images of a collection, largest first.

    Attributes:
        labels: (N,) int64, kind of each image.
        sizes: (K,) int64, number of images per kind.
        separation: (K,) float64, share of a kind's links that stay inside it, in [0, 1]. Links are weighted by shared
            neighbors.
        medoids: (K,) int64, position of the most central image of each kind.
        odd: (O,) int64, positions of single images that are far from all others, oddest first. Near-copies are listed
            once.
    """

    labels: NDArray[np.int64]
    sizes: NDArray[np.int64]
    separation: NDArray[np.float64]
    medoids: NDArray[np.int64]
    odd: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.sizes)

    def rare(self, share: float = RARE_SHARE) -> NDArray[np.bool_]:
        """(K,) whether each kind is rare: by default, the larger kinds have at least ten times as many images together.

        A rare kind also has at most half the mean kind size over images, so that in a collection of many kinds of equal
        size none is rare.

        Args:
            share: Maximum size of a rare kind, as a share of the total size of the larger kinds.
        """
        larger = np.concatenate([[0], np.cumsum(self.sizes)[:-1]])
        usual = float(np.square(self.sizes, dtype=np.float64).sum()) / max(1, int(self.sizes.sum()))
        return (self.sizes <= share * larger) & (self.sizes <= usual / 2)

    def members(self, kind: int) -> NDArray[np.int64]:
        """Positions of a kind's images."""
        return np.flatnonzero(self.labels == kind)


def find_kinds(features: ArrayLike | Tensor, *, k: int = 15, neighbors: Neighbors | None = None) -> Kinds:
    """Find the kinds of a collection and its odd images.

    Args:
        features: (N, D) features of the images, on any device. Only their directions matter.
        k: Number of neighbors that each image is linked to. Collections of fewer than 10 k images use fewer.
        neighbors: Neighbors of all images among themselves by cosine, from `find_neighbors(features, k)`, if already
            known. At most the first k are used.

    Returns:
        The kinds, at least one.

    Raises:
        InputError: The features are invalid, k is below 1, or the neighbors are of other images.

    Examples:
        >>> features = np.random.default_rng(0).normal(size=(212, 16))
        >>> features[:200, 0] += 4
        >>> features[200:, 1] += 9  # twelve images of a kind of their own
        >>> kinds = find_kinds(features)
        >>> kinds.sizes, kinds.rare()
        (array([200,  12]), array([False,  True]))
    """
    table = checked_features(features, "features")
    count = len(table)
    if k < 1:
        raise InputError(f"k={k} neighbors: choose 1 or more")
    if neighbors is not None and len(neighbors.indices) != count:
        raise InputError(
            f"neighbors of {len(neighbors.indices)} images, but features of {count}: give both of the same"
        )
    k = min(k, max(_LEAST_NEIGHBORS, count // 10), count - 1)
    if k < 1:
        return _one_kind(table)
    if neighbors is None:
        neighbors = find_neighbors(table, k)
    distinct = distinct_images(table, Neighbors(neighbors.distances[:, :k], neighbors.indices[:, :k]))
    if len(distinct.positions) <= 1:
        return _one_kind(table)
    with stage("finding kinds"):
        labels, inside = _groups(distinct)
        return _described(table, distinct, labels, inside)


def kind_rarity(kinds: Kinds, distance: ArrayLike, *, leading: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
    """Rarity of each image: images of rare kinds rank first, all others by distance.

    Rare kinds take turns, smallest first: one image of each, then the next of each. So the first images include every
    rare kind. Within a kind, the image farthest from its neighbors comes first.

    Args:
        kinds: The kinds.
        distance: (N,) distance of each image to its neighbors.
        leading: (K,) whether the images of each kind come first; by default those of rare kinds.

    Returns:
        (N,) share of the images that are less rare, in [0, 1). Images outside rare kinds with equal distances have
        equal rarity.

    Raises:
        InputError: The number of distances does not match, or a distance is not finite.

    Examples:
        >>> kinds = Kinds(np.array([0] * 40 + [1, 1]), np.array([40, 2]), np.ones(2), np.array([0, 40]), np.array([]))
        >>> int(kind_rarity(kinds, np.zeros(42)).argmax())
        40
    """
    from scipy.stats import rankdata

    far = np.asarray(distance, dtype=np.float64)
    if far.shape != kinds.labels.shape or not np.isfinite(far).all():
        raise InputError(f"distances of shape {far.shape} for {len(kinds.labels)} images: give one finite number each")
    is_rare = (kinds.rare() if leading is None else leading)[kinds.labels]
    place = np.empty(len(far))
    place[~is_rare] = rankdata(far[~is_rare], method="min") - 1
    rare = np.flatnonzero(is_rare)
    # An image's turn is the number of farther images of its kind. Within a turn, the order is by kind size.
    by_kind = rare[np.lexsort((rare, -far[rare], kinds.labels[rare]))]
    first = np.searchsorted(kinds.labels[by_kind], kinds.labels[by_kind])
    turn = np.arange(len(by_kind)) - first
    order = by_kind[np.lexsort((by_kind, -kinds.labels[by_kind], turn))]  # a larger label is a smaller kind
    place[order] = len(far) - 1 - np.arange(len(order))
    rarity: NDArray[np.float32] = (place / max(1, len(far))).astype(np.float32)
    return rarity


def _groups(distinct: DistinctImages) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Separated group of each distinct image, and the share of links inside each group."""
    from scipy import sparse

    counts = np.where(distinct.copies > BURST, distinct.copies, 1)

    def graph() -> "sparse.csr_matrix[np.float64]":
        links = neighbor_graph(distinct.indices, distinct.distances)
        # Links among copies of one image count as inside links.
        return (links + sparse.diags(counts - 1.0)).tocsr() if counts.max() > 1 else links

    tree = build_tree(graph(), distinct.distances.sum(axis=1))
    groups = separated_groups(tree, counts, LEAST_IMAGES)
    del tree
    return_freed_memory()
    return groups.labels, groups.inside


def _described(
    features: Tensor, distinct: DistinctImages, labels: NDArray[np.int64], inside: NDArray[np.float64]
) -> Kinds:
    spread = labels[distinct.owner]
    sizes = np.bincount(spread)
    first = np.full(len(inside), len(spread))
    np.minimum.at(first, spread, np.arange(len(spread)))
    order = np.lexsort((first, inside, -sizes))
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    final = place[spread]
    medoids = _medoids(features, final, len(order))
    return Kinds(final, sizes[order], inside[order], medoids, _odd(distinct, place[labels]))


def _medoids(features: Tensor, labels: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """(K,) the image of each kind nearest to the kind's mean direction."""
    found = np.empty(count, dtype=np.int64)
    for kind in range(count):
        where = np.flatnonzero(labels == kind)
        part = F.normalize(features[torch.from_numpy(where).to(features.device)])
        found[kind] = where[int((part @ part.mean(dim=0)).argmax())]
    return found


def _odd(distinct: DistinctImages, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions of images whose distance to neighbors is an outlier both in the collection and in their kind."""
    far = distinct.distances[:, :_NEAR].mean(axis=1).astype(np.float64)
    usual = np.log(np.maximum(far, np.finfo(np.float32).eps))
    limits = np.full(len(usual), _fence(usual))
    for kind in range(labels.max() + 1):
        limits[labels == kind] = np.maximum(limits[labels == kind], _fence(usual[labels == kind]))
    single = distinct.copies <= BURST
    found = np.flatnonzero((usual > limits) & single)
    return distinct.positions[found[np.argsort(-far[found], kind="stable")]]


def _fence(values: NDArray[np.float64]) -> float:
    low, high = np.quantile(values, [0.25, 0.75])
    return float(high + _FENCE * (high - low))


def _one_kind(features: Tensor) -> Kinds:
    count = len(features)
    labels = np.zeros(count, dtype=np.int64)
    return Kinds(labels, np.array([count]), np.ones(1), _medoids(features, labels, 1), np.empty(0, dtype=np.int64))
