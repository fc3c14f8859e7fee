"""VICReg (Bardes et al., ICLR 2022): invariance to the view, with variance and covariance terms over the batch."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sdclr.method.frameworks.config import VICRegConfig
from sdclr.method.losses import gather


class VICReg(nn.Module):
    """`λ s(Z, Z') + μ (v(Z) + v(Z')) + ν (c(Z) + c(Z'))` (eq. 6), Z the outputs of `a` and Z' those of `b`.

    s, the invariance, is a mean over samples. Variance and covariance are computed over the batch, so the loss does not
    decompose over samples: each sample gets its own invariance and an equal share of the other terms.

    Args:
        config: Weights of the loss.
    """

    per_sample = False

    def __init__(self, *, config: VICRegConfig | None = None) -> None:
        super().__init__()
        self.config = config or VICRegConfig()

    def forward(
        self, a: Callable[[Tensor], Tensor], b: Callable[[Tensor], Tensor], view1: Tensor, view2: Tensor
    ) -> Tensor:
        """Loss of each sample, `(N,)`, from two views `(N, 3, H, W)` of the same N images."""
        z1, z2, config = a(view1), b(view2), self.config
        with torch.autocast(z1.device.type, enabled=False):
            z1, z2 = z1.float(), z2.float()
            invariance = (z1 - z2).square().mean(1)
            batch = torch.zeros((), device=z1.device)
            for z in (gather(z1)[0], gather(z2)[0]):
                batch = batch + config.variance * lacking_variance(z) + config.covariance * shared_covariance(z)
        return config.scale * (config.invariance * invariance + batch)


def lacking_variance(z: Tensor) -> Tensor:
    """`1/D Σ_j max(0, 1 - √(Var(z_j) + ε))` (eq. 1-2), variances with n - 1, ε = 1e-4."""
    return (1 - (z.var(dim=0) + 1e-4).sqrt()).relu().mean()


def shared_covariance(z: Tensor) -> Tensor:
    """`1/D Σ_i Σ_{j≠i} C_ij²`, C the covariance matrix with n - 1 (eq. 3-4)."""
    centered = z - z.mean(dim=0)
    covariance = centered.T @ centered / (len(z) - 1)
    return (covariance.square().sum() - covariance.diagonal().square().sum()) / z.shape[1]
