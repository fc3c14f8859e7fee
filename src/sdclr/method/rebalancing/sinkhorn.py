"""Entropic optimal transport of samples to clusters, by Sinkhorn's iteration."""

import math

import torch
from torch import Tensor

# With scores in [-1, 1] and 1/ε up to this value, all numbers of the iteration stay within exp(±80), the range of
# float32. The logarithms of a fixed point of the samples' scaling span at most 40, like the kernel, so the start is
# within 20 of one. Iterations do not increase this distance, so the scaling stays within 40 of its start. Two further
# products add 20 each.
_LARGEST_BARE_SCORE = 20.0


def sinkhorn(scores: Tensor, prior: Tensor, *, epsilon: float = 0.05, iterations: int = 300) -> Tensor:
    """Assign samples to clusters of given sizes, so that the scores are high.

    Maximizes `Σ Q s + ε H(Q)` over Q >= 0 with `Σ_k Q_ik = 1/N` and `Σ_i Q_ik = π_k` (Cuturi, NeurIPS 2013). The
    sums of samples are exact; those of clusters approach π with the iterations.

    Args:
        scores: `(…, N, K)` in [-1, 1], such as cosines.
        prior: π, `(K,)`, a distribution. A cluster of size 0 stays empty.
        epsilon: ε > 0; for small values each sample is assigned to nearly one cluster.
        iterations: Updates of both scalings, 1 or more.

    Returns:
        `N · Q`, `(…, N, K)`: a distribution over clusters for each sample, without gradient.
    """
    with torch.no_grad(), torch.autocast(scores.device.type, enabled=False):
        scores = scores if scores.dtype == torch.float64 else scores.float()
        shares: Tensor = _shares(scores.contiguous(), prior.to(scores), epsilon, iterations)
    return shares


# A custom operator, so that `torch.compile` does not unroll its hundreds of iterations.
@torch.library.custom_op("sdclr::sinkhorn", mutates_args=())
def _shares(scores: Tensor, prior: Tensor, epsilon: float, iterations: int) -> Tensor:
    iterate = _by_scaling if 1 / epsilon <= _LARGEST_BARE_SCORE else _by_logarithms
    return iterate(scores / epsilon, prior, iterations)


@_shares.register_fake
def _like_scores(scores: Tensor, _prior: Tensor, _epsilon: float, _iterations: int) -> Tensor:
    return torch.empty_like(scores)


def _by_scaling(scores: Tensor, prior: Tensor, iterations: int) -> Tensor:
    """Scale rows and columns of `exp(scores)`, with two matrix-vector products per iteration."""
    kernel, count = scores.exp(), scores.shape[-2]
    of_samples = torch.full_like(kernel[..., :1], 1 / count)
    of_clusters = torch.zeros_like(kernel[..., 0, :, None])
    for _ in range(iterations):
        of_clusters = prior[:, None] / (kernel.mT @ of_samples)
        of_samples = 1 / count / (kernel @ of_clusters)
    return kernel.mul_(of_samples).mul_(of_clusters.mT).mul_(count)


def _by_logarithms(scores: Tensor, prior: Tensor, iterations: int) -> Tensor:
    """The same with logarithms of the scalings, for scores whose exponential leaves the range of float32."""
    start = -math.log(scores.shape[-2])
    of_samples = torch.full_like(scores[..., :1], start)
    of_clusters = torch.zeros_like(scores[..., :1, :])
    for _ in range(iterations):
        of_clusters = prior.log() - (scores + of_samples).logsumexp(-2, keepdim=True)
        of_samples = start - (scores + of_clusters).logsumexp(-1, keepdim=True)
    return (scores + of_clusters).softmax(-1)  # equals the last update of the samples without rounding
