"""The radius of ProbCover as its paper chooses it (Yehuda et al., NeurIPS 2022, section 3.3), for comparison.

It is the largest radius at which 95 % of the balls are pure: all images of a ball have the pseudo-label of its center.
Pseudo-labels are clusters of k-means. The paper takes as many clusters as there are classes; a user who has no labels
does not know that number, and `PSEUDO_CLASSES` stands for it.
"""

import math
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PURITY: Final = 0.95
"""Share of the balls that are pure; the paper's value."""

PSEUDO_CLASSES: Final = 20
"""Clusters that serve as pseudo-labels. More give a smaller radius."""

_BLOCK: Final = 2048


def pure_threshold(
    rows: Tensor, labels: NDArray[np.int64], *, purity: float = PURITY, centers: NDArray[np.int64] | None = None
) -> float:
    """The cosine above which two images cover each other, so that a given share of the balls is pure.

    The ball of an image is pure as long as it ends before the nearest image of another label. So the radius is a
    quantile of those distances, and no search over radii is needed.

    Args:
        rows: (N, D) of length 1.
        labels: (N,) pseudo-labels.
        purity: Share of the balls that must be pure, in (0, 1].
        centers: Positions of the balls that are looked at; by default all.

    Returns:
        The smallest cosine c for which that share of the balls {y : cos(x, y) > c} is pure; minus infinity if there is
        one label only. The paper's radius is `sqrt(2 - 2 c)`.
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
