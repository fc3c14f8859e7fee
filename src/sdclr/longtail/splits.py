"""Long-tailed class profiles, subsets drawn with them, and the Many / Medium / Few class groups.

The definitions are those of *Self-Damaging Contrastive Learning* (Jiang et al., ICML 2021, sections 4.1 and 4.2). Every
draw depends only on its seed: it ranks the raw 64-bit words of a PCG64 generator, whose stream NumPy keeps fixed across
releases (unlike the streams of `Generator.permutation` and `choice`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdclr.data.drawing import by_class, check_indices, class_ids, permutation
from sdclr.errors import InputError
from sdclr.longtail.config import GroupRule

Profile = Literal["exponential", "step", "pareto"]

PAPER_SEEDS = (1, 2, 3, 4, 5)
"""The seeds of the five sub-samplings over which the paper's CIFAR numbers are averaged."""

PARETO_CUT = 1 / 1261
"""Survival at which the Pareto profile is cut if no total is given. With it, 1,000 classes from 1280 to 5 images have
the 115,846 images of ImageNet-LT. The published ImageNet-100-LT, solved separately, gives 1 / 1317."""


def long_tail_counts(
    num_classes: int,
    max_count: int,
    imbalance: float,
    *,
    profile: Profile = "exponential",
    total: int | None = None,
) -> NDArray[np.int64]:
    """Numbers of images from the most to the least frequent class.

    "exponential" gives `floor(max_count * imbalance ** (-k / (num_classes - 1)))` for rank k, in exact arithmetic, so
    that rounding never reduces a whole number by one (Cui et al., CVPR 2019). "step" gives the first half of the
    classes, rounded up, `max_count` images and the others `floor(max_count / imbalance)` (Buda et al., 2018).

    "pareto" is the shape of ImageNet-LT (Liu et al., CVPR 2019): quantiles of a Pareto distribution with exponent 6,

        n_k = n_min + (max_count - n_min) * (s_k^(-1/6) - 1) / (s_0^(-1/6) - 1),   s_k = s_0 + (1 - s_0) * k / (K - 1),

    with `n_min = round(max_count / imbalance)`. The survival s_0, at which the distribution is cut, determines how
    heavy the tail is; it is solved for the `total`. Images lost by rounding down go to the largest remainders, so that
    both ends and the total are exact.

    Args:
        num_classes: K, at least 1.
        max_count: Images of the most frequent class.
        imbalance: Ratio of the most to the least frequent class, at least 1.
        profile: The shape of the tail.
        total: Images of all classes, only for the Pareto profile; by default the total of a cut at `PARETO_CUT`.

    Returns:
        Counts by rank, `(K,)`, never increasing.

    Raises:
        InputError: A value is out of range, or the rarest class would have no image.

    Example:
        >>> sdclr.long_tail_counts(5, 100, imbalance=100)
        array([100,  31,  10,   3,   1])
    """
    if num_classes < 1:
        raise InputError(f"num_classes is {num_classes}; give at least 1")
    if max_count < 1:
        raise InputError(f"max_count is {max_count}; give at least 1 image for the most frequent class")
    if not (math.isfinite(imbalance) and imbalance >= 1):
        raise InputError(f"imbalance is {imbalance}; give a finite ratio of at least 1 (1 is balanced)")
    if imbalance > max_count and num_classes > 1:
        raise InputError(
            f"imbalance {imbalance:g} leaves the rarest of {num_classes} classes without images when the most frequent "
            f"has {max_count}; lower imbalance to at most {max_count} or raise max_count"
        )
    if total is not None and profile != "pareto":
        raise InputError(f"total is {total}, but the total of the {profile} profile is fixed; leave it out")
    if profile == "exponential":
        counts = [_exponential_count(rank, num_classes, max_count, imbalance) for rank in range(num_classes)]
    elif profile == "pareto":
        return _pareto_counts(num_classes, max_count, round(max_count / imbalance), total)
    elif profile == "step":
        head = (num_classes + 1) // 2
        counts = [max_count] * head + [math.floor(Fraction(max_count) / Fraction(imbalance))] * (num_classes - head)
    else:
        raise InputError(f'profile is {profile!r}; give "exponential", "step" or "pareto"')
    return np.array(counts, dtype=np.int64)


def _exponential_count(rank: int, num_classes: int, max_count: int, imbalance: float) -> int:
    steps = max(num_classes - 1, 1)
    candidate: int = round(max_count * imbalance ** (-rank / steps))
    # candidate <= max_count * imbalance^(-rank/steps), raised to the power `steps`, so that both sides are rational.
    fits = candidate**steps * Fraction(imbalance) ** rank <= max_count**steps
    return candidate if fits else candidate - 1


def _pareto_counts(num_classes: int, most: int, least: int, total: int | None) -> NDArray[np.int64]:
    if num_classes == 1:
        least = most
    if total is None:
        exact = _pareto_quantiles(num_classes, most, least, PARETO_CUT)
        total = round(float(exact.sum()))
    else:
        lowest = most + (num_classes - 1) * least
        highest = math.floor(_pareto_quantiles(num_classes, most, least, 1 - 1e-6).sum() + 1e-6)
        if not lowest <= total <= highest:
            raise InputError(
                f"total is {total}; a Pareto tail of {num_classes} classes from {most} down to {least} images has "
                f"between {lowest} and {highest}"
            )
        exact = _pareto_quantiles(num_classes, most, least, _pareto_cut(num_classes, most, least, total))
    counts = np.floor(exact + 1e-9).astype(np.int64)
    counts[0], counts[-1] = most, least
    by_remainder = 1 + np.argsort(counts[1:-1] - exact[1:-1], kind="stable")
    counts[by_remainder[: total - counts.sum()]] += 1
    return counts


def _pareto_quantiles(num_classes: int, most: int, least: int, cut: float) -> NDArray[np.float64]:
    survival = np.linspace(cut, 1.0, num_classes)
    excess = survival ** (-1 / 6) - 1
    quantiles: NDArray[np.float64] = least + (most - least) * (excess / excess[0])
    return quantiles


def _pareto_cut(num_classes: int, most: int, least: int, total: int) -> float:
    """The cut that gives this total: a later cut gives a flatter profile and a larger total."""
    low, high = -300.0, math.log10(1 - 1e-6)
    for _ in range(100):
        middle = (low + high) / 2
        reached = _pareto_quantiles(num_classes, most, least, 10**middle).sum()
        low, high = (middle, high) if reached < total else (low, middle)
    cut: float = 10**high
    return cut


@dataclass(frozen=True, kw_only=True)
class LongTailSplit:
    """One sub-sampling of a labeled set: the long tail and its controls, as sorted index arrays into the labels.

    As in the published lists, each class is shuffled once, and every subset takes the first images of that order. So
    the few-shot set is inside the other two, and the long tail and its balanced control share as many as possible.
    """

    long_tail: NDArray[np.int64]
    """D_i: the imbalanced set."""
    balanced: NDArray[np.int64]
    """D_b: as many images as D_i, rounded down to a multiple of K, equally many of every class."""
    few_shot: NDArray[np.int64]
    """S_b: a small balanced set inside D_i, for few-shot probes."""
    class_order: NDArray[np.int64]
    """Class ids from the most to the least frequent in D_i, `(K,)`."""
    counts: NDArray[np.int64]
    """Images of each class id in D_i; 0 for an id without images in the pool."""


def long_tail_split(
    labels: ArrayLike,
    *,
    max_count: int,
    imbalance: float,
    seed: int,
    pool: ArrayLike | None = None,
    few_shot_fraction: float = 0.01,
    profile: Profile = "exponential",
    total: int | None = None,
    fit_order: bool = False,
) -> LongTailSplit:
    """Draw a long tail over a random class order, its balanced control and its few-shot set.

    Args:
        labels: Class ids of the whole set, `(N,)`; -1 where unknown.
        max_count: Images of the most frequent class.
        imbalance: Ratio of the most to the least frequent class.
        seed: Determines the class order and which images are drawn.
        pool: Indices that may be drawn (for example the training part); by default all with a known label.
        few_shot_fraction: Size of the few-shot set as a fraction of the pool.
        profile: See `long_tail_counts`.
        total: See `long_tail_counts`.
        fit_order: If a class is too small for its rank, give the rank to the next class of the random order that is
            large enough, instead of raising an error. Small classes then tend toward the tail.

    Returns:
        The three subsets, the class order, and the counts per class.

    Raises:
        InputError: The pool has too few images of some class, or a value is out of range.

    Example:
        >>> labels = sdclr.open_source("digits").labels
        >>> split = sdclr.long_tail_split(labels, max_count=100, imbalance=50, seed=1)
        >>> np.sort(np.bincount(labels[split.long_tail]))
        array([  2,   3,   4,   7,  11,  17,  27,  41,  64, 100])
    """
    known = class_ids(labels)
    drawable = np.arange(len(known)) if pool is None else np.sort(check_indices(pool, len(known), "pool"))
    drawable = drawable[known[drawable] >= 0]
    classes, sizes = np.unique(known[drawable], return_counts=True)
    if len(classes) == 0:
        raise InputError("no label is known in the pool; a long tail can only be drawn from labeled images")
    if not 0 <= few_shot_fraction <= 1:
        raise InputError(f"few_shot_fraction is {few_shot_fraction}; give a fraction between 0 and 1")

    random = np.random.PCG64(seed)
    order = classes[permutation(random, len(classes))]
    by_rank = long_tail_counts(len(classes), max_count, imbalance, profile=profile, total=total)
    if fit_order:
        order = _fitting_order(order, by_rank, np.bincount(known[drawable]))
    counts = np.zeros(int(classes.max()) + 1, dtype=np.int64)
    counts[order] = by_rank
    equal_share = int(by_rank.sum()) // len(classes)
    # The addend corrects rounding errors such as 0.29 * 100 == 28.999999999999996.
    shots = math.floor(few_shot_fraction * len(drawable) / len(classes) + 1e-9)
    if shots > by_rank[-1]:
        has = f"the rarest class has {by_rank[-1]}; lower few_shot_fraction or imbalance"
        raise InputError(f"few_shot_fraction {few_shot_fraction:g} asks for {shots} images of each class, but {has}")
    shuffled = {}
    for class_id, members in zip(classes.tolist(), by_class(drawable, known[drawable], sizes), strict=True):
        _check_enough(class_id, len(members), max(int(counts[class_id]), equal_share), max_count)
        shuffled[class_id] = members[permutation(random, len(members))]
    return LongTailSplit(
        long_tail=_first(shuffled, counts),
        balanced=_first(shuffled, np.full_like(counts, equal_share)),
        few_shot=_first(shuffled, np.full_like(counts, shots)),
        class_order=order,
        counts=counts,
    )


def _fitting_order(
    order: NDArray[np.int64], by_rank: NDArray[np.int64], available: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The order, changed as little as needed for every class to have the images of its rank."""
    waiting = order.tolist()
    fitting = []
    for rank, count in enumerate(by_rank.tolist()):
        # Later ranks need no more images than this one, so any class that is large enough can take it.
        place = next((place for place, class_id in enumerate(waiting) if available[class_id] >= count), None)
        if place is None:
            raise InputError(
                f"the profile asks for {rank + 1} classes of {count} images or more and the pool has "
                f"{int((available >= count).sum())}; lower max_count ({by_rank[0]})"
            )
        fitting.append(waiting.pop(place))
    return np.array(fitting, dtype=np.int64)


def _check_enough(class_id: int, available: int, needed: int, max_count: int) -> None:
    if available < needed:
        raise InputError(
            f"class {class_id} has {available} images in the pool and the split needs {needed}; "
            f"lower max_count ({max_count}) or choose another seed"
        )


def _first(members: Mapping[int, NDArray[np.int64]], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The first `counts[class]` members of each class, sorted."""
    return np.sort(np.concatenate([indices[: counts[class_id]] for class_id, indices in members.items()]))


def class_groups(train_counts: ArrayLike, *, rule: GroupRule = "thirds") -> dict[str, NDArray[np.int64]]:
    """Group classes into Many, Medium and Few by their number of training images.

    "thirds" ranks classes by size and divides the ranks into three parts, with the remainder in Many: 10 classes give
    4/3/3, 100 give 34/33/33; classes of equal size are ranked by id. "shots" groups classes with more than 100, 20 to
    100 and fewer than 20 images (Liu et al., CVPR 2019).

    Args:
        train_counts: Training images of each class id, `(K,)`.
        rule: Name of the rule.

    Returns:
        Sorted class ids under "many", "medium" and "few"; a group may be empty.

    Raises:
        InputError: The counts are not a vector of numbers >= 0, or the rule is unknown.

    Example:
        >>> groups = sdclr.class_groups([500, 30, 80, 5], rule="shots")
        >>> {name: classes.tolist() for name, classes in groups.items()}
        {'many': [0], 'medium': [1, 2], 'few': [3]}
    """
    counts = np.asarray(train_counts)
    if counts.ndim != 1 or len(counts) == 0 or (counts < 0).any():
        raise InputError(f"train_counts has shape {counts.shape}; give one count >= 0 for each class")
    if rule == "thirds":
        ranked = np.argsort(-counts, kind="stable").astype(np.int64)
        third = len(counts) // 3
        many, medium, few = np.split(ranked, [len(counts) - 2 * third, len(counts) - third])
    elif rule == "shots":
        many, few = np.flatnonzero(counts > 100), np.flatnonzero(counts < 20)
        medium = np.flatnonzero((counts >= 20) & (counts <= 100))
    else:
        raise InputError(f'rule is {rule!r}; give "thirds" or "shots"')
    return {"many": np.sort(many), "medium": np.sort(medium), "few": np.sort(few)}
