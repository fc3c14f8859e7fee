"""The base class of label-free rebalancers, which are independent of the framework."""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sdclr.method.processes import world

Outputs = tuple[Tensor, Tensor]


class Rebalancer(nn.Module):
    """Base class of rebalancers; override the methods that a rebalancer needs. By default it changes nothing.

    State per sample is in buffers `(N, …)` over the whole set, equal on all processes. Checkpoints store them, and a
    run can resume with another number of processes.
    """

    def enter_epoch(self, epoch: int) -> None:
        """Called whenever training enters an epoch (from 0), also when it resumes in the middle of one."""

    def begin_epoch(self, epoch: int) -> None:
        """Called only before the first step of an epoch, after `enter_epoch`, to prepare the epoch."""

    @property
    def temperature(self) -> float | None:
        """The temperature of the contrast from now on; None for no change."""
        return None

    @property
    def strength(self) -> Tensor | None:
        """Strength of additional augmentation of each sample, `(N,)` in [0, 1]; None for none."""
        return None

    @property
    def sampling(self) -> Tensor | None:
        """Sampling weight of each sample, `(N,)` up to a factor; None for uniform sampling."""
        return None

    def forward(self, losses: Tensor, outputs: Outputs, samples: Tensor) -> Tensor:  # noqa: ARG002  # for others
        """The losses to train on.

        Args:
            losses: `(n,)` losses of this process's samples, from the framework and the previous rebalancers.
            outputs: `(n, D)` outputs of the dense branch for view 1, and of the other branch for view 2.
            samples: `(n,)` int64, positions of the samples in the set. A sample may occur twice.

        Returns:
            `(n,)` losses.
        """
        return losses


@torch.no_grad()
def of_all(rows: Tensor) -> Tensor:
    """Rows `(n, …)` of all processes in the order of ranks, without gradient."""
    rows = rows.detach().contiguous()
    if world() == 1:
        return rows
    gathered = rows.new_empty(world() * len(rows), *rows.shape[1:])
    dist.all_gather_into_tensor(gathered, rows)
    return gathered


@torch.no_grad()
def mean_by_sample(samples: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """The sorted samples, `(n,)`, and the mean of each sample's values, `(n, …)`, repeated for repeated samples.

    `state[samples] = …` is then deterministic, without synchronization with a device.
    """
    ordered, order = samples.sort(stable=True)
    group = (ordered != ordered.roll(1)).cumsum(0).clamp_min(1) - 1  # clamped for the case that all are equal
    total = torch.zeros_like(values).index_add_(0, group, values[order])
    count = values.new_zeros(len(values)).index_add_(0, group, values.new_ones(len(values)))
    return ordered, total[group] / count[group].view(-1, *[1] * (values.ndim - 1))
