"""Framework, network and competitor as one module with one forward pass."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from sdclr.method.competitor import SelfCompetitor

Framework = Callable[[nn.Module, nn.Module, Tensor, Tensor], Tensor]


@runtime_checkable
class Follows(Protocol):
    """A framework with something that follows the network, such as a momentum network."""

    def after_step(self, network: nn.Module, progress: float) -> None:
        """Called after every step of the optimiser.

        Args:
            network: The dense network.
            progress: Share of the run's steps that are taken, in (0, 1].
        """
        ...


class Objective(nn.Module):
    """What is trained, as ONE module: `forward` runs both branches and returns the loss of each sample.

    DistributedDataParallel, `torch.compile` and autocast thus see an ordinary module. With a competitor the second
    view goes through the pruned twin (self-damaging); without one, through the network itself.

    Args:
        framework: `framework(a, b, view1, view2)` returning losses `(N,)`, such as `frameworks.SimCLR()`.
        network: Encoder and projection head.
        competitor: The network's pruned twin, or None.

    Raises:
        ValueError: If the competitor is not a twin of this very network.
    """

    def __init__(self, framework: Framework, network: nn.Module, competitor: SelfCompetitor | None = None) -> None:
        super().__init__()
        if competitor is not None and competitor.network is not network:
            raise ValueError("the competitor must be a twin of the same network object, or no weight is shared")
        self.framework = framework
        self.network = network
        self.competitor = competitor

    def forward(self, view1: Tensor, view2: Tensor) -> Tensor:
        """Losses `(N,)` of two views `(N, 3, H, W)` of the same N images."""
        return self.framework(self.network, self.competitor or self.network, view1, view2)

    def after_step(self, progress: float) -> None:
        """Let what follows the network follow it. Call it after every step of the optimiser.

        Args:
            progress: Share of the run's steps that are taken, in (0, 1].
        """
        if isinstance(self.framework, Follows):
            self.framework.after_step(self.network, progress)
