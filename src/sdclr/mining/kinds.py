"""Kinds of images: groups that are separated from the rest, without being told how many there are.

The distance to the nearest neighbors finds rare images that lie apart from each other. It fails where rare images are
alike: in a tight group of their own they have near neighbors, and rank last. Their group shows in the graph of nearest
neighbors instead: hardly any link leaves it. This module finds such groups in six steps.

1. Near-copies (frames of a burst) collapse into one image, so that they do not fill each other's lists of neighbors.
2. Each image is linked to its k nearest neighbors. A link weighs as much as the two images share neighbors (the Jaccard
   index of their lists: Jarvis and Patrick 1973; PhenoGraph, Levine et al. 2015) times their closeness on their own
   scale (the self-tuning Gaussian of Zelnik-Manor and Perona 2004). Links that exist only because each image must have
   k neighbors thus weigh little. Groups larger than k hardly depend on it; smaller groups can be missed.
3. Modularity at a high resolution (Louvain, Blondel et al. 2008) makes small communities, far smaller than kinds: at
   the usual resolution small kinds are lost in large collections (Fortunato and Barthélemy 2007). Leiden (Traag et al.
   2019) repairs communities that fall apart. Step 5 does so here, and Louvain draws no random numbers.
4. Average linkage joins the communities into a tree (Bonald et al. 2018).
5. A group of the tree is separated if few of its links leave it (its conductance) compared with what leaves its own
   halves, quarters or eighths. Where density does not fall between groups, n images in d dimensions lose a share of
   their links that falls as n^(-1/d), so halves lose at most 1.4 times as much as the whole from two dimensions on.
   Separated groups must show five times that contrast. The rule compares a group with itself, and so follows the
   collection instead of a fixed conductance. It is the ratio of inner to outer conductance that defines clusters in
   Kannan, Vempala and Vetta (JACM 2004) and in Oveis Gharan and Trevisan (SODA 2014).
6. The separated groups are kinds. Everything else is one kind, usually the largest.

All is deterministic, needs no seed, and is linear in N k after the neighbors are known.

Images that are far from everything are no kind. They are listed on their own, as `Kinds.odd`.
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
from sdclr.features.nearest import Neighbours
from sdclr.mining.kind_graph import DistinctImages, distinct_images, neighbor_graph
from sdclr.mining.kind_tree import build_tree, separated_groups
from sdclr.out_of_memory import return_freed_memory
from sdclr.progress import stage

LEAST_IMAGES: Final = 10
"""Least number of distinct images of a kind."""

BURST: Final = 10
"""Up to so many near-copies count as one image. More are a kind: black frames, or one picture again and again."""

RARE_SHARE: Final = 0.1
"""A rare kind holds at most this share of the images that the larger kinds hold together."""

_NEAR: Final = 10
"""Neighbors that say how far an image is from everything."""

_LEAST_NEIGHBORS: Final = 10
_FENCE: Final = 1.5
"""Interquartile ranges above the upper quartile from which on a value is an outlier (Tukey 1977)."""


@dataclass(frozen=True)
class Kinds:
    """Kinds of the images of a collection. Kind 0 is the largest; sizes fall.

    Attributes:
        labels: (N,) int64, kind of each image.
        sizes: (K,) int64, images of each kind.
        separation: (K,) float64, share of a kind's links that stay inside it, in [0, 1]. Links are weighted by shared
            neighbors.
        medoids: (K,) int64, position of the most central image of each kind.
        odd: (O,) int64, positions of single images that are far from everything, oddest first. Near-copies are listed
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
        """(K,) which kinds are rare: the larger kinds hold at least ten times as many images, at the default share.

        A rare kind also has at most half the size of the kind in which an average image finds itself, so that none is
        rare in a collection of many kinds of one size.

        Args:
            share: A rare kind holds at most this share of the images that the larger kinds hold together.
        """
        larger = np.concatenate([[0], np.cumsum(self.sizes)[:-1]])
        usual = float(np.square(self.sizes, dtype=np.float64).sum()) / max(1, int(self.sizes.sum()))
        return (self.sizes <= share * larger) & (self.sizes <= usual / 2)

    def members(self, kind: int) -> NDArray[np.int64]:
        """Positions of a kind's images."""
        return np.flatnonzero(self.labels == kind)


def find_kinds(features: ArrayLike | Tensor, *, k: int = 15, neighbors: Neighbours | None = None) -> Kinds:
    """Find the kinds of a collection and its odd images.

    Args:
        features: (N, D) features of the images, on any device. Only their directions matter.
        k: Neighbors that link an image to others. Fewer are used where there are fewer than ten times as many images.
        neighbors: Of all images among themselves by cosine, as `find_neighbors(features, k)` gives them, if known
            already. Of more than k neighbors the first k are used; of fewer all.

    Returns:
        The kinds: at least one, whatever the features.

    Raises:
        InputError: Features that cannot be used, a k below 1, or neighbors of other images.

    Example:
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
    distinct = distinct_images(table, Neighbours(neighbors.distances[:, :k], neighbors.indices[:, :k]))
    if len(distinct.positions) <= 1:
        return _one_kind(table)
    with stage("finding kinds"):
        labels, inside = _groups(distinct)
        return _described(table, distinct, labels, inside)


def kind_rarity(kinds: Kinds, distance: ArrayLike, *, leading: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
    """How rare each image is: images of rare kinds first, all others by distance.

    Rare kinds take turns, the smallest first: one image of each, then the next of each. So the first images that a
    person looks at show every rare kind. Within a kind the image that is farthest from its neighbors comes first.

    Args:
        kinds: The kinds.
        distance: (N,) how far each image is from its neighbors.
        leading: (K,) the kinds whose images come first; by default the rare ones.

    Returns:
        (N,) share of the images that are less rare, in [0, 1): the larger, the rarer. Equal distances give equal
        rarity among images of no rare kind.

    Raises:
        InputError: Distances of another number of images, or that are not finite.

    Example:
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
    # An image's turn is the number of images of its kind that are farther; sizes decide within a turn.
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

    def graph() -> sparse.csr_matrix[np.float64]:
        links = neighbor_graph(distinct.indices, distinct.distances)
        # The links among many copies of one image stay inside.
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
    sizes = np.bincount(spread, minlength=len(inside))
    first = np.full(len(inside), len(spread))
    np.minimum.at(first, spread, np.arange(len(spread)))
    order = np.lexsort((first, inside, -sizes))
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    final = place[spread]
    medoids = _medoids(features, final, len(order))
    return Kinds(final, sizes[order], inside[order], medoids, _odd(distinct, place[labels]))


def _medoids(features: Tensor, labels: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """(K,) the image of each kind that is nearest to the kind's mean direction."""
    found = np.empty(count, dtype=np.int64)
    for kind in range(count):
        where = np.flatnonzero(labels == kind)
        part = F.normalize(features[torch.from_numpy(where).to(features.device)])
        found[kind] = where[int((part @ part.mean(dim=0)).argmax())]
    return found


def _odd(distinct: DistinctImages, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions of images whose neighbors are farther than is usual in the collection and in their own kind."""
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
