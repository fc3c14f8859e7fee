"""MoCo v3 (Chen, Xie and He, ICCV 2021): negatives from the batch, a momentum network as target, and a predictor."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdclr.method.frameworks.byol import rising
from sdclr.method.frameworks.config import MoCoV3Config
from sdclr.method.losses import focal_loss, gather
from sdclr.method.momentum import MomentumNetwork
from sdclr.method.predictor import Predictor


class MoCoV3(nn.Module):
    """`ctr(q(a(view1)), t(view2)) + ctr(q(b(view2)), t(view1))` (Algorithm 1), t the momentum network.

    `ctr(q, k) = -2τ log( exp(q·k⁺/τ) / Σ exp(q·k/τ) )`, k over the keys of the batch, of all processes.

    Args:
        network: Encoder and projection head, from which the momentum network starts.
        dim: Dimension of its outputs.
        temperature: τ.
        config: Momentum and predictor.
        damaged: Whether the second branch is a damaged twin, with separate normalization in the predictor.
        focal: γ of the focal loss, 0 for none.

    Raises:
        ValueError: If τ is not positive or the momentum is outside [0, 1].
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        dim: int,
        temperature: float = 1.0,
        config: MoCoV3Config | None = None,
        damaged: bool = False,
        focal: float = 0.0,
    ) -> None:
        super().__init__()
        config = config or MoCoV3Config()
        if not temperature > 0:
            raise ValueError(f"the temperature must be positive, not {temperature!r}")
        self.temperature, self.momentum, self.focal = temperature, config.momentum, focal
        self.target = MomentumNetwork(network, config.momentum)
        self.predictor = Predictor(dim, config.hidden, twin=damaged)

    def forward(
        self, a: Callable[[Tensor], Tensor], b: Callable[[Tensor], Tensor], view1: Tensor, view2: Tensor
    ) -> Tensor:
        """Loss of each sample, `(N,)`, from two views `(N, 3, H, W)` of the same N images."""
        key1, key2 = self.target(view1), self.target(view2)
        query1, query2 = self.predictor(a(view1)), self.predictor(b(view2), twin=b is not a)
        return self._contrast(query1, key2) + self._contrast(query2, key1)

    def after_step(self, network: nn.Module, progress: float) -> None:
        """Update the momentum network, with a momentum that rises to 1."""
        self.target.momentum = rising(self.momentum, progress)
        self.target.follow(network)

    def _contrast(self, query: Tensor, key: Tensor) -> Tensor:
        with torch.autocast(query.device.type, enabled=False):
            keys, own = gather(F.normalize(key.float(), dim=1))
            logits = F.normalize(query.float(), dim=1) @ keys.T / self.temperature
            positive = own + torch.arange(len(query), device=query.device)
            loss = F.cross_entropy(logits, positive, reduction="none")
        return 2 * self.temperature * focal_loss(loss, self.focal)
