"""Rarity from clusters: a rare kind of image makes a small one."""

import math

import numpy as np
from numpy.typing import NDArray

from sdclr.evaluation.clusters import Clusters


def default_clusters(images: int) -> int:
    """Clusters sought where none are asked: the root of the number of images, so that both grow alike."""
    return max(1, round(math.sqrt(images)))


def cluster_size(clusters: Clusters) -> NDArray[np.float32]:
    """(N,) images in the cluster of each image, itself included."""
    return clusters.sizes[clusters.labels].astype(np.float32)
