"""Typicality: the density of an image's neighborhood within its cluster.

This is the score of TypiClust (Hacohen et al., *Active Learning on a Budget: Opposite Strategies Suit High and Low
Budgets*, ICML 2022, equation 4).
"""

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdclr.features.nearest import nearest

NEIGHBORS: Final = 20
"""Neighbors that typicality is measured by; all other images of the cluster where it has fewer."""

MAX_CLUSTERS: Final = 500
LEAST_IMAGES: Final = 5
"""Smaller clusters are noise: TypiClust does not pick from them."""

_IMAGES_A_CLUSTER: Final = 10
_SMALL_COLLECTION: Final = 10


def most_clusters(images: int) -> int:
    """The clusters that some images are split into at most.

    The paper's limit is 500. Where it would leave most clusters with fewer than `LEAST_IMAGES`, there is one for each
    10 images. Collections of less than 100 images may have 10 clusters.
    """
    return min(MAX_CLUSTERS, max(images // _IMAGES_A_CLUSTER, min(images, _SMALL_COLLECTION)))


def distance_in_cluster(rows: Tensor, labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean Euclidean distance of each row to its 20 nearest neighbors in its own cluster: the inverse of typicality.

    Args:
        rows: (N, D).
        labels: (N,) cluster of each row, from 0.

    Returns:
        (N,) distances; 0 for the only row of a cluster.
    """
    apart = np.zeros(len(rows))
    for cluster in range(int(labels.max()) + 1):
        members = np.flatnonzero(labels == cluster)
        if len(members) > 1:
            part = rows[torch.from_numpy(members).to(rows.device)]
            near = nearest(part, min(NEIGHBORS, len(members) - 1), metric="euclidean")
            apart[members] = near.distances.mean(dim=1).cpu().double().numpy()
    return apart
