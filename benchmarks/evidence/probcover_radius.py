"""The radius of ProbCover as its paper chooses it (Yehuda et al., NeurIPS 2022, section 3.3), for comparison.

It is the largest radius at which 95 % of the balls are pure: all images of a ball have the pseudo-label of its center.
Pseudo-labels are k-means clusters. The paper uses as many clusters as classes. Without labels this number is unknown,
and `PSEUDO_CLASSES` is used instead.
"""

import math
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PURITY: Final = 0.95
"""Required share of pure balls; the paper's value."""

PSEUDO_CLASSES: Final = 20
"""Number of clusters for pseudo-labels. More clusters give a smaller radius."""

_BLOCK: Final = 2048


def pure_threshold(
    rows: Tensor, labels: NDArray[np.int64], *, purity: float = PURITY, centers: NDArray[np.int64] | None = None
) -> float:
    """Cosine above which two images cover each other, such that a given share of the balls is pure.

    The ball of an image is pure if it ends before the nearest image with another label. The radius is therefore a
    quantile of these distances, and needs no search.

    Args:
        rows: (N, D) with length 1.
        labels: (N,) pseudo-labels.
        purity: Required share of pure balls, in (0, 1].
        centers: Positions of the centers; by default all images.

    Returns:
        The smallest cosine c for which this share of the balls {y : cos(x, y) > c} is pure; minus infinity if there is
        only one label. The paper's radius is `sqrt(2 - 2 c)`.
    """
    asked = np.arange(len(rows)) if centers is None else centers
    known = torch.from_numpy(labels).to(rows.device)
    closest: list[Tensor] = []
    for part in torch.split(torch.from_numpy(asked).to(rows.device), _BLOCK):
        cosine = rows[part] @ rows.T
        cosine.masked_fill_(known[part, None] == known[None, :], -torch.inf)
        closest.append(cosine.amax(dim=1))
    ordered = torch.cat(closest).sort().values
    return float(ordered[math.ceil(purity * len(ordered)) - 1])
