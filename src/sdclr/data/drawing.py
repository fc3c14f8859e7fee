"""Draw images by index: checks of index lists, and stratified splits.

Every draw is a function of its seed alone. It ranks the raw 64-bit words of a PCG64 generator, whose stream NumPy keeps
fixed across releases (unlike the streams of `Generator.permutation` and `choice`).
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdclr.errors import InputError


def check_indices(values: ArrayLike, size: int | None, name: str) -> NDArray[np.int64]:
    """Check a list of positions in a set.

    Args:
        values: The positions, `(M,)`.
        size: Number of images in the set; None allows any position from 0.
        name: Name of the list in error messages.

    Returns:
        The positions as int64.

    Raises:
        InputError: The list is not a vector of integers, or a position is repeated or out of range.
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


def train_validation_split(
    labels: ArrayLike, *, validation: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split a labeled set into training and validation, stratified by class.

    Every class gives equally many validation images (numbers differ by one if K does not divide `validation`). If that
    would take the last image of a class, each class gives a number proportional to its size instead.

    Args:
        labels: Class ids, `(N,)`, none unknown.
        validation: Size of the validation part, less than N.
        seed: Determines which images are drawn.

    Returns:
        Sorted training and validation indices.

    Raises:
        InputError: `validation` does not leave a training part, or a label is unknown.
    """
    known = class_ids(labels)
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
    taken[permutation(random, len(classes))[: validation % len(classes)]] += 1
    if (taken >= sizes).any():
        exact = validation * sizes / len(known)
        taken = np.floor(exact).astype(np.int64)
        # Largest remainders first, but a class gives its last image only if no other image is left.
        by_need = np.lexsort((taken - exact, taken + 1 >= sizes))
        taken[by_need[: validation - taken.sum()]] += 1
    held_out = []
    for members, count in zip(by_class(np.arange(len(known)), known, sizes), taken, strict=True):
        held_out.append(members[permutation(random, len(members))[:count]])
    chosen = np.sort(np.concatenate(held_out))
    return np.setdiff1d(np.arange(len(known)), chosen), chosen


def class_ids(labels: ArrayLike) -> NDArray[np.int64]:
    """Labels as int64, checked."""
    ids = np.asarray(labels)
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise InputError(f"labels have shape {ids.shape} and type {ids.dtype}; give one whole number for each image")
    return ids.astype(np.int64)


def by_class(
    indices: NDArray[np.int64], labels: NDArray[np.int64], sizes: NDArray[np.int64]
) -> list[NDArray[np.int64]]:
    """The indices of each class, in their given order; one sort is faster than a thousand masks."""
    return np.split(indices[np.argsort(labels, kind="stable")], np.cumsum(sizes)[:-1])


def permutation(random: np.random.PCG64, length: int) -> NDArray[np.int64]:
    """A random order of `length` items."""
    return np.argsort(random.random_raw(length), kind="stable").astype(np.int64)
