"""Which images to label next: a budget of labels, spent so that rare kinds of image are among them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F

from sdclr.errors import InputError
from sdclr.evaluation.clusters import find_clusters
from sdclr.features.approximate import find_neighbors
from sdclr.features.extract import checked_features
from sdclr.mining.k_center import farthest_first

Method = Literal["random", "rarity", "sampled", "clusters", "k_center", "weighted", "both", "typicality"]

DEFAULT: Final[Method] = "k_center"
"""Of the methods whose labels train no worse a classifier than random ones, the one that finds most of the rare classes
(docs/results/selection.md). Where the features do not set rare classes apart, no method finds them, and `k_center` is
the one that costs nothing."""

_NEIGHBOURS: Final = 10
_TYPICAL_NEIGHBOURS: Final = 20
_MAX_CLUSTERS: Final = 500


def select_to_label(
    features: ArrayLike | Tensor,
    rarity: ArrayLike | None,
    budget: int,
    *,
    method: Method = DEFAULT,
    labelled: ArrayLike | None = None,
    alpha: float = 4.0,
    clusters: int = 100,
    seed: int = 0,
) -> NDArray[np.int64]:
    """Choose which images to label next.

    Methods:
        `random`: all images alike.
        `rarity`: the rarest first.
        `sampled`: at random, an image of percentile p of rarity with probability in proportion to `p ** alpha`.
        `clusters`: the rarest of each cluster in turn, so that no kind of image takes all of the budget.
        `k_center`: farthest first (Sener and Savarese, ICLR 2018): each pick is the image farthest from all that are
            chosen.
        `weighted`: farthest first, with distances multiplied by `p ** alpha`.
        `both`: variety and rarity: an image of `k_center` and one of `rarity` in turn.
        `typicality`: the most typical image of each of many clusters, the largest cluster first (Hacohen et al.,
            *Active Learning on a Budget: Opposite Strategies Suit High and Low Budgets*, ICML 2022). It looks for what
            is common.

    Distances are those of features scaled to length 1, of which a copy is made: a million images with 512 features take
    2 GB beyond their own 2 GB. Time is O(N * budget * D) for the farthest-first methods, that of k-means for those with
    clusters, and O(N² * D) for `typicality` and where rarity has to be computed.

    Args:
        features: (N, D), on any device; the farthest-first methods run there.
        rarity: (N,) scores, larger for rarer images; only their order counts. None stands for the mean distance to
            the 10 nearest neighbours.
        budget: Images to choose.
        method: How to choose.
        labelled: Positions of images that have labels already: they are not chosen, and the methods that seek
            variety keep away from them.
        alpha: How much rarity counts in `weighted` and `sampled`; 0 leaves variety, or chance, alone.
        clusters: Clusters sought by `clusters`.
        seed: Decides what is left to chance: draws, the start of k-means, and the first pick of `k_center` and `both`.

    Returns:
        (budget,) positions in the order of picking, none twice; the first m of them are a choice of m, except in
        `typicality`.

    Raises:
        InputError: Features, scores or positions that do not fit, or a budget above what is left to label.
    """
    rows = F.normalize(checked_features(features, "features"))
    known = _positions(labelled, len(rows))
    if method not in get_args(Method):
        raise InputError(f"method={method!r} is not known: choose from {', '.join(get_args(Method))}")
    if not 1 <= budget <= len(rows) - len(known):
        raise InputError(
            f"budget={budget}: {len(rows) - len(known)} of {len(rows)} images are not labelled yet; choose from 1 up "
            "to that many"
        )
    if not 0 <= alpha < np.inf or clusters < 1:
        raise InputError(f"alpha={alpha} must be 0 or more, and clusters={clusters} 1 or more")
    scores = _scores(rows, rarity)
    return _METHODS[method](_Pool(rows, scores, known, budget, alpha, clusters, seed))


@dataclass(frozen=True)
class _Pool:
    """What a method chooses from."""

    rows: Tensor
    """(N, D) of length 1."""
    rarity: NDArray[np.float64]
    known: NDArray[np.int64]
    """Positions that are labelled."""
    budget: int
    alpha: float
    clusters: int
    seed: int

    @property
    def open(self) -> NDArray[np.int64]:
        """Positions that may be chosen."""
        return np.setdiff1d(np.arange(len(self.rows)), self.known)

    @property
    def rng(self) -> np.random.Generator:
        """The chance of this choice, from its beginning."""
        return np.random.default_rng(self.seed)

    def log_weights(self) -> NDArray[np.float64]:
        """(N,) logarithm of p ** alpha, p in (0, 1] the percentile of rarity. Equal scores share a percentile."""
        _, inverse, counts = np.unique(self.rarity, return_inverse=True, return_counts=True)
        shares: NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[inverse] / len(self.rarity)
        return self.alpha * np.log(shares)


def _random(pool: _Pool) -> NDArray[np.int64]:
    return pool.rng.permutation(pool.open)[: pool.budget]


def _rarity(pool: _Pool) -> NDArray[np.int64]:
    return pool.open[np.argsort(-pool.rarity[pool.open], kind="stable")[: pool.budget]]


def _sampled(pool: _Pool) -> NDArray[np.int64]:
    # The order of exponential waiting times is that of drawing one by one without putting back.
    waiting = np.log(pool.rng.exponential(size=len(pool.rows))) - pool.log_weights()
    return pool.open[np.argsort(waiting[pool.open], kind="stable")[: pool.budget]]


def _k_center(pool: _Pool) -> NDArray[np.int64]:
    first = int(pool.rng.choice(pool.open))
    return np.array(farthest_first(pool.rows, pool.budget, first, centres=pool.known.tolist()), dtype=np.int64)


def _both(pool: _Pool) -> NDArray[np.int64]:
    in_turn = np.stack([_k_center(pool), _rarity(pool)], axis=1).ravel()
    _, where = np.unique(in_turn, return_index=True)
    return in_turn[np.sort(where)][: pool.budget]


def _weighted(pool: _Pool) -> NDArray[np.int64]:
    weights, first = torch.from_numpy(np.exp(pool.log_weights())), int(_rarity(pool)[0])
    found = farthest_first(pool.rows, pool.budget, first, weights=weights, centres=pool.known.tolist())
    return np.array(found, dtype=np.int64)


def _clusters(pool: _Pool) -> NDArray[np.int64]:
    labels = find_clusters(pool.rows, min(pool.clusters, len(pool.rows)), seed=pool.seed).labels
    covered = np.bincount(labels[pool.known], minlength=labels.max() + 1)
    return _in_turn(pool.open, labels, covered, pool.rarity, -pool.rarity)[: pool.budget]


def _typicality(pool: _Pool) -> NDArray[np.int64]:
    count = len(pool.rows)
    sought = min(len(pool.known) + pool.budget, _MAX_CLUSTERS, count)
    found = find_clusters(pool.rows, sought, seed=pool.seed)
    covered = np.bincount(found.labels[pool.known], minlength=len(found.sizes))
    apart = np.zeros(count)
    if count > 1:
        neighbours = min(_TYPICAL_NEIGHBOURS, count - 1)
        apart = find_neighbors(pool.rows, neighbours, metric="euclidean").distances.mean(dim=1).cpu().double().numpy()
    # Clusters have falling sizes: among those equally covered, the largest comes first.
    return _in_turn(pool.open, found.labels, covered, -found.labels.astype(np.float64), apart)[: pool.budget]


def _in_turn(
    candidates: NDArray[np.int64],
    labels: NDArray[np.int64],
    covered: NDArray[np.int64],
    between: NDArray[np.float64],
    within: NDArray[np.float64],
) -> NDArray[np.int64]:
    """One of each cluster in turn, those with fewer labels first.

    Args:
        candidates: (M,) positions to put in order.
        labels: (N,) clusters.
        covered: (K,) labels that each cluster has already.
        between: (N,) within a turn, the largest comes first.
        within: (N,) within a cluster, the smallest comes first.
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
}


def _scores(rows: Tensor, rarity: ArrayLike | None) -> NDArray[np.float64]:
    if rarity is None:
        neighbours = min(_NEIGHBOURS, len(rows) - 1)
        if not neighbours:
            return np.zeros(1)
        return find_neighbors(rows, neighbours).distances.mean(dim=1).cpu().double().numpy()
    scores = np.asarray(rarity, dtype=np.float64)
    if scores.shape != (len(rows),):
        raise InputError(f"rarity has shape {scores.shape} for {len(rows)} images: give one score per row of features")
    if not np.isfinite(scores).all():
        row = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise InputError(f"rarity row {row} is not finite: leave bad images out of features and rarity alike")
    return scores


def _positions(labelled: ArrayLike | None, count: int) -> NDArray[np.int64]:
    positions = np.asarray([] if labelled is None else labelled)
    if positions.size == 0:
        return np.zeros(0, dtype=np.int64)
    if positions.ndim != 1 or positions.dtype.kind not in "iu":
        raise InputError(f"labelled has shape {positions.shape} and type {positions.dtype}: give a list of positions")
    outside = positions[(positions < 0) | (positions >= count)]
    if len(outside):
        raise InputError(f"labelled holds {int(outside[0])}: positions of {count} images go from 0 to {count - 1}")
    return np.unique(positions).astype(np.int64)
