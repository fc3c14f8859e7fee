"""Balance of an encoder's accuracy between frequent and rare classes.

The groups Many, Medium and Few come from the class sizes of the *training* collection
(`sdclr.longtail.splits.class_groups`); accuracies come from a balanced test set. Results keep the unit of the input:
fractions give fractions, percentages give percentages.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdclr.errors import InputError

GROUPS = ("many", "medium", "few")
NO_GROUPS: Final[Mapping[str, NDArray[np.int64]]] = {name: np.empty(0, dtype=np.int64) for name in GROUPS}
"""The groups of a collection without frequent and rare classes."""


class Balance(NamedTuple):
    """Accuracy by group of classes, overall accuracy, and the spread of the groups.

    Attributes:
        many: Mean accuracy of the frequent classes; nan if the group has no class with test images.
        medium: The same for the medium classes.
        few: The same for the rare classes.
        all: Mean accuracy over all classes; on a balanced test set this is the accuracy over all images.
        std: Population standard deviation of the group accuracies that exist; nan with fewer than two.
    """

    many: float
    medium: float
    few: float
    all: float
    std: float

    @classmethod
    def from_json(cls, values: Mapping[str, float | None]) -> "Balance":
        """The inverse of `_asdict` in JSON, where nan is null."""
        return cls(**{name: math.nan if (value := values[name]) is None else value for name in cls._fields})


class Summary(NamedTuple):
    """Results of several splits (class orders).

    Attributes:
        mean: Mean over the splits, field by field.
        std: Sample standard deviation (`ddof=1`) over the splits, field by field; nan for a single split.
        splits: Number of splits.
    """

    mean: Balance
    std: Balance
    splits: int


def per_class_accuracy(predictions: ArrayLike, labels: ArrayLike, num_classes: int) -> NDArray[np.float64]:
    """Share of correctly predicted images of each class.

    Args:
        predictions: (N,) predicted class ids.
        labels: (N,) true class ids in `[0, num_classes)`.
        num_classes: Number of classes K.

    Returns:
        (K,) accuracies in [0, 1]; nan for classes without images.

    Raises:
        InputError: If lengths differ, or a label is outside `[0, num_classes)`.
    """
    predicted = np.asarray(predictions, dtype=np.int64)
    true = np.asarray(labels, dtype=np.int64)
    if predicted.shape != true.shape or true.ndim != 1:
        raise InputError(f"predictions {predicted.shape} and labels {true.shape} differ: give one of each per image")
    if true.size and (true.min() < 0 or true.max() >= num_classes):
        wrong = true[(true < 0) | (true >= num_classes)][0]
        raise InputError(f"label {wrong} is not in [0, {num_classes}): drop unlabeled images or raise num_classes")
    counts = np.bincount(true, minlength=num_classes).astype(np.float64)
    hits = np.bincount(true[predicted == true], minlength=num_classes).astype(np.float64)
    accuracy: NDArray[np.float64] = np.divide(hits, counts, out=np.full(num_classes, np.nan), where=counts > 0)
    return accuracy


def balance(per_class_accuracy: ArrayLike, groups: Mapping[str, ArrayLike]) -> Balance:
    """Many / Medium / Few / All accuracy and Std, as in Jiang et al. (ICML 2021), section 4.2.

    A group's accuracy is the mean over its classes; Std is the population standard deviation of the three. Classes
    without test images (nan) are left out of every mean.

    Args:
        per_class_accuracy: (K,) accuracies; nan if unknown.
        groups: Class ids under the keys `many`, `medium` and `few`.

    Returns:
        The five values, in the unit of `per_class_accuracy`.

    Raises:
        InputError: If a group is missing, or contains an unknown class id.

    Examples:
        >>> sdclr.balance([1.0, 0.5, 0.75, 0.5], {"many": [0, 1], "medium": [2], "few": [3]}).many
        0.75
    """
    accuracy = np.asarray(per_class_accuracy, dtype=np.float64)
    means: dict[str, float] = {}
    for name in GROUPS:
        if name not in groups:
            raise InputError(f"groups has no {name!r}, only {sorted(groups)}: give many, medium and few")
        ids = np.asarray(groups[name], dtype=np.int64)
        if ids.size and (ids.min() < 0 or ids.max() >= accuracy.size):
            wrong = ids[(ids < 0) | (ids >= accuracy.size)][0]
            raise InputError(f"group {name!r} names class {wrong}, but there are {accuracy.size} classes")
        means[name] = _mean(accuracy[ids])
    present = np.array([value for value in means.values() if not np.isnan(value)])
    spread = float(np.std(present)) if present.size > 1 else float("nan")
    return Balance(**means, all=_mean(accuracy), std=spread)


def summarize(balances: Sequence[Balance]) -> Summary:
    """Mean and standard deviation over splits, shown as `mean ± std` in tables.

    It is the *sample* standard deviation (`ddof=1`), because the splits are a sample of the possible class orders. nan
    values are left out.

    Raises:
        InputError: If `balances` is empty.
    """
    if not balances:
        raise InputError("no splits to summarize: give the balance of at least one")
    columns = [np.array([value for value in column if not np.isnan(value)]) for column in zip(*balances, strict=True)]
    return Summary(
        mean=Balance(*(_mean(column) for column in columns)),
        std=Balance(*(float(np.std(column, ddof=1)) if column.size > 1 else float("nan") for column in columns)),
        splits=len(balances),
    )


def _mean(values: NDArray[np.float64]) -> float:
    """Mean of the known values; nan without NumPy's warning if there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
