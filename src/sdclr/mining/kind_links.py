"""Links between groups, which are joined repeatedly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy import sparse


class Links:
    """Weighted links between groups. Each link is stored once, in 20 bytes.

    Args:
        weights: (L, L) symmetric, positive or empty; the diagonal is ignored.
        room: Maximum number of groups, including joined ones.

    Example:
        >>> from scipy import sparse
        >>> links = Links(sparse.csr_matrix([[0, 2, 1], [2, 0, 4], [1, 4, 0]]), 4)
        >>> links.join(0, 1, 3)
        2.0
        >>> links.of(3)
        (array([2], dtype=int32), array([5.]))
    """

    def __init__(self, weights: sparse.csr_matrix[np.float64], room: int) -> None:
        from scipy import sparse

        count = weights.shape[0]
        upper = sparse.triu(weights, 1, format="coo")
        self._weight = upper.data.astype(np.float64, copy=False)  # 0 for removed links
        self._ends = upper.row + upper.col  # the sum of both ends; minus one end, it is the other
        ends = np.concatenate([upper.row, upper.col])
        numbers = (np.argsort(ends, kind="stable") % max(1, len(self._ends))).astype(ends.dtype)
        starts = np.cumsum(np.bincount(ends, minlength=count))[:-1]
        self._numbers: list[NDArray[Any] | None] = [*np.split(numbers, starts), *[None] * (room - count)]

    def of(self, group: int) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Groups that a group is linked to, and the weights, in arbitrary order."""
        numbers = self._linked(group)
        return self._ends[numbers] - group, self._weight[numbers]

    def join(self, a: int, b: int, into: int) -> float:
        """Join two groups into a new one, or into one of them. Links to the same group are added.

        Returns:
            Weight of the link between the two groups.
        """
        first, second = self._linked(a), self._linked(b)
        others, also = self._ends[first] - a, self._ends[second] - b
        between = first[others == b]
        weight = float(self._weight[between].sum())
        self._weight[between] = 0
        _, one, two = np.intersect1d(others, also, assume_unique=True, return_indices=True)
        self._weight[first[one]] += self._weight[second[two]]
        self._weight[second[two]] = 0
        self._ends[first] = others + into
        self._ends[second] = also + into
        self._numbers[a] = self._numbers[b] = None
        self._numbers[into] = np.concatenate([first, second])
        return weight

    def _linked(self, group: int) -> NDArray[Any]:
        """Numbers of a group's links, without removed ones."""
        numbers = self._numbers[group]
        if numbers is None:
            return np.empty(0, dtype=np.int32)
        left: NDArray[Any] = numbers[self._weight[numbers] > 0]
        self._numbers[group] = left
        return left
