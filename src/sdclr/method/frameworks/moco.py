"""MoCo v2 (He et al., CVPR 2020; Chen et al., 2020): a queue of keys from a momentum network as negatives."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdclr.method.frameworks.config import MoCoConfig
from sdclr.method.losses import focal_loss, gather
from sdclr.method.momentum import MomentumNetwork


class MoCo(nn.Module):
    """Contrast queries of two branches with keys of a momentum network. Negatives come from a queue.

    `-log( exp(q·k⁺/τ) / (exp(q·k⁺/τ) + Σ exp(q·k⁻/τ)) )`, k⁻ over the queue (He et al., eq. 1), outputs normalized.
    Each view is a query once, so that both branches are trained: `MoCo(network)(network, network, …)` is MoCo with the
    symmetric loss, `MoCo(network)(network, competitor, …)` its self-damaging form. With `symmetric=False` only the
    first view is a query, as first published, and there is no second branch to damage.

    The queue is filled in training mode only, with the keys of all processes. Batches are not shuffled among processes;
    use synchronized batch normalization instead.

    Args:
        network: Encoder and projection head, from which the momentum network starts.
        dim: Dimension of its outputs.
        temperature: τ.
        config: Queue (of K keys) and momentum (m).
        focal: γ of the focal loss, 0 for none.

    Raises:
        ValueError: If τ or K is not positive, or m is outside [0, 1].

    Example:
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> moco, twin = sdclr.MoCo(network, dim=4), sdclr.SelfCompetitor(network, ratio=0.5)
        >>> view1, view2 = torch.rand(2, 8, 3, 4, 4)
        >>> moco(network, twin, view1, view2).shape
        torch.Size([8])
    """

    keys: Tensor
    position: Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        dim: int,
        temperature: float = 0.2,
        config: MoCoConfig | None = None,
        focal: float = 0.0,
    ) -> None:
        super().__init__()
        config = config or MoCoConfig()
        if not temperature > 0 or config.queue < 1:
            raise ValueError(f"temperature and queue must be positive, not {temperature!r} and {config.queue!r}")
        self.temperature, self.symmetric, self.focal = temperature, config.symmetric, focal
        self.target = MomentumNetwork(network, config.momentum)
        self.register_buffer("keys", F.normalize(torch.randn(config.queue, dim), dim=1))
        self.register_buffer("position", torch.zeros((), dtype=torch.long))

    def forward(
        self, a: Callable[[Tensor], Tensor], b: Callable[[Tensor], Tensor], view1: Tensor, view2: Tensor
    ) -> Tensor:
        """Loss of each sample, `(N,)`, from two views `(N, 3, H, W)` of the same N images.

        Raises:
            ValueError: If the loss has only one direction, but the second branch differs from the first.
        """
        key2 = self._key(view2)
        negatives = self.keys.clone()  # the queue changes in place before the backward pass reads it
        if not self.symmetric:
            if b is not a:
                raise ValueError("a second branch takes part in the symmetric loss only: leave symmetric=True")
            loss = self._contrast(a(view1), key2, negatives)
            self._enqueue(key2)
            return loss
        key1 = self._key(view1)
        loss = (self._contrast(a(view1), key2, negatives) + self._contrast(b(view2), key1, negatives)) / 2
        self._enqueue(key1)
        self._enqueue(key2)
        return loss

    def after_step(self, network: nn.Module, progress: float) -> None:  # noqa: ARG002  # the momentum is constant
        """Update the momentum network after a step of the optimizer."""
        self.target.follow(network)

    def _key(self, view: Tensor) -> Tensor:
        key: Tensor = F.normalize(self.target(view).float(), dim=1)
        return key

    def _contrast(self, query: Tensor, key: Tensor, negatives: Tensor) -> Tensor:
        with torch.autocast(query.device.type, enabled=False):  # it would use half precision for the products below
            query = F.normalize(query.float(), dim=1)
            positive = (query * key).sum(1, keepdim=True)
            logits = torch.cat([positive, query @ negatives.T], dim=1) / self.temperature
            loss = logits.logsumexp(1) - logits[:, 0]
        return focal_loss(loss, self.focal)

    @torch.no_grad()
    def _enqueue(self, keys: Tensor) -> None:
        """Replace the oldest keys by those of all processes."""
        if not self.training:
            return
        keys, _ = gather(keys)
        size = len(self.keys)
        keys = keys[-size:]
        places = (self.position + torch.arange(len(keys), device=keys.device)) % size
        self.keys[places] = keys
        self.position.copy_((self.position + len(keys)) % size)
