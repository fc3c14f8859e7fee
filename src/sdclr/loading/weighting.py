"""Orders in which some samples occur more often than others."""

import numpy as np
from numpy.typing import NDArray

from sdclr.errors import InputError


def weighted_order(
    weights: NDArray[np.float64], random: np.random.Generator, draws: int | None = None
) -> NDArray[np.int64]:
    """Draw samples by weight: sample i occurs `draws · w_i / Σ w` times, rounded down or up.

    This is systematic resampling: it varies less than independent draws, and equal weights give a permutation. The
    copies of a sample are spread evenly over the order, so that few batches contain two of them, which would be
    negatives of each other.

    Args:
        weights: `(N,)`, finite and not negative, not all zero.
        random: Determines the order.
        draws: Number of draws; by default the number of samples, N.

    Returns:
        `(draws,)` keys: copy j (from 0) of sample i is `i + j N`, so that each copy has different views.

    Raises:
        InputError: A weight is negative or not finite, or all are zero.
    """
    n = len(weights)
    draws = n if draws is None else draws
    if not np.isfinite(weights).all() or (weights < 0).any() or not weights.sum() > 0:
        raise InputError("sampling weights must be finite, not negative and not all zero")
    shuffled = random.permutation(n)  # otherwise rounding would be alike for neighbors in the collection
    ends = np.cumsum(weights[shuffled]) * (draws / weights.sum())
    ends[-1] = draws  # without the rounding error
    reached = np.floor(ends + random.random()).astype(np.int64)
    counts = np.diff(reached, prepend=0)
    counts[-1] += draws - reached[-1]
    copy = np.arange(draws) - np.repeat(np.cumsum(counts) - counts, counts)
    place = (copy + np.repeat(random.random(n), counts)) / np.repeat(counts, counts)
    keys = np.repeat(shuffled, counts) + copy * n
    order: NDArray[np.int64] = keys[np.argsort(place, kind="stable")].astype(np.int64)
    return order
