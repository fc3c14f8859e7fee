"""SimSiam (Chen and He, CVPR 2021): predict the other view's projection, whose gradient is stopped."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sdclr.method.frameworks.byol import cosine
from sdclr.method.frameworks.config import SimSiamConfig
from sdclr.method.predictor import Predictor


class SimSiam(nn.Module):
    """`-½ cos(p(a(view1)), sg(z2)) - ½ cos(p(b(view2)), sg(z1))`, where sg stops the gradient (eq. 2).

    z1 and z2 are the dense branch's projections of the views. If `b` is a damaged twin, z2 needs a separate pass
    without gradient.

    Args:
        dim: Dimension of the network's outputs.
        config: The predictor.
        damaged: Whether the second branch is a damaged twin, with separate normalization in the predictor.
    """

    def __init__(self, *, dim: int, config: SimSiamConfig | None = None, damaged: bool = False) -> None:
        super().__init__()
        self.predictor = Predictor(dim, (config or SimSiamConfig()).hidden, twin=damaged)

    def forward(
        self, a: Callable[[Tensor], Tensor], b: Callable[[Tensor], Tensor], view1: Tensor, view2: Tensor
    ) -> Tensor:
        """Loss of each sample, `(N,)`, from two views `(N, 3, H, W)` of the same N images."""
        z1, z2 = a(view1), b(view2)
        target1, target2 = z1.detach(), z2.detach()
        if b is not a:
            with torch.no_grad():
                target2 = a(view2)
        predicted2, predicted1 = self.predictor(z1), self.predictor(z2, twin=b is not a)
        return -(cosine(predicted2, target2) + cosine(predicted1, target1)) / 2
