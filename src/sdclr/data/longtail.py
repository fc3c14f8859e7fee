"""Long-tailed profiles, the subsets drawn by them, and the Many / Medium / Few class groups.

The definitions are those of *Self-Damaging Contrastive Learning* (Jiang et al., ICML 2021, sections 4.1 and 4.2). Every
draw is a function of its seed alone: it ranks the raw 64-bit words of a PCG64 generator, whose stream NumPy keeps fixed
across releases (unlike the streams of `Generator.permutation` and `choice`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdclr.errors import InputError

Profile = Literal["exponential", "step"]
GroupRule = Literal["thirds", "shots"]

PAPER_SEEDS = (1, 2, 3, 4, 5)
"""The seeds of the five sub-samplings over which the paper's CIFAR numbers are averaged."""


def long_tail_counts(
    num_classes: int, max_count: int, imbalance: float, *, profile: Profile = "exponential"
) -> NDArray[np.int64]:
    """Numbers of images from the most to the least frequent class.

    "exponential" gives `floor(max_count * imbalance ** (-k / (num_classes - 1)))` for rank k, decided in exact
    arithmetic so that a whole number never falls to the one below by rounding (Cui et al., CVPR 2019). "step" gives the
    first half of the classes, rounded up, `max_count` images and the others `floor(max_count / imbalance)` (Buda et
    al., 2018).

    Args:
        num_classes: K, at least 1.
        max_count: Images of the most frequent class.
        imbalance: Most frequent over least frequent, at least 1.
        profile: The shape of the tail.

    Returns:
        Counts by rank, `(K,)`, never increasing.

    Raises:
        InputError: A value makes no sense, or the rarest class would have no image.
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
    if profile == "exponential":
        counts = [_exponential_count(rank, num_classes, max_count, imbalance) for rank in range(num_classes)]
    elif profile == "step":
        head = (num_classes + 1) // 2
        counts = [max_count] * head + [math.floor(Fraction(max_count) / Fraction(imbalance))] * (num_classes - head)
    else:
        raise InputError(f'profile is {profile!r}; give "exponential" or "step"')
    return np.array(counts, dtype=np.int64)


def _exponential_count(rank: int, num_classes: int, max_count: int, imbalance: float) -> int:
    steps = max(num_classes - 1, 1)
    candidate: int = round(max_count * imbalance ** (-rank / steps))
    # candidate <= max_count * imbalance^(-rank/steps), raised to the power `steps`, so that both sides are rational.
    fits = candidate**steps * Fraction(imbalance) ** rank <= max_count**steps
    return candidate if fits else candidate - 1


@dataclass(frozen=True, kw_only=True)
class LongTailSplit:
    """One sub-sampling of a labelled set: the long tail and its controls, as sorted index arrays into the labels.

    As in the published lists, each class is shuffled once and every subset takes the first images of that order, so the
    few-shot set lies inside the other two and the long tail and its balanced control share as much as they can.
    """

    long_tail: NDArray[np.int64]
    """D_i: the imbalanced set."""
    balanced: NDArray[np.int64]
    """D_b: as many images as D_i (less what K does not divide), equally many of every class."""
    few_shot: NDArray[np.int64]
    """S_b: a small balanced set inside D_i, for few-shot probes."""
    class_order: NDArray[np.int64]
    """Class ids from the most to the least frequent in D_i, `(K,)`."""
    counts: NDArray[np.int64]
    """Images of each class id in D_i; 0 for an id that the pool does not hold."""


def long_tail_split(
    labels: ArrayLike,
    *,
    max_count: int,
    imbalance: float,
    seed: int,
    pool: ArrayLike | None = None,
    few_shot_fraction: float = 0.01,
    profile: Profile = "exponential",
) -> LongTailSplit:
    """Draw a long tail over a random class order, its balanced control and its few-shot set.

    Args:
        labels: Class ids of the whole set, `(N,)`; -1 where unknown.
        max_count: Images of the most frequent class.
        imbalance: Most frequent over least frequent class.
        seed: Decides the class order and which images are drawn.
        pool: Indices that may be drawn (say, the training part); by default all with a known label.
        few_shot_fraction: Size of the few-shot set as a fraction of the pool.
        profile: See `long_tail_counts`.

    Returns:
        The three subsets, the class order, and the counts per class.

    Raises:
        InputError: The pool holds too few images of some class, or a value makes no sense.
    """
    known = _class_ids(labels)
    drawable = np.arange(len(known)) if pool is None else np.sort(check_indices(pool, len(known), "pool"))
    drawable = drawable[known[drawable] >= 0]
    classes = np.unique(known[drawable])
    if len(classes) == 0:
        raise InputError("no label is known in the pool; a long tail can only be drawn from labelled images")
    if not 0 <= few_shot_fraction <= 1:
        raise InputError(f"few_shot_fraction is {few_shot_fraction}; give a fraction between 0 and 1")

    random = np.random.PCG64(seed)
    order = classes[_permutation(random, len(classes))]
    by_rank = long_tail_counts(len(classes), max_count, imbalance, profile=profile)
    counts = np.zeros(int(classes.max()) + 1, dtype=np.int64)
    counts[order] = by_rank
    equal_share = int(by_rank.sum()) // len(classes)
    # The addend lifts 0.29 * 100 == 28.999999999999996 and its like to the number that is meant.
    shots = math.floor(few_shot_fraction * len(drawable) / len(classes) + 1e-9)
    if shots > by_rank[-1]:
        has = f"the rarest class has {by_rank[-1]}; lower few_shot_fraction or imbalance"
        raise InputError(f"few_shot_fraction {few_shot_fraction:g} asks for {shots} images of each class, but {has}")
    shuffled = {}
    for class_id in classes.tolist():
        members = drawable[known[drawable] == class_id]
        _check_enough(class_id, len(members), max(int(counts[class_id]), equal_share), max_count)
        shuffled[class_id] = members[_permutation(random, len(members))]
    return LongTailSplit(
        long_tail=_first(shuffled, counts),
        balanced=_first(shuffled, np.full_like(counts, equal_share)),
        few_shot=_first(shuffled, np.full_like(counts, shots)),
        class_order=order,
        counts=counts,
    )


def _check_enough(class_id: int, available: int, needed: int, max_count: int) -> None:
    if available < needed:
        raise InputError(
            f"class {class_id} has {available} images in the pool and the split needs {needed}; "
            f"lower max_count ({max_count}) or choose another seed"
        )


def _first(members: Mapping[int, NDArray[np.int64]], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The first `counts[class]` members of each class, sorted."""
    return np.sort(np.concatenate([indices[: counts[class_id]] for class_id, indices in members.items()]))


def train_validation_split(
    labels: ArrayLike, *, validation: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Part a labelled set, stratified by class.

    Every class gives equally many validation images (they differ by one where K does not divide `validation`). Where
    that would take the last image of a class, each class gives in proportion to its size instead.

    Args:
        labels: Class ids, `(N,)`, none unknown.
        validation: Size of the validation part, less than N.
        seed: Decides which images are drawn.

    Returns:
        Sorted training and validation indices.

    Raises:
        InputError: `validation` does not leave a training part, or a label is unknown.
    """
    known = _class_ids(labels)
    if not 0 <= validation < len(known):
        raise InputError(
            f"validation is {validation}; give a number from 0 to {len(known) - 1} for {len(known)} images"
        )
    if (known < 0).any():
        raise InputError(
            f"{int((known < 0).sum())} labels are unknown (-1); leave these images out before a stratified split"
        )
    random = np.random.PCG64(seed)
    classes, sizes = np.unique(known, return_counts=True)
    taken = np.full(len(classes), validation // len(classes))
    taken[_permutation(random, len(classes))[: validation % len(classes)]] += 1
    if (taken >= sizes).any():
        exact = validation * sizes / len(known)
        taken = np.floor(exact).astype(np.int64)
        # Largest remainders first, but a class gives its last image only when no other is left to give.
        by_need = np.lexsort((taken - exact, taken + 1 >= sizes))
        taken[by_need[: validation - taken.sum()]] += 1
    held_out = []
    for class_id, count in zip(classes, taken, strict=True):
        members = np.flatnonzero(known == class_id)
        held_out.append(members[_permutation(random, len(members))[:count]])
    chosen = np.sort(np.concatenate(held_out))
    return np.setdiff1d(np.arange(len(known)), chosen), chosen


def class_groups(train_counts: ArrayLike, *, rule: GroupRule = "thirds") -> dict[str, NDArray[np.int64]]:
    """Group classes into Many, Medium and Few by their number of training images.

    "thirds" ranks classes by size and cuts the ranks in three, the remainder going to Many: 10 classes give 4/3/3, 100
    give 34/33/33; equal sizes are ranked by class id. "shots" takes more than 100, 20 to 100 and fewer than 20 images
    (Liu et al., CVPR 2019).

    Args:
        train_counts: Training images of each class id, `(K,)`.
        rule: How to group.

    Returns:
        Sorted class ids under "many", "medium" and "few"; a group may be empty.

    Raises:
        InputError: The counts are not a vector of numbers >= 0, or the rule is unknown.
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


def load_index_list(path: Path | str, *, size: int | None = None) -> NDArray[np.int64]:
    """Read a published index list: a `.npy` vector of positions in a set, kept in its own order.

    The published CIFAR lists count in the order of the original batches (the order of torchvision's data sets). Another
    copy of the same images, such as a parquet file, may be ordered differently, and then they do not fit it.

    Args:
        path: The `.npy` file.
        size: Images in the set; by default only negative indices are refused.

    Returns:
        The indices, `(M,)`.

    Raises:
        InputError: The file is missing, not a vector of whole numbers, repeats an index or leaves the range.
    """
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: cannot be read as an index list ({reason}); give a file by numpy.save") from error
    if not isinstance(values, np.ndarray):
        values.close()
        raise InputError(f"{path}: is an archive, not one array; save the index vector alone with numpy.save")
    return check_indices(values, size, str(path))


def check_indices(values: ArrayLike, size: int | None, name: str) -> NDArray[np.int64]:
    """Check a list of positions in a set.

    Args:
        values: The positions, `(M,)`.
        size: Images in the set; None allows any position from 0.
        name: What the list is called in errors.

    Returns:
        The positions as int64.

    Raises:
        InputError: Not a vector of whole numbers, out of range, or a position is repeated.
    """
    indices = np.asarray(values)
    if indices.size == 0 and indices.ndim == 1:
        return np.zeros(0, dtype=np.int64)
    if indices.ndim != 1 or indices.dtype.kind not in "iu":
        raise InputError(
            f"{name}: has shape {indices.shape} and type {indices.dtype}; give a one-dimensional list of whole numbers"
        )
    low, high = int(indices.min()), int(indices.max())
    if low < 0 or (size is not None and high >= size):
        allowed = "0 or more" if size is None else f"0 to {size - 1}"
        raise InputError(
            f"{name}: holds index {low if low < 0 else high}; give indices from {allowed}, of the same data set"
        )
    unique, times = np.unique(indices, return_counts=True)
    if len(unique) < len(indices):
        raise InputError(f"{name}: repeats index {unique[times > 1][0]}; give each index once")
    return indices.astype(np.int64)


def _class_ids(labels: ArrayLike) -> NDArray[np.int64]:
    ids = np.asarray(labels)
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise InputError(f"labels have shape {ids.shape} and type {ids.dtype}; give one whole number for each image")
    return ids.astype(np.int64)


def _permutation(random: np.random.PCG64, length: int) -> NDArray[np.int64]:
    return np.argsort(random.random_raw(length), kind="stable").astype(np.int64)
