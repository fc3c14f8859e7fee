"""Two-branch losses, one value a sample. Nothing here normalises, augments or logs."""

from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

Reduction = Literal["mean", "sum", "none"]


def nt_xent(a: Tensor, b: Tensor, temperature: float = 0.5, *, reduction: Reduction = "mean") -> Tensor:
    """NT-Xent, the loss of SimCLR and SDCLR (Chen et al., ICML 2020, eq. 1; Jiang et al., ICML 2021, eq. 1-2).

    `-log( s(v,v⁺) / (s(v,v⁺) + Σ s(v,v⁻)) )` with `s(v,v') = exp(cos(v,v') / τ)`. Every output of both branches is an
    anchor once: 2N anchors with 2N - 2 negatives each. A sample's loss is the mean over its two anchors.

    Under an initialised process group each process gives its own samples and all of them are candidates: rows are
    gathered with gradient, N counts the samples of all processes, and the result covers the local ones.

    Args:
        a: Outputs of one branch, `(N, D)`, not yet normalised. Half precision is raised to float32.
        b: Outputs of the other branch for the same samples in the same order, `(N, D)`.
        temperature: τ > 0.
        reduction: `"none"` for one loss a sample, `(N,)`; `"mean"` or `"sum"` of these.

    Returns:
        The loss in nats: `(N,)` for `"none"`, else a scalar.

    Raises:
        ValueError: If shapes differ or are not `(N, D)`, τ is not positive, or the reduction is unknown.
    """
    if a.ndim != 2 or a.shape != b.shape:
        raise ValueError(
            f"both branches must give one (N, D) matrix of equal shape, not {tuple(a.shape)} and {tuple(b.shape)}"
        )
    if not temperature > 0:
        raise ValueError(f"the temperature must be positive, not {temperature!r}")
    # Autocast would run the products below in half precision, whatever the type of their inputs.
    with torch.autocast(a.device.type, enabled=False):
        anchors = torch.stack([_normalised(a), _normalised(b)])  # (2, n, D): this process's
        candidates, rank = _gather(anchors)  # (2, N, D): everyone's
        n, total = anchors.shape[1], candidates.shape[1]
        logits = anchors.flatten(0, 1) @ candidates.flatten(0, 1).T / temperature  # (2n, 2N)
        own = torch.arange(n, device=a.device) + rank * n
        itself = torch.cat([own, own + total])
        positive = torch.cat([own + total, own])
        logits = logits.scatter(1, itself[:, None], float("-inf"))
        loss = F.cross_entropy(logits, positive, reduction="none").view(2, n).mean(0)
    return _reduced(loss, reduction)


def _normalised(x: Tensor) -> Tensor:
    return F.normalize(x if x.dtype == torch.float64 else x.float(), dim=1)


def _reduced(loss: Tensor, reduction: Reduction) -> Tensor:
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    if reduction == "mean":
        return loss.mean()
    raise ValueError(f"unknown reduction {reduction!r}: choose one of mean, sum, none")


def _gather(rows: Tensor) -> tuple[Tensor, int]:
    """Rows `(2, n, D)` of all processes, along dimension 1 in the order of ranks, and this process's rank."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return rows, 0
    gathered: Tensor = _Gather.apply(rows)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return gathered, dist.get_rank()


class _Gather(torch.autograd.Function):
    """All-gather whose backward sums over processes what each of them has to say about these rows.

    With gradients then averaged over processes, as DistributedDataParallel does, the step is that of the mean loss
    over the global batch.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.n = rows.shape[1]
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts, dim=1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        gradient = grads[0].contiguous()
        dist.all_reduce(gradient)
        start = dist.get_rank() * ctx.n
        return gradient[:, start : start + ctx.n]
