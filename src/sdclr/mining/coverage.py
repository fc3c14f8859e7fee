"""Greedy coverage: images whose neighborhoods together contain as many images as possible.

This is ProbCover (Yehuda et al., *Active Learning Through a Covering Lens*, NeurIPS 2022, algorithm 1). Each image has
a ball with a common radius. Each step picks the image whose ball contains the most uncovered images, and marks its
ball as covered. The balls of labeled images are covered from the start.

The radius depends on the number of labels: an average ball contains a share 1 / b of the images, where b is the final
number of labels. The paper uses the largest radius at which 95 % of the balls are pure, that is, inside one cluster of
k-means. With features of a general encoder, most balls of that radius contain a single image, and its choices train
worse classifiers than random ones (docs/results/selection.md).
"""

import math
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_BLOCK_BYTES: Final = 64 * 2**20


def share_threshold(rows: Tensor, share: float, *, centers: NDArray[np.int64] | None = None) -> float:
    """Cosine threshold that a given share of all pairs exceeds, so that an average ball contains this share.

    Args:
        rows: (N, D) of length 1.
        share: Share of the pairs, in (0, 1].
        centers: Positions of the balls to measure; by default all.

    Returns:
        The smallest cosine c such that at most this share of the pairs has a larger cosine; infinity for a single row.
    """
    asked = np.arange(len(rows)) if centers is None else centers
    cosine = (rows[torch.from_numpy(asked).to(rows.device)] @ rows.T).cpu().numpy()
    cosine[np.arange(len(asked)), asked] = np.inf  # exclude pairs of an image with itself
    pairs = len(asked) * (len(rows) - 1)
    place = pairs - 1 - min(pairs - 1, math.floor(share * pairs))
    return float(np.partition(cosine.ravel(), place)[place])


def greedy_cover(
    rows: Tensor,
    count: int,
    threshold: float,
    *,
    ties: NDArray[np.int64],
    labeled: Tensor | None = None,
) -> list[int]:
    """Repeatedly pick the row whose ball contains the most uncovered rows.

    When all rows are covered, coverage restarts with the rows that are not picked. The balls are stored as N² bits:
    50 MB for 20,000 rows, for any radius. Time is O(N² D).

    Args:
        rows: (N, D) of length 1, the candidates.
        count: Number of rows to pick, at most N.
        threshold: Two rows cover each other if their cosine is larger. Each row covers itself.
        ties: (N,) a permutation. Among equal balls, the row with the larger number is picked.
        labeled: (L, D) rows of length 1 whose balls are covered from the start.

    Returns:
        Different rows in picking order.
    """
    balls = _balls(rows, threshold)
    open_ = np.ones(len(rows), dtype=bool) if labeled is None else ~_covered(rows, labeled, threshold)
    free = np.ones(len(rows), dtype=bool)
    held = _held(balls, open_)
    picked: list[int] = []
    while len(picked) < count:
        if not open_.any():
            open_ = free.copy()
            held = _held(balls, open_)
        pick = int(np.where(free, held * len(rows) + ties, -1).argmax())
        picked.append(pick)
        free[pick] = False
        new = open_ & np.unpackbits(balls[pick], count=len(rows)).astype(bool)
        open_ &= ~new
        held -= _held(balls, new)
    return picked


def _balls(rows: Tensor, threshold: float) -> NDArray[np.uint8]:
    """(N, N / 8) packed bits: membership of rows in the ball of each row."""
    count = len(rows)
    balls = np.empty((count, -(-count // 8)), dtype=np.uint8)
    for begin in range(0, count, _block(count)):
        part = slice(begin, begin + _block(count))
        near = rows[part] @ rows.T > threshold
        near.diagonal(begin).fill_(True)
        balls[part] = np.packbits(near.cpu().numpy(), axis=1)
    return balls


def _held(balls: NDArray[np.uint8], which: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(N,) number of the given rows in the ball of each row. Balls are symmetric: x is in y's ball if y is in x's."""
    count = len(balls)
    held = np.zeros(count, dtype=np.int64)
    members = np.flatnonzero(which)
    step = _block(count)
    for begin in range(0, len(members), step):
        held += np.unpackbits(balls[members[begin : begin + step]], axis=1, count=count).sum(axis=0, dtype=np.int64)
    return held


def _covered(rows: Tensor, labeled: Tensor, threshold: float) -> NDArray[np.bool_]:
    """(N,) whether each row is in the ball of a labeled row."""
    if not len(labeled):
        return np.zeros(len(rows), dtype=bool)
    parts = [(part @ labeled.T).amax(dim=1) > threshold for part in torch.split(rows, _block(len(labeled)))]
    return torch.cat(parts).cpu().numpy()


def _block(columns: int) -> int:
    """Number of rows per block, given the number of columns of their cosines."""
    return max(1, _BLOCK_BYTES // (4 * columns))
