"""Barlow Twins (Zbontar et al., ICML 2021): equal features in both views, without redundancy between features."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sdclr.method.frameworks.config import BarlowTwinsConfig
from sdclr.method.losses import gather


class BarlowTwins(nn.Module):
    """`Σ_i (1 - C_ii)² + λ Σ_i Σ_{j≠i} C_ij²` (eq. 1-2), C the correlations between the outputs of `a` and `b`.

    The loss is computed over the batch and does not decompose over samples: every sample gets the same loss.

    Args:
        config: Weights of the loss.
    """

    per_sample = False

    def __init__(self, *, config: BarlowTwinsConfig | None = None) -> None:
        super().__init__()
        self.config = config or BarlowTwinsConfig()

    def forward(
        self, a: Callable[[Tensor], Tensor], b: Callable[[Tensor], Tensor], view1: Tensor, view2: Tensor
    ) -> Tensor:
        """The batch's loss, repeated for each sample, `(N,)`, from two views `(N, 3, H, W)` of the same N images."""
        z1, z2 = a(view1), b(view2)
        with torch.autocast(z1.device.type, enabled=False):
            first, second = (standardized(gather(z.float())[0]) for z in (z1, z2))
            correlation = first.T @ second / len(first)
            diagonal = correlation.diagonal()
            off = correlation.square().sum() - diagonal.square().sum()
            loss = self.config.scale * ((1 - diagonal).square().sum() + self.config.off_diagonal * off)
        return loss.expand(len(z1))


def standardized(z: Tensor) -> Tensor:
    """Columns with mean 0 and variance 1 over the batch."""
    variance, mean = torch.var_mean(z, dim=0, correction=0)
    return (z - mean) / (variance + 1e-5).sqrt()
