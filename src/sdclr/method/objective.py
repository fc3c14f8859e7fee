"""Framework, network and competitor as one module with one forward pass."""

from collections.abc import Callable, Iterable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from sdclr.method.competitor import SelfCompetitor
from sdclr.method.rebalancing.rebalancer import Rebalancer

Branch = Callable[[Tensor], Tensor]
Framework = Callable[[Branch, Branch, Tensor, Tensor], Tensor]


@runtime_checkable
class Follows(Protocol):
    """A framework with a part that follows the network, such as a momentum network."""

    def after_step(self, network: nn.Module, progress: float) -> None:
        """Called after every step of the optimizer.

        Args:
            network: The dense network.
            progress: Share of the run's steps that are done, in (0, 1].
        """
        ...


class Objective(nn.Module):
    """The training objective as one module: `forward` runs both branches and returns the loss of each sample.

    DistributedDataParallel, `torch.compile` and autocast see an ordinary module. With a competitor the second view
    goes through the pruned twin (self-damaging); without one, through the network itself.

    Args:
        framework: `framework(a, b, view1, view2)` returning losses `(N,)`, such as `frameworks.SimCLR()`.
        network: Encoder and projection head.
        competitor: The network's pruned twin, or None.
        rebalancers: Rebalancers, in the order in which they process the losses.

    Raises:
        ValueError: If the competitor is not a twin of this very network.

    Example:
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> objective = sdclr.Objective(sdclr.SimCLR(), network, sdclr.SelfCompetitor(network, ratio=0.5))
        >>> view1, view2 = torch.rand(2, 8, 3, 4, 4)
        >>> losses = objective(view1, view2)
        >>> losses.mean().backward()
        >>> losses.shape
        torch.Size([8])
    """

    def __init__(
        self,
        framework: Framework,
        network: nn.Module,
        competitor: SelfCompetitor | None = None,
        rebalancers: Iterable[Rebalancer] = (),
    ) -> None:
        super().__init__()
        if competitor is not None and competitor.network is not network:
            raise ValueError("the competitor must be a twin of the same network object, or no weight is shared")
        self.framework = framework
        self.network = network
        self.competitor = competitor
        self.rebalancers = nn.ModuleList(rebalancers)

    def forward(self, view1: Tensor, view2: Tensor, samples: Tensor | None = None) -> Tensor:
        """Losses `(N,)` of two views `(N, 3, H, W)` of the same N images.

        Args:
            view1: Input of the network.
            view2: Input of the competitor.
            samples: `(N,)` int64, positions of the samples in the set, for the rebalancers. Without it they do not
                change the losses.
        """
        a, b = self.network, self.competitor or self.network
        if samples is None or not self.rebalancers:
            return self.framework(a, b, view1, view2)
        heard1 = _Heard(a)
        heard2 = heard1 if b is a else _Heard(b)  # frameworks check whether both branches are the same object
        losses = self.framework(heard1, heard2, view1, view2)
        for rebalancer in self.rebalancers:
            losses = rebalancer(losses, (heard1.outputs[0], heard2.outputs[-1]), samples)
        return losses

    def enter_epoch(self, epoch: int, *, begins: bool) -> None:
        """Prepare the rebalancers for an epoch. Call it before training starts or resumes in an epoch.

        Args:
            epoch: From 0.
            begins: Whether the epoch starts with its first step. False if training resumes within the epoch.
        """
        for rebalancer in self._rebalancers():
            rebalancer.enter_epoch(epoch)
            if begins:
                rebalancer.begin_epoch(epoch)
            if rebalancer.temperature is not None:
                setattr(self.framework, "temperature", rebalancer.temperature)  # noqa: B010  # not every framework has one

    @property
    def strength(self) -> Tensor | None:
        """Strength of the augmentation of each sample, `(N,)` in [0, 1]; None for none."""
        return next((each.strength for each in self._rebalancers() if each.strength is not None), None)

    @property
    def sampling(self) -> Tensor | None:
        """Sampling weight of each sample, `(N,)` up to a factor; None for uniform sampling."""
        asked = [each.sampling for each in self._rebalancers()]
        given = [weights for weights in asked if weights is not None]
        return torch.stack(given).prod(0) if given else None

    def _rebalancers(self) -> list[Rebalancer]:
        return [each for each in self.rebalancers if isinstance(each, Rebalancer)]

    def after_step(self, progress: float) -> None:
        """Update the parts that follow the network. Call it after every step of the optimizer.

        Args:
            progress: Share of the run's steps that are done, in (0, 1].
        """
        if isinstance(self.framework, Follows):
            self.framework.after_step(self.network, progress)


class _Heard:
    """A branch that records its outputs for the rebalancers, in the order of its calls."""

    def __init__(self, branch: Branch) -> None:
        self._branch = branch
        self.outputs: list[Tensor] = []

    def __call__(self, view: Tensor) -> Tensor:
        output = self._branch(view)
        self.outputs.append(output)
        return output
