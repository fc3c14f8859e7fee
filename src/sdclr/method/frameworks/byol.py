"""BYOL (Grill et al., NeurIPS 2020): predict the output of a momentum network for the other view."""

import math
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from sdclr.method.frameworks.config import BYOLConfig
from sdclr.method.momentum import MomentumNetwork
from sdclr.method.predictor import Predictor


class BYOL(nn.Module):
    """`2 - 2 cos(q(a(view1)), t(view2))` plus the same with exchanged views, where view 2 runs through `b` (eq. 2).

    t is the momentum network, which follows the dense weights. There are no negatives.

    Args:
        network: Encoder and projection head, from which the momentum network starts.
        dim: Dimension of its outputs.
        config: Momentum and predictor.
        damaged: Whether the second branch is a damaged twin, with separate normalization in the predictor.
    """

    def __init__(
        self, network: nn.Module, *, dim: int, config: BYOLConfig | None = None, damaged: bool = False
    ) -> None:
        super().__init__()
        config = config or BYOLConfig()
        self.momentum = config.momentum
        self.target = MomentumNetwork(network, config.momentum)
        self.predictor = Predictor(dim, config.hidden, twin=damaged)

    def forward(
        self, a: Callable[[Tensor], Tensor], b: Callable[[Tensor], Tensor], view1: Tensor, view2: Tensor
    ) -> Tensor:
        """Loss of each sample, `(N,)`, from two views `(N, 3, H, W)` of the same N images."""
        target1, target2 = self.target(view1), self.target(view2)
        prediction1, prediction2 = self.predictor(a(view1)), self.predictor(b(view2), twin=b is not a)
        return 4 - 2 * (cosine(prediction1, target2) + cosine(prediction2, target1))

    def after_step(self, network: nn.Module, progress: float) -> None:
        """Update the momentum network, with a momentum that rises to 1 (section 3.2)."""
        self.target.momentum = rising(self.momentum, progress)
        self.target.follow(network)


def rising(momentum: float, progress: float) -> float:
    """A momentum that rises to 1 along a cosine: `1 - (1 - m) (cos(πk/K) + 1) / 2`, progress k/K in [0, 1]."""
    return 1 - (1 - momentum) * (math.cos(math.pi * progress) + 1) / 2


def cosine(x: Tensor, y: Tensor) -> Tensor:
    """Cosine similarity of rows, `(N,)`, in float32."""
    return F.cosine_similarity(x.float(), y.float())
