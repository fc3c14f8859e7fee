"""Indices of a collection and its encoder from features alone, without labels.

Each index is a function of features, cluster sizes or neighbors. `benchmarks/evidence/diagnosis.py` measures which of
them correlate with the imbalance of a collection; no index alone is a proof.
"""

import math
from typing import Final

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F

from sdclr.errors import InputError
from sdclr.features.extract import checked_features

_BLOCK: Final = 2048


def gini(sizes: ArrayLike) -> float:
    """Gini coefficient of sizes: 0 if all are equal, close to 1 if one cluster has nearly all images.

    Half the mean absolute difference of two sizes, divided by their mean (Gini, 1912).

    Args:
        sizes: (K,) numbers of 0 or more, not all 0.

    Raises:
        InputError: If a size is negative, or all are 0.
    """
    rising = np.sort(_sizes(sizes))
    ranks = np.arange(1, len(rising) + 1)
    return float((2 * ranks - len(rising) - 1) @ rising / (len(rising) * rising.sum()))


def effective_number(sizes: ArrayLike) -> float:
    """Number of equal clusters with the same diversity: the exponential of the entropy of their shares (Hill, 1973).

    Args:
        sizes: (K,) numbers of 0 or more, not all 0.

    Returns:
        From 1 (one cluster has all images) to K (all are equal).

    Raises:
        InputError: If a size is negative, or all are 0.
    """
    from scipy.stats import entropy

    return math.exp(entropy(_sizes(sizes)))


def smaller_half_share(sizes: ArrayLike) -> float:
    """Share of the images in the smaller half of the clusters; 0.5 if all are equal.

    With an odd number of clusters, half of the middle one counts.

    Args:
        sizes: (K,) numbers of 0 or more, not all 0.

    Raises:
        InputError: If a size is negative, or all are 0.
    """
    rising = np.sort(_sizes(sizes))
    half, odd = divmod(len(rising), 2)
    return float((rising[:half].sum() + odd * rising[half] / 2) / rising.sum())


def rank_me(features: ArrayLike | Tensor) -> float:
    """Effective rank of features: the exponential of the entropy of their singular values, scaled to sum 1.

    Garrido et al., *RankMe: Assessing the Downstream Performance of Pretrained Self-Supervised Representations by Their
    Rank*, ICML 2023, eq. 1.

    Args:
        features: (N, D) raw features.

    Returns:
        From 1 to min(N, D).

    Raises:
        InputError: If the features are not a finite (N, D) array.
    """
    return _spread(torch.linalg.svdvals(checked_features(features, "features").double()))


def directions(features: ArrayLike | Tensor) -> float:
    """Effective number of directions in which images differ from their mean.

    The exponential of the entropy of the variances along the principal directions of features of length 1. Without
    centering it equals the Vendi score with cosine similarity (Friedman & Dieng, TMLR 2023, eq. 2).

    Args:
        features: (N, D).

    Returns:
        From 1 to min(N - 1, D).

    Raises:
        InputError: If the features are not a finite (N, D) array.
    """
    return _spread(_variances(features))


def leading_direction(features: ArrayLike | Tensor) -> float:
    """Share of the first principal direction in the variance of features of length 1.

    Args:
        features: (N, D).

    Returns:
        From 1 / D to 1; nan if all images are equal.

    Raises:
        InputError: If the features are not a finite (N, D) array.
    """
    variances = _variances(features)
    return float(variances[-1] / variances.sum()) if variances.sum() > 0 else math.nan


def cell_sizes(features: ArrayLike | Tensor, count: int) -> NDArray[np.int64]:
    """Numbers of images in cells of about equal extent. k-means would use smaller cells in dense regions.

    Centers are chosen farthest first (Gonzalez, 1985), starting with the image farthest from the mean. Each image
    belongs to the nearest center.

    Args:
        features: (N, D).
        count: Number of cells.

    Returns:
        (K,) sizes; fewer than `count` if images coincide.

    Raises:
        InputError: If the features are not a finite (N, D) array.
    """
    rows = F.normalize(checked_features(features, "features"))
    center = rows[(rows @ rows.mean(0)).argmin()]
    best = rows @ center
    cell = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
    for number in range(1, min(count, len(rows))):
        close = rows @ rows[best.argmin()]
        cell[close > best] = number
        best = torch.maximum(best, close)
    sizes: NDArray[np.int64] = np.bincount(cell.cpu().numpy()).astype(np.int64)
    return sizes[sizes > 0]


def uniformity(features: ArrayLike | Tensor, *, t: float = 2.0) -> float:
    """Logarithm of the mean Gaussian potential of all pairs of images on the unit sphere; lower is more uniform.

    Wang & Isola, *Understanding Contrastive Representation Learning through Alignment and Uniformity on the
    Hypersphere*, ICML 2020, section 4.1.2.

    Args:
        features: (N, D), N at least 2.
        t: Parameter of the potential `exp(-t |x - y|²)`.

    Returns:
        From -4t to 0.

    Raises:
        InputError: If the features are not a finite (N, D) array, or there is a single image.
    """
    rows = F.normalize(checked_features(features, "features"))
    if len(rows) < 2:
        raise InputError("uniformity needs pairs of images: give at least 2 images")
    total = sum(
        float((2 * t * (part @ rows.T - 1)).exp_().sum(dtype=torch.float64)) for part in torch.split(rows, _BLOCK)
    )
    pairs = len(rows) * (len(rows) - 1)
    return math.log((total - float((2 * t * (rows.square().sum(1).double() - 1)).exp().sum())) / pairs)


def alignment(first: ArrayLike | Tensor, second: ArrayLike | Tensor) -> NDArray[np.float32]:
    """Squared distance between the normalized features of an image's two views (Wang & Isola, as above).

    Args:
        first: (N, D) features of one view of each image.
        second: (N, D) features of the other view.

    Returns:
        (N,) from 0 (equal) to 4; the mean is the paper's alignment loss.

    Raises:
        InputError: If features are not finite, or shapes do not match.
    """
    one, other = _pair(first, second)
    return (F.normalize(one) - F.normalize(other)).square().sum(1).cpu().numpy()


def forgetting(dense: ArrayLike | Tensor, sparse: ArrayLike | Tensor) -> NDArray[np.float32]:
    """Change of an image's features by pruning: 1 minus their cosine similarity (Jiang et al., ICML 2021, section 4.7).

    Args:
        dense: (N, D) features of the encoder.
        sparse: (N, D) features of its pruned twin.

    Returns:
        (N,) from 0 to 2.

    Raises:
        InputError: If features are not finite, or shapes do not match.
    """
    one, other = _pair(dense, sparse)
    return (1 - F.cosine_similarity(one, other)).clamp_(min=0).cpu().numpy()


def hubness(indices: ArrayLike | Tensor, count: int) -> float:
    """Skewness of the number of images that have a given image among their k nearest neighbors.

    Radovanović et al., *Hubs in Space*, JMLR 2010, eq. 1.

    Args:
        indices: (N, k) neighbors of each image.
        count: Number of possible neighbors.

    Returns:
        0 if all images occur equally often; large if a few images are neighbors of most others.
    """
    from scipy.stats import skew

    named = np.bincount(np.asarray(indices).ravel(), minlength=count)
    return float(skew(named)) if named.std() > 0 else 0.0


def intrinsic_dimension(distances: ArrayLike | Tensor) -> float:
    """Intrinsic dimension of the features, from the two nearest neighbors of each image.

    The maximum-likelihood form of Facco et al., *Estimating the intrinsic dimension of datasets by a minimal
    neighborhood information*, Scientific Reports 2017: the dimension is the inverse of the mean log d2 / d1.
    Images that coincide with their neighbor are left out.

    Args:
        distances: (N, k) Euclidean distances to the nearest neighbors, nearest first, k at least 2.

    Returns:
        The dimension; nan if it cannot be estimated.
    """
    known = np.asarray(distances, dtype=np.float64)
    known = known[known[:, 0] > 0]
    total = np.log(known[:, 1] / known[:, 0]).sum()
    return float(len(known) / total) if total > 0 else math.nan


def size_correlation(labels: NDArray[np.int64], values: ArrayLike) -> float:
    """Spearman's correlation between the size of a cluster and the mean of a quantity over its images.

    Args:
        labels: (N,) cluster of each image.
        values: (N,) the quantity.

    Returns:
        From -1 to 1; above 0 if the quantity is larger in large clusters. nan if sizes or means do not vary.
    """
    from scipy.stats import spearmanr

    known = np.asarray(values, dtype=np.float64)
    sizes = np.bincount(labels)
    there = sizes > 0
    means = np.bincount(labels, weights=known)[there] / sizes[there]
    if len(means) < 2 or np.ptp(sizes[there]) == 0 or np.ptp(means) == 0:
        return math.nan
    return float(spearmanr(sizes[there], means).statistic)


def _sizes(sizes: ArrayLike) -> NDArray[np.float64]:
    known = np.asarray(sizes, dtype=np.float64)
    if known.ndim != 1 or not len(known) or (known < 0).any() or not known.sum() > 0:
        raise InputError(f"cluster sizes are {np.asarray(sizes).tolist()}: give numbers of images, not all 0")
    return known


def _pair(first: ArrayLike | Tensor, second: ArrayLike | Tensor) -> tuple[Tensor, Tensor]:
    one = checked_features(first, "first")
    other = checked_features(second, "second", width=one.shape[1]).to(one.device)
    if len(one) != len(other):
        raise InputError(f"{len(one)} and {len(other)} rows of features: give two of each image, in one order")
    return one, other


def _variances(features: ArrayLike | Tensor) -> Tensor:
    rows = F.normalize(checked_features(features, "features").double())
    rows = rows - rows.mean(0)
    variances: Tensor = torch.linalg.eigvalsh(rows.T @ rows / len(rows))
    return variances.clamp(min=0)


def _spread(values: Tensor) -> float:
    from scipy.stats import entropy

    shares = values.cpu().numpy()
    return math.exp(entropy(shares)) if shares.sum() > 0 else 1.0
