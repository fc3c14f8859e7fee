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
"""Number of neighbors for typicality; smaller clusters use all their other images."""

MAX_CLUSTERS: Final = 500
LEAST_IMAGES: Final = 5
"""Smallest cluster that TypiClust picks from. Smaller ones are noise."""

_IMAGES_A_CLUSTER: Final = 10
_SMALL_COLLECTION: Final = 10


def most_clusters(images: int) -> int:
    """Maximum number of clusters for a number of images.

    The paper's limit is 500. With fewer than 5,000 images, most clusters could be smaller than `LEAST_IMAGES`, so the
    limit is one cluster per 10 images. Collections of fewer than 100 images may have 10 clusters.
    """
    return min(MAX_CLUSTERS, max(images // _IMAGES_A_CLUSTER, min(images, _SMALL_COLLECTION)))


def distance_in_cluster(rows: Tensor, labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean Euclidean distance of each row to its 20 nearest neighbors in its cluster: the inverse of typicality.

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
