"""Two-branch losses with one value per sample."""

from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from sdclr.method.processes import world
from sdclr.method.tiled import log_sum_exp, tiling

Reduction = Literal["mean", "sum", "none"]


def nt_xent(
    a: Tensor,
    b: Tensor,
    temperature: float = 0.5,
    *,
    reduction: Reduction = "mean",
    focal: float = 0.0,
    decoupled: bool = False,
    tiled: bool | None = None,
    alone: bool = False,
) -> Tensor:
    """NT-Xent, the loss of SimCLR and SDCLR (Chen et al., ICML 2020, eq. 1; Jiang et al., ICML 2021, eq. 1-2).

    `-log( s(v,v⁺) / (s(v,v⁺) + Σ s(v,v⁻)) )` with `s(v,v') = exp(cos(v,v') / τ)`. Every output of both branches is an
    anchor once: 2N anchors with 2N - 2 negatives each. A sample's loss is the mean over its two anchors.

    With an initialized process group each process passes its own samples, and the samples of all processes are
    candidates: rows are gathered with gradient, N counts all of them, and the result covers the local samples.

    Args:
        a: Outputs of one branch, `(N, D)`, not yet normalized. Half precision is raised to float32.
        b: Outputs of the other branch for the same samples in the same order, `(N, D)`.
        temperature: τ > 0.
        reduction: `"none"` for one loss per sample, `(N,)`; `"mean"` or `"sum"` of these.
        focal: γ >= 0 of the focal loss: each anchor's loss `-log p` becomes `(1 - p)^γ · -log p`. See `focal_loss`.
        decoupled: Leave the positive out of the denominator, `-log( s(v,v⁺) / Σ s(v,v⁻) )`: DCL (Yeh et al., ECCV 2022,
            eq. 5). It works on the whole matrix of logits and may be negative.
        tiled: Whether to compute in tiles of the matrix of logits, so that memory grows with N and not with N². Both
            variants give the same loss; the tiled one can be differentiated only once. By default tiles are used from
            N = 256 on a CPU, where they become faster, and from N = 2,048 on a GPU, where the matrix exceeds one tile.
        alone: Use only the samples of this process; other processes need not take part.

    Returns:
        The loss in nats: `(N,)` for `"none"`, otherwise a scalar.

    Raises:
        ValueError: If shapes differ or are not `(N, D)`, τ is not positive, γ is negative or comes with `decoupled`,
            or the reduction is unknown.

    Examples:
        >>> a = torch.eye(4)  # four samples, orthogonal to each other
        >>> round(float(sdclr.nt_xent(a, a, temperature=0.5)), 4)
        0.5944
        >>> sdclr.nt_xent(a, a.flip(0), reduction="none").shape
        torch.Size([4])
    """
    if a.ndim != 2 or a.shape != b.shape:
        raise ValueError(
            f"both branches must give one (N, D) matrix of equal shape, not {tuple(a.shape)} and {tuple(b.shape)}"
        )
    if not temperature > 0:
        raise ValueError(f"the temperature must be positive, not {temperature!r}")
    if decoupled and focal:
        raise ValueError(
            "the focal loss needs a loss of the form -log p, which the decoupled loss is not: give one of them"
        )
    # Autocast would run the products below in half precision, whatever the type of their inputs.
    with torch.autocast(a.device.type, enabled=False):
        a, b = _normalized(a), _normalized(b)
        anchors = torch.cat([a, b])  # (2n, D): of this process
        candidates, own = (
            (anchors, 0) if alone else gather(anchors)
        )  # (2N, D): of all processes; anchor i is candidate own + i
        if decoupled:
            tiled = False
        elif tiled is None:
            tiled = len(anchors) * len(candidates) >= tiling(a.device).worthwhile
        if tiled:
            positive = (a * b).sum(1) / temperature  # log s(v,v⁺), the same for both anchors
            loss = log_sum_exp(anchors, candidates, own, temperature).view(2, -1) - positive
        else:
            loss = _dense(anchors, candidates, own, temperature, decoupled=decoupled).view(2, -1)
        loss = focal_loss(loss, focal).mean(0)
    return _reduced(loss, reduction)


def focal_loss(loss: Tensor, gamma: float) -> Tensor:
    """`(1 - p)^γ · -log p` of losses `-log p >= 0` of any shape (Lin et al., ICCV 2017; Jiang et al., §4.8).

    Raises:
        ValueError: If γ is negative.
    """
    if gamma < 0:
        raise ValueError(f"the focal loss takes a gamma of 0 or more, not {gamma!r}")
    if gamma == 0:
        return loss
    # -expm1(-loss) is 1 - p without the cancellation of 1 - exp(-loss) for p near 1. Rounding may give a loss slightly
    # below 0, and at 0 the power has no finite slope for a gamma below 1.
    return (-torch.expm1(-loss)).clamp_min(torch.finfo(loss.dtype).tiny).pow(gamma) * loss


def _dense(anchors: Tensor, candidates: Tensor, own: int, temperature: float, *, decoupled: bool) -> Tensor:
    """Loss of each anchor, `(2n,)`, from the whole matrix of logits."""
    logits = (anchors / temperature) @ candidates.T  # (2n, 2N)
    itself = own + torch.arange(len(anchors), device=anchors.device)
    with torch.no_grad():  # the softmax of -inf and its gradient are zero, so autograd need not record this
        logits.scatter_(1, itself[:, None], -torch.inf)
    positive = itself.roll(len(anchors) // 2)
    if decoupled:
        negatives = logits.scatter(1, positive[:, None], -torch.inf)
        return negatives.logsumexp(1) - logits.gather(1, positive[:, None]).squeeze(1)
    return F.cross_entropy(logits, positive, reduction="none")


def _normalized(x: Tensor) -> Tensor:
    return F.normalize(x if x.dtype == torch.float64 else x.float(), dim=1)


def _reduced(loss: Tensor, reduction: Reduction) -> Tensor:
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    if reduction == "mean":
        return loss.mean()
    raise ValueError(f"unknown reduction {reduction!r}: choose one of mean, sum, none")


def gather(rows: Tensor) -> tuple[Tensor, int]:
    """Rows `(n, D)` of all processes in the order of ranks, and the position of this process's first row."""
    if world() == 1:
        return rows, 0
    gathered: Tensor = _Gather.apply(rows)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return gathered, dist.get_rank() * len(rows)


class _Gather(torch.autograd.Function):
    """All-gather whose backward pass sums the gradients of all processes for these rows.

    DistributedDataParallel then averages gradients over processes, so a step follows the mean loss of the global batch.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.n = len(rows)
        gathered = rows.new_empty(dist.get_world_size() * len(rows), rows.shape[1])
        dist.all_gather_into_tensor(gathered, rows.contiguous())
        return gathered

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        gradient = grads[0].contiguous()
        own = gradient.new_empty(ctx.n, gradient.shape[1])
        dist.reduce_scatter_tensor(own, gradient)
        return own
