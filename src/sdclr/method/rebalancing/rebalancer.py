"""What every label-free rebalancer is: something that a framework does not know of and that turns it to rare images."""

import torch
import torch.distributed as dist
from torch import Tensor, nn

Outputs = tuple[Tensor, Tensor]


class Rebalancer(nn.Module):
    """Takes part in a run in the ways that it overrides; by default it does nothing.

    What it knows of each sample lies in buffers `(N, …)` over the whole set, alike on all processes: they are saved
    with the weights, and a run may go on with another number of processes.
    """

    def enter_epoch(self, epoch: int) -> None:
        """Called whenever training enters an epoch (from 0), also one that it goes on with in the middle."""

    def begin_epoch(self, epoch: int) -> None:
        """Called before the first step of an epoch alone, after `enter_epoch`: the time to settle what holds in it."""

    @property
    def temperature(self) -> float | None:
        """The contrast's temperature from now on; None to leave it."""
        return None

    @property
    def strength(self) -> Tensor | None:
        """How strongly each sample's views are changed beyond the usual, `(N,)` in [0, 1]; None for not at all."""
        return None

    @property
    def sampling(self) -> Tensor | None:
        """How often each sample is to come, `(N,)` up to a factor; None for all alike."""
        return None

    def forward(self, losses: Tensor, outputs: Outputs, samples: Tensor) -> Tensor:  # noqa: ARG002  # for others
        """The losses to train on, seeing what both branches gave.

        Args:
            losses: `(n,)` of this process's samples, from the framework and the rebalancers before.
            outputs: `(n, D)` of the dense branch for view 1, and of the other branch for view 2.
            samples: `(n,)` int64, which samples of the set these are. One may come twice.

        Returns:
            `(n,)` losses.
        """
        return losses


@torch.no_grad()
def of_all(rows: Tensor) -> Tensor:
    """Rows `(n, …)` of all processes in the order of ranks, without gradient."""
    rows = rows.detach().contiguous()
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return rows
    gathered = rows.new_empty(dist.get_world_size() * len(rows), *rows.shape[1:])
    dist.all_gather_into_tensor(gathered, rows)
    return gathered


@torch.no_grad()
def mean_by_sample(samples: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """The samples in order, `(n,)`, and the mean of each one's values, `(n, …)`: one that comes twice has it twice.

    So `state[samples] = …` writes the same whichever is written last, and nothing waits for a device.
    """
    ordered, order = samples.sort(stable=True)
    group = (ordered != ordered.roll(1)).cumsum(0).clamp_min(1) - 1  # samples that are all one make one group
    total = torch.zeros_like(values).index_add_(0, group, values[order])
    count = values.new_zeros(len(values)).index_add_(0, group, values.new_ones(len(values)))
    return ordered, total[group] / count[group].view(-1, *[1] * (values.ndim - 1))
