"""The momentum network, a moving average of another network: the target of MoCo, BYOL and similar frameworks."""

import copy
from typing import Any

import torch
from torch import nn


class MomentumNetwork(nn.Module):
    """The moving average of a network's weights, `θ' ← m · θ' + (1 - m) · θ` (He et al., CVPR 2020, eq. 2).

    It follows the *dense* weights, regardless of the damage of a branch. Its normalization statistics are separate and
    come from its own inputs. It has no gradient.

    Args:
        network: The network to follow; copied.
        momentum: m in [0, 1].

    Raises:
        ValueError: If m is outside [0, 1].
    """

    def __init__(self, network: nn.Module, momentum: float) -> None:
        super().__init__()
        if not 0 <= momentum <= 1:
            raise ValueError(f"the momentum of a moving average lies in [0, 1], not {momentum!r}")
        self.momentum = momentum
        self.network = copy.deepcopy(network).requires_grad_(False)

    @torch.no_grad()
    def follow(self, network: nn.Module) -> None:
        """Move towards the current weights of `network`."""
        own: list[torch.Tensor] = list(self.network.parameters())
        others: list[torch.Tensor] = list(network.parameters())
        torch._foreach_lerp_(own, others, 1 - self.momentum)  # as in torch's optimizers

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the followed copy, without gradient."""
        return self.network(*args, **kwargs)
