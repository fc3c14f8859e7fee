"""Losses and weights for classifiers on long-tailed images, one function for each formula.

`counts` is always the number of training images of each class, `(K,)`; n_j below is the entry of class j.
"""

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F

from sdclr.errors import InputError


def ldam_margins(counts: ArrayLike, largest: float = 0.5) -> Tensor:
    """Margins that grow with rarity: `C / n_j^(1/4)`, with C such that the largest is `largest`.

    Cao et al., *Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss* (NeurIPS 2019), eq. 11.

    Returns:
        (K,) float64.
    """
    margins = _checked(counts) ** -0.25
    return torch.from_numpy(margins * (largest / margins.max()))


def ldam_loss(
    logits: Tensor, labels: Tensor, margins: Tensor, scale: float = 30.0, weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy with a margin for the true class (Cao et al. 2019, eq. 12-13).

    With logits z = s cos of a normalized linear layer: `-log exp(z_y - s Δ_y) / (exp(z_y - s Δ_y) + Σ exp(z_j))`.

    Args:
        logits: (N, K), already scaled by s.
        labels: (N,) class ids.
        margins: (K,) Δ, in units of the cosine.
        scale: s.
        weights: (K,) weights of the classes; the loss is then the weighted mean.

    Returns:
        The mean over the images.
    """
    margins = margins.to(logits)
    own = F.one_hot(labels, logits.shape[1]).to(logits.dtype)
    weights = weights if weights is None else weights.to(logits)
    return F.cross_entropy(logits - scale * margins * own, labels, weight=weights)


def effective_weights(counts: ArrayLike, beta: float = 0.9999) -> Tensor:
    """Weights `(1 - β) / (1 - β^n_j)`, one over the effective number of images, scaled to a mean of 1 over the classes.

    Cui et al., *Class-Balanced Loss Based on Effective Number of Samples* (CVPR 2019), eq. 2 and section 4.1. Applied
    in the last part of a training only, they are the deferred re-weighting (DRW) of Cao et al. (2019).

    Returns:
        (K,) float64.
    """
    checked = _checked(counts)
    weights = np.ones_like(checked) if beta == 0 else (1 - beta) / -np.expm1(checked * np.log(beta))
    return torch.from_numpy(weights * (len(weights) / weights.sum()))


def balanced_softmax_loss(logits: Tensor, labels: Tensor, counts: ArrayLike) -> Tensor:
    """Cross-entropy of a softmax weighted by class frequency: `-log n_y exp(z_y) / Σ n_j exp(z_j)`.

    Ren et al., *Balanced Meta-Softmax for Long-Tailed Visual Recognition* (NeurIPS 2020), eq. 3-4. Tests use the plain
    logits.

    Args:
        logits: (N, K).
        labels: (N,) class ids.
        counts: (K,).

    Returns:
        The mean over the images.
    """
    prior = torch.from_numpy(np.log(_checked(counts))).to(logits)
    return F.cross_entropy(logits + prior, labels)


def class_temperatures(counts: ArrayLike, base: float = 1.0, growth: float = 0.05) -> Tensor:
    """A temperature for each class that grows with its frequency (RIDE: Wang et al., ICLR 2021, section 3).

    `T_k = α (β_k + 1 - max_j β_j)` with `β_k = γ n_k / mean_j n_j + (1 - γ)`: α for the most frequent class, and lower
    for rarer ones, whose logits therefore have more weight in the diversity of the experts.

    Args:
        counts: (K,).
        base: α.
        growth: γ; 0 gives all classes the temperature α.

    Returns:
        (K,) float64.

    Raises:
        InputError: If the imbalance is so large that a temperature would not be positive.
    """
    checked = _checked(counts)
    beta = growth * checked / checked.mean() + (1 - growth)
    temperatures = base * (beta + 1 - beta.max())
    if temperatures.min() <= 0:
        raise InputError(
            f"the rarest class would get the temperature {temperatures.min():.3g}: lower --temperature-growth, which "
            f"is {growth:g}, below {checked.mean() / (checked.max() - checked.min()):.3g}"
        )
    return torch.from_numpy(temperatures)


def diversity_loss(logits: Tensor, temperatures: Tensor) -> Tensor:
    """Negative divergence of the experts: lower is more diverse (RIDE: Wang et al., ICLR 2021, section 3).

    `-Σ_i KL(φ_m || φ_i)`, with `φ_i = softmax(z_i / T)` of expert i, constant `φ_m = softmax(mean_j z_j / T)` of all
    together, and temperatures T by class. An expert's gradient, `(φ_m - φ_i) / T`, is bounded like that of its
    cross-entropy. The paper uses pairs, `-1 / (n - 1) Σ_{j≠i} KL(φ_i || φ_j)`. With gradients through both sides that
    loss is unbounded and dominates LDAM's loss: on digits each single expert had an accuracy of 25 %, all three
    together 62 %, against 80 and 81 % with the mean.

    Args:
        logits: (E, N, K) of E experts.
        temperatures: (K,) T.

    Returns:
        The sum over the experts of the mean over the images.
    """
    temperatures = temperatures.to(logits)
    log_p = (logits / temperatures).log_softmax(dim=-1)
    log_mean = (logits.detach().mean(dim=0) / temperatures).log_softmax(dim=-1)
    divergences = (log_mean.exp() * (log_mean - log_p)).sum(dim=-1)  # (E, N)
    return -divergences.mean(dim=1).sum()


def tau_normalized(weight: Tensor, tau: float) -> Tensor:
    """Classifier weights `w_k / ||w_k||^τ`: 0 does not change them, 1 gives all classes the same norm.

    Kang et al., *Decoupling Representation and Classifier for Long-Tailed Recognition* (ICLR 2020), eq. 3.

    Args:
        weight: (K, D).
        tau: τ.

    Returns:
        (K, D).
    """
    scaled: Tensor = weight / weight.norm(dim=1, keepdim=True).pow(tau)
    return scaled


def _checked(counts: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(counts, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not (values > 0).all():
        raise InputError(
            f"there are {int((values <= 0).sum())} classes without a training image in {values.size}: leave them out"
        )
    return values
