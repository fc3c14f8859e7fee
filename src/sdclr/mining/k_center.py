"""Farthest-first traversal: choose images far from each other and from those already chosen."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor

_ACTIVE: Final = 4096
"""Number of rows to update after every pick. All others are updated only when necessary."""

_BLOCK: Final = 16_384
_CENTERS: Final = 1024
"""Number of rows and new centers per block of distances: 64 MiB."""


def farthest_first(
    rows: Tensor,
    count: int,
    first: int,
    *,
    weights: Tensor | None = None,
    centers: Sequence[int] = (),
) -> list[int]:
    """Repeatedly pick the row with the largest `weight * distance to the nearest chosen row`.

    With equal weights this is the greedy 2-approximation of the k-center problem, which Sener and Savarese (*Active
    Learning for Convolutional Neural Networks: A Core-Set Approach*, ICLR 2018, algorithm 1) use to choose labels.

    The picks equal those of the plain algorithm, which measures every row's distance to every pick. A row's distance
    only decreases with more picks, so old distances are upper bounds. While the best of the `_ACTIVE` rows with the
    largest bounds is not below the bounds of the rest, it is the best of all, and the rest is not updated. Otherwise
    one matrix product updates all rows. Time is still O(N * count * D), but at the speed of matrix products; the
    additional memory is O(N). Picking 500 of a million rows of width 128 takes 3 s on one CPU core, a tenth of the time
    of the plain algorithm.

    Args:
        rows: (N, D) floating point, finite; distances are Euclidean. The search runs on their device.
        count: Number of rows to pick, at most N minus the number of centers.
        first: The first pick if there are no centers.
        weights: (N,) nonnegative; all 1 by default.
        centers: Rows that are already chosen; they are not picked.

    Returns:
        Different rows in picking order.
    """
    norms = rows.square().sum(dim=1)
    state = _State(
        rows=rows,
        norms=norms,
        squared=torch.ones_like(norms) if weights is None else weights.to(norms.device, torch.float64).square(),
        gaps=torch.full_like(norms, torch.inf),
        taken=torch.zeros(len(rows), dtype=torch.bool, device=rows.device),
    )
    picked: list[int] = []
    fresh = list(centers)
    if not fresh and count:
        picked, fresh = [first], [first]
    while len(picked) < count:
        state.taken[fresh] = True
        _approach(state, fresh)
        best = state.bounds().topk(min(_ACTIVE + 1, len(rows)))
        # The upper bound of the rest. Without a rest, picking continues.
        rest = float(best.values[_ACTIVE]) if len(best.values) > _ACTIVE else -torch.inf
        places = _pick(state.of(best.indices[:_ACTIVE]), rest, count - len(picked))
        fresh = best.indices[places].tolist()
        picked += fresh
    return picked


class _State(NamedTuple):
    """Rows, and their distances to the chosen ones."""

    rows: Tensor
    norms: Tensor
    """(N,) squared lengths of the rows."""
    squared: Tensor
    """(N,) squared weights. Given ones are float64, because they may differ by many orders of magnitude."""
    gaps: Tensor
    """(N,) squared distance to the nearest chosen row."""
    taken: Tensor
    """(N,) whether a row is chosen."""

    def bounds(self) -> Tensor:
        """(N,) squared weighted distances, which determine the picks; minus infinity for chosen rows."""
        return (self.gaps * self.squared).masked_fill_(self.taken, -torch.inf)

    def of(self, indices: Tensor) -> "_State":
        """A copy of some rows."""
        return _State(*(part[indices] for part in self))


def _pick(some: _State, rest: float, count: int) -> list[int]:
    """Farthest-first among some rows: up to `count` picks, while the rest cannot be farther."""
    picked: list[int] = []
    while len(picked) < count:
        value, place = some.bounds().max(dim=0)
        # The first pick has the largest of all bounds, which are up to date, so rounding must not reject it.
        if picked and (float(value) < rest or float(value) == -torch.inf):
            break
        picked.append(int(place))
        some.taken[place] = True
        squared = some.norms + some.norms[place] - 2 * (some.rows @ some.rows[place])
        torch.minimum(some.gaps, squared.clamp_(min=0), out=some.gaps)
    return picked


def _approach(state: _State, centers: Sequence[int]) -> None:
    """Update the squared distances with new centers, in blocks."""
    rows, norms, gaps = state.rows, state.norms, state.gaps
    for group in torch.split(torch.tensor(centers, dtype=torch.int64, device=rows.device), _CENTERS):
        there, length = rows[group], norms[group]
        for begin in range(0, len(rows), _BLOCK):
            part = slice(begin, begin + _BLOCK)
            # min over c of |x|² + |c|² - 2 x·c
            nearest = torch.addmm(length, rows[part], there.T, alpha=-2).amin(dim=1)
            gaps[part] = torch.minimum(gaps[part], (nearest + norms[part]).clamp_(min=0))
