"""Exact nearest neighbors in feature space, block by block."""

from typing import Final, NamedTuple

import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn import functional as F

from sdclr.choices import Metric
from sdclr.errors import InputError
from sdclr.features.extract import checked_features
from sdclr.progress import stage

GROUP: Final = 16
"""Number of columns in a group of `largest`: about the square root of 50,000 images / 200 neighbors."""

_BLOCK_BYTES: Final = 64 * 2**20
"""Default memory of one block of similarities."""


class Neighbors(NamedTuple):
    """The nearest neighbors of some queries.

    Attributes:
        distances: (Q, k) float32, nearest first.
        indices: (Q, k) rows of the searched features: int64, or int32 after an approximate search, to save memory.
    """

    distances: Tensor
    indices: Tensor


def nearest(
    features: ArrayLike | Tensor,
    k: int,
    *,
    queries: ArrayLike | Tensor | None = None,
    metric: Metric = "cosine",
    block: int | None = None,
) -> Neighbors:
    """The k nearest neighbors of each query by exhaustive search, exact up to float32 rounding.

    Besides features and result, memory is linear in N and does not grow with the number of queries.

    Args:
        features: (N, D), on any device: the search runs there.
        k: Neighbors per query.
        queries: (Q, D). By default the features themselves, none of which is its own neighbor.
        metric: `cosine` is 1 minus the cosine, in [0, 2]; `euclidean` is the distance of the unchanged features.
        block: Queries compared at once; by default as many as fit into 64 MiB.

    Returns:
        Distances and indices on the features' device, nearest first.

    Raises:
        InputError: The features are invalid, or there are fewer than k candidates.
    """
    base = checked_features(features, "features")
    asked = base if queries is None else checked_features(queries, "queries", width=base.shape[1]).to(base.device)
    candidates = len(base) - (queries is None)
    if not 1 <= k <= candidates:
        most = f"choose k from 1 to {candidates}" if candidates else "give 2 images or more"
        raise InputError(f"k={k} neighbors of {candidates} images: {most}")
    if metric == "cosine":
        base, asked, half = F.normalize(base), F.normalize(asked), None
    else:
        # For features far from the origin, rounding in products hides the differences between neighbors.
        center = base.mean(dim=0)
        base, asked = base - center, asked - center
        half = base.square().sum(dim=1) / 2
    columns = -(-len(base) // GROUP) * GROUP
    rows = min(len(asked), block or max(1, _BLOCK_BYTES // (4 * columns)))
    # One buffer for all blocks: allocating memory of this size takes longer than the product.
    closeness = torch.full((rows, columns), -torch.inf, device=base.device)
    distances = torch.empty(len(asked), k, device=base.device)
    indices = torch.empty(len(asked), k, dtype=torch.int64, device=base.device)
    with stage("searching neighbors", len(asked)) as update:
        for begin in range(0, len(asked), rows):
            part = asked[begin : begin + rows]
            close, known = closeness[: len(part)], closeness[: len(part), : len(base)]
            torch.mm(part, base.T, out=known)
            if half is not None:
                known -= half  # the larger, the nearer: |q - x|² = |q|² - 2 (q·x - |x|²/2)
            if queries is None:
                known.diagonal(begin).fill_(-torch.inf)
            found, places = largest(close, k)
            if half is None:
                found = 1 - found
            else:
                found, order = _exact(part, base, places).sort(dim=1)
                places = places.gather(1, order)
            distances[begin : begin + len(part)], indices[begin : begin + len(part)] = found, places
            update(begin + len(part))
    if half is None:
        distances.clamp_(min=0)
    return Neighbors(distances, indices)


def _exact(queries: Tensor, base: Tensor, places: Tensor) -> Tensor:
    """Distances (B, k) computed from differences: those from products lose all digits for near features."""
    return torch.stack(
        [torch.linalg.vector_norm(queries - base[column], dim=1) for column in places.unbind(dim=1)], dim=1
    )


def largest(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`values.topk(k, dim=1)` of a (B, G * 16) table, faster for small k.

    Column c belongs to group c mod G. The maxima of the k groups with the largest maxima are not smaller than any value
    outside these groups. So these groups hold the k largest values, and only their columns are searched.
    """
    groups = values.shape[1] // GROUP
    if groups <= k:
        found, columns = values.topk(k, dim=1)
        return found, columns
    by_group = values.view(len(values), GROUP, groups)
    best = by_group.amax(dim=1).topk(k, dim=1, sorted=False).indices
    columns = best[:, None, :] + groups * torch.arange(GROUP, device=values.device)[:, None]
    columns = columns.view(len(values), -1)
    found, places = values.gather(1, columns).topk(k, dim=1)
    return found, columns.gather(1, places)
