"""Select the images to label next."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F

from sdclr.errors import InputError
from sdclr.evaluation.clusters import find_clusters
from sdclr.features.approximate import find_neighbors
from sdclr.features.extract import checked_features
from sdclr.mining.config import DEFAULT, Method
from sdclr.mining.coverage import greedy_cover, share_threshold
from sdclr.mining.k_center import farthest_first
from sdclr.mining.kinds import find_kinds
from sdclr.mining.typicality import LEAST_IMAGES, distance_in_cluster, most_clusters

_NEIGHBORS: Final = 10
_DRAWN: Final = 20_000
"""Maximum number of images for `typicality` and `coverage`; larger collections are sampled at random."""
_CENTERS: Final = 2_000
"""Number of balls to measure the radius of `coverage`."""
_MAX_ALPHA: Final = 16
"""The squared weights of a billion images still fit into float64."""
_MIXED: Final = 4
"""Every fourth pick of `mixed` is far from all others."""


def select_samples(
    features: ArrayLike | Tensor,
    rarity: ArrayLike | None,
    budget: int,
    *,
    method: Method = DEFAULT,
    labeled: ArrayLike | None = None,
    kinds: ArrayLike | None = None,
    alpha: float = 4.0,
    clusters: int = 100,
    seed: int = 0,
) -> NDArray[np.int64]:
    """Choose which images to label next.

    Methods:
        `random`: uniform sampling.
        `rarity`: the rarest first.
        `sampled`: random sampling; the probability at rarity percentile p is proportional to `p ** alpha`.
        `clusters`: the rarest image of each cluster in turn, so that no kind of image uses the whole budget.
        `k_center`: farthest first (Sener and Savarese, ICLR 2018): each pick is the image farthest from all chosen
            ones.
        `weighted`: farthest first, with distances multiplied by `p ** alpha`.
        `both`: an image of `k_center` and one of `rarity` in turn.
        `typicality`: the most typical image of each of many clusters, the largest cluster first (TypiClust: Hacohen et
            al., *Active Learning on a Budget: Opposite Strategies Suit High and Low Budgets*, ICML 2022). It selects
            common images.
        `coverage`: images whose neighborhoods together contain most of the collection (ProbCover: Yehuda et al.,
            *Active Learning Through a Covering Lens*, NeurIPS 2022). With b labels in the end, an average neighborhood
            contains a share 1 / b of the images.
        `mixed`: three images by `coverage`, then one by `k_center`, and so on: common images, and different ones.
        `kinds`: one image of each separate kind, the largest kind first, then as `k_center`.

    Distances are those of features scaled to length 1. This needs a copy: a million images with 512 features take
    another 2 GB. Time is O(N * budget * D) for the farthest-first methods, and that of k-means for `clusters`.
    `typicality` and `coverage` use at most 20,000 random images, so their time does not grow with N. Time is
    O(N² * D) for `kinds` without given kinds, and to compute missing rarities.

    Args:
        features: (N, D), on any device; the farthest-first methods run there.
        rarity: (N,) scores, larger for rarer images; only their order matters. With None, methods that need rarity use
            the mean distance to the 10 nearest neighbors.
        budget: Number of images to choose.
        method: The method.
        labeled: Positions of labeled images. They are not chosen, and methods for diversity choose images far from
            them.
        kinds: (N,) kind of each image, from 0, for `kinds`; by default the result of `find_kinds`.
        alpha: Weight of rarity in `weighted` and `sampled`, in [0, 16]; 0 ignores rarity.
        clusters: Number of clusters for `clusters`.
        seed: Seed of random draws, of k-means, and of the first pick of `k_center` and `both`.

    Returns:
        (budget,) different positions in picking order. The first m of them are the choice for a budget of m, except
        for `typicality`, `coverage` and `mixed`, whose picks depend on the budget.

    Raises:
        InputError: Features, scores or positions do not match, or the budget exceeds the number of unlabeled images.

    Examples:
        >>> features = np.repeat(np.eye(3), 4, axis=0)  # three groups of four equal images
        >>> chosen = sdclr.select_samples(features, None, 3)
        >>> sorted(position // 4 for position in chosen.tolist())  # one of each
        [0, 1, 2]
    """
    rows = F.normalize(checked_features(features, "features"))
    known = _positions(labeled, len(rows))
    if method not in get_args(Method):
        raise InputError(f"method={method!r} is not known: choose from {', '.join(get_args(Method))}")
    if not 1 <= budget <= len(rows) - len(known):
        raise InputError(
            f"budget={budget}: {len(rows) - len(known)} of {len(rows)} images are not labeled yet; choose from 1 up "
            "to that many"
        )
    if not 0 <= alpha <= _MAX_ALPHA or clusters < 1:
        raise InputError(f"alpha={alpha} must lie in [0, {_MAX_ALPHA}], and clusters={clusters} must be 1 or more")
    scores, groups = _scores(rarity, len(rows)), _kind_labels(kinds, len(rows))
    return _METHODS[method](_Pool(rows, scores, groups, known, budget, alpha, clusters, seed))


@dataclass(frozen=True)
class _Pool:
    """Input of a method."""

    rows: Tensor
    """(N, D) of length 1."""
    scores: NDArray[np.float64] | None
    """(N,) rarity, if given."""
    groups: NDArray[np.int64] | None
    """(N,) kinds, if given."""
    known: NDArray[np.int64]
    """Positions of labeled images."""
    budget: int
    alpha: float
    clusters: int
    seed: int

    @cached_property
    def rarity(self) -> NDArray[np.float64]:
        """(N,) rarity as given, otherwise the mean distance to the nearest neighbors."""
        if self.scores is not None:
            return self.scores
        neighbors = min(_NEIGHBORS, len(self.rows) - 1)
        if not neighbors:
            return np.zeros(1)
        return find_neighbors(self.rows, neighbors).distances.mean(dim=1).cpu().double().numpy()

    @property
    def open(self) -> NDArray[np.int64]:
        """Positions that may be chosen."""
        return np.setdiff1d(np.arange(len(self.rows)), self.known)

    @property
    def rng(self) -> np.random.Generator:
        """A new random generator with the seed."""
        return np.random.default_rng(self.seed)

    def drawn(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """At most `_DRAWN` of the positions, sampled at random, in ascending order."""
        if len(positions) <= _DRAWN:
            return positions
        return np.sort(self.rng.choice(positions, _DRAWN, replace=False))

    def filled(self, picked: NDArray[np.int64]) -> NDArray[np.int64]:
        """The picks up to the budget, followed by random ones if there are fewer."""
        rest = self.rng.permutation(np.setdiff1d(self.open, picked))
        return np.concatenate([picked, rest])[: self.budget]

    def log_weights(self) -> NDArray[np.float64]:
        """(N,) logarithm of p ** alpha for the rarity percentile p in (0, 1]. Equal scores share a percentile."""
        _, inverse, counts = np.unique(self.rarity, return_inverse=True, return_counts=True)
        shares: NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[inverse] / len(self.rarity)
        return self.alpha * np.log(shares)


def _random(pool: _Pool) -> NDArray[np.int64]:
    return pool.rng.permutation(pool.open)[: pool.budget]


def _rarity(pool: _Pool) -> NDArray[np.int64]:
    return pool.open[np.argsort(-pool.rarity[pool.open], kind="stable")[: pool.budget]]


def _sampled(pool: _Pool) -> NDArray[np.int64]:
    # The order of exponential waiting times equals sampling without replacement.
    waiting = np.log(pool.rng.exponential(size=len(pool.rows))) - pool.log_weights()
    return pool.open[np.argsort(waiting[pool.open], kind="stable")[: pool.budget]]


def _k_center(pool: _Pool) -> NDArray[np.int64]:
    first = int(pool.rng.choice(pool.open))
    return np.array(farthest_first(pool.rows, pool.budget, first, centers=pool.known.tolist()), dtype=np.int64)


def _both(pool: _Pool) -> NDArray[np.int64]:
    in_turn = np.stack([_k_center(pool), _rarity(pool)], axis=1).ravel()
    _, where = np.unique(in_turn, return_index=True)
    return in_turn[np.sort(where)][: pool.budget]


def _weighted(pool: _Pool) -> NDArray[np.int64]:
    weights, first = torch.from_numpy(np.exp(pool.log_weights())), int(_rarity(pool)[0])
    found = farthest_first(pool.rows, pool.budget, first, weights=weights, centers=pool.known.tolist())
    return np.array(found, dtype=np.int64)


def _clusters(pool: _Pool) -> NDArray[np.int64]:
    labels = find_clusters(pool.rows, min(pool.clusters, len(pool.rows)), seed=pool.seed).labels
    covered = np.bincount(labels[pool.known], minlength=labels.max() + 1)
    return _in_turn(pool.open, labels, covered, pool.rarity, -pool.rarity)[: pool.budget]


def _typicality(pool: _Pool) -> NDArray[np.int64]:
    some = np.union1d(pool.drawn(pool.known), pool.drawn(pool.open))
    labeled = np.isin(some, pool.known)
    rows = pool.rows[torch.from_numpy(some).to(pool.rows.device)]
    sought = min(len(pool.known) + pool.budget, most_clusters(len(some)))
    found = find_clusters(rows, sought, seed=pool.seed)
    covered = np.bincount(found.labels[labeled], minlength=len(found.sizes))
    # Clusters that are too small come after all images of the other clusters.
    covered = covered + np.where(found.sizes < LEAST_IMAGES, len(some), 0)
    apart = distance_in_cluster(rows, found.labels)
    # Clusters are sorted by size: among equally covered ones, the largest comes first.
    order = _in_turn(np.flatnonzero(~labeled), found.labels, covered, -found.labels.astype(np.float64), apart)
    return pool.filled(some[order])


def _coverage(pool: _Pool) -> NDArray[np.int64]:
    some, rng = pool.drawn(pool.open), pool.rng
    rows = pool.rows[torch.from_numpy(some).to(pool.rows.device)]
    centers, ties = rng.permutation(len(some))[:_CENTERS], rng.permutation(len(some))
    share = 1 / (len(pool.known) + pool.budget)
    threshold = share_threshold(rows, share, centers=centers)
    labeled = pool.rows[torch.from_numpy(pool.known).to(pool.rows.device)]
    return pool.filled(some[greedy_cover(rows, min(pool.budget, len(some)), threshold, ties=ties, labeled=labeled)])


def _mixed(pool: _Pool) -> NDArray[np.int64]:
    far = pool.budget // _MIXED
    common = _coverage(replace(pool, budget=pool.budget - far))
    if not far:
        return common
    centers = [*pool.known.tolist(), *common.tolist()]
    rare = np.array(farthest_first(pool.rows, far, centers[0], centers=centers), dtype=np.int64)
    # After every three images of coverage comes one that is far from all.
    place = np.concatenate([np.arange(len(common)), (_MIXED - 1) * np.arange(1, far + 1) - 0.5])
    return np.concatenate([common, rare])[np.argsort(place)]


def _kinds(pool: _Pool) -> NDArray[np.int64]:
    kinds = find_kinds(pool.rows).labels if pool.groups is None else pool.groups
    first = one_of_each(pool.rows, kinds, pool.known)[: pool.budget]
    centers = [*pool.known.tolist(), *first.tolist()]
    rest = farthest_first(pool.rows, pool.budget - len(first), centers[0], centers=centers)
    return np.concatenate([first, np.array(rest, dtype=np.int64)])


def one_of_each(rows: Tensor, kinds: NDArray[np.int64], known: NDArray[np.int64]) -> NDArray[np.int64]:
    """The image nearest to the mean of each kind without a labeled image, largest kind first.

    Args:
        rows: (N, D) of length 1.
        kinds: (N,) kind of each image, from 0.
        known: (L,) positions of labeled images.

    Returns:
        Positions, at most one per kind.
    """
    sizes = np.bincount(kinds)
    wanted = np.setdiff1d(np.flatnonzero(sizes), kinds[known])
    found = []
    for kind in wanted[np.argsort(-sizes[wanted], kind="stable")].tolist():
        members = np.flatnonzero(kinds == kind)
        part = rows[torch.from_numpy(members).to(rows.device)]
        found.append(members[int((part @ part.mean(dim=0)).argmax())])
    return np.array(found, dtype=np.int64)


def _in_turn(
    candidates: NDArray[np.int64],
    labels: NDArray[np.int64],
    covered: NDArray[np.int64],
    between: NDArray[np.float64],
    within: NDArray[np.float64],
) -> NDArray[np.int64]:
    """Sort positions by taking one of each cluster in turn, clusters with fewer labels first.

    Args:
        candidates: (M,) positions to sort.
        labels: (N,) clusters.
        covered: (K,) number of labels in each cluster.
        between: (N,) sort key within a turn, largest first.
        within: (N,) sort key within a cluster, smallest first.
    """
    ordered = candidates[np.lexsort((within[candidates], labels[candidates]))]
    starts = np.searchsorted(labels[ordered], np.arange(len(covered)))
    turn = np.arange(len(ordered)) - starts[labels[ordered]] + covered[labels[ordered]]
    return ordered[np.lexsort((-between[ordered], turn))]


_METHODS: Final[dict[str, Callable[[_Pool], NDArray[np.int64]]]] = {
    "random": _random,
    "rarity": _rarity,
    "sampled": _sampled,
    "clusters": _clusters,
    "k_center": _k_center,
    "weighted": _weighted,
    "both": _both,
    "typicality": _typicality,
    "coverage": _coverage,
    "mixed": _mixed,
    "kinds": _kinds,
}


def _scores(rarity: ArrayLike | None, count: int) -> NDArray[np.float64] | None:
    if rarity is None:
        return None
    scores = np.asarray(rarity, dtype=np.float64)
    if scores.shape != (count,):
        raise InputError(f"rarity has shape {scores.shape} for {count} images: give one score per row of features")
    if not np.isfinite(scores).all():
        row = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise InputError(f"rarity row {row} is not finite: leave bad images out of features and rarity alike")
    return scores


def _kind_labels(kinds: ArrayLike | None, count: int) -> NDArray[np.int64] | None:
    if kinds is None:
        return None
    labels = np.asarray(kinds)
    if labels.shape != (count,) or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise InputError(
            f"kinds has shape {labels.shape} and type {labels.dtype} for {count} images: give one whole number, 0 or "
            "more, per row of features"
        )
    return labels.astype(np.int64)


def _positions(labeled: ArrayLike | None, count: int) -> NDArray[np.int64]:
    positions = np.asarray([] if labeled is None else labeled)
    if positions.size == 0:
        return np.zeros(0, dtype=np.int64)
    if positions.ndim != 1 or positions.dtype.kind not in "iu":
        raise InputError(f"labeled has shape {positions.shape} and type {positions.dtype}: give a list of positions")
    outside = positions[(positions < 0) | (positions >= count)]
    if len(outside):
        raise InputError(f"labeled holds {int(outside[0])}: positions of {count} images go from 0 to {count - 1}")
    return np.unique(positions).astype(np.int64)
