"""Orders in which some samples come more often than others."""

import numpy as np
from numpy.typing import NDArray

from sdclr.errors import InputError


def weighted_order(
    weights: NDArray[np.float64], random: np.random.Generator, draws: int | None = None
) -> NDArray[np.int64]:
    """So many draws, sample i about `draws · w_i / Σ w` times: rounded down or up, no further off.

    Systematic resampling: it varies less than independent draws, and equal weights give a permutation. The copies of a
    sample are spread over the order evenly, so that few batches hold two of them, which would be each other's
    negatives.

    Args:
        weights: `(N,)`, finite and not negative, not all zero.
        random: Decides the order.
        draws: By default as many as there are samples, N.

    Returns:
        `(draws,)` keys: copy j (from 0) of sample i is `i + j N`, so that each copy has views of its own.

    Raises:
        InputError: A weight is negative or not finite, or all are zero.
    """
    n = len(weights)
    draws = n if draws is None else draws
    if not np.isfinite(weights).all() or (weights < 0).any() or not weights.sum() > 0:
        raise InputError("sampling weights must be finite, not negative and not all zero")
    shuffled = random.permutation(n)  # or neighbors in the collection would share the luck of rounding
    ends = np.cumsum(weights[shuffled]) * (draws / weights.sum())
    ends[-1] = draws  # whatever rounding has made of it
    reached = np.floor(ends + random.random()).astype(np.int64)
    counts = np.diff(reached, prepend=0)
    counts[-1] += draws - reached[-1]
    copy = np.arange(draws) - np.repeat(np.cumsum(counts) - counts, counts)
    place = (copy + np.repeat(random.random(n), counts)) / np.repeat(counts, counts)
    keys = np.repeat(shuffled, counts) + copy * n
    order: NDArray[np.int64] = keys[np.argsort(place, kind="stable")].astype(np.int64)
    return order
