"""Log-sum-exp over all candidates in tiles: exact, in memory that grows with their number and not with its square.

The matrix of logits of NT-Xent has (2N)² entries, 16 GiB at N = 32,768. Here one tile of it lives at a time: the
forward pass sums it up, the backward pass computes it again. A tile stays in the processor's cache, which makes this
the faster way, too.

Each direction is an operator of its own, which `torch.compile` takes as it is: no graph break, and no loop unrolled.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Tiling(NamedTuple):
    """How a matrix of logits is cut on one kind of device."""

    height: int
    """Rows of a tile. Low, as the triangle of a symmetric matrix is followed in steps of it."""
    width: int
    """Columns of a tile."""
    worthwhile: int
    """Entries of the matrix from which tiles are taken by default."""


# Four megabytes of float32. Tiles of one megabyte gain 10 % on an idle core and lose far more on busy ones, as every
# operation on a tile is a meeting of all threads. Below 512 rows the whole matrix is as fast.
_ON_CPU = Tiling(height=256, width=4096, worthwhile=512 * 512)
# A GPU wants work for all its multiprocessors at once, and few launches: 64 MiB. One tile is no better than the whole.
_ON_GPU = Tiling(height=2048, width=8192, worthwhile=2048 * 8192)

# Logits of unit vectors lie within ±1/τ. Up to here neither exp(1/τ), summed over 10¹³ candidates, nor exp(-1/τ) leaves
# the range of float32, so no maximum is needed for an exact sum.
_LARGEST_BARE_LOGIT = 40.0


def tiling(device: torch.device) -> Tiling:
    """The tiling that suits a device."""
    return _ON_CPU if device.type == "cpu" else _ON_GPU


def log_sum_exp(
    anchors: Tensor, candidates: Tensor, own: int, temperature: float, *, tile: tuple[int, int] | None = None
) -> Tensor:
    """`log Σ exp(anchor · candidate / τ)` for each anchor, over all candidates but the anchor itself.

    Differentiable once, by anchors and candidates. If the candidates are the very tensor of the anchors, the matrix of
    logits is symmetric, and half its tiles do.

    Args:
        anchors: Unit vectors `(n, D)`, float32 or float64.
        candidates: Unit vectors `(N, D)` of the same type. Anchor `i` is candidate `own + i`.
        own: Where the anchors begin among the candidates.
        temperature: τ > 0.
        tile: Rows and columns of a tile; by default as suits the device.

    Returns:
        `(n,)`.
    """
    height, width = tile or tiling(anchors.device)[:2]
    result: Tensor
    if candidates is anchors and 1 / temperature <= _LARGEST_BARE_LOGIT:
        result = _among_themselves(anchors * temperature**-0.5, height, width)
    else:
        result = _among_candidates(anchors / temperature, candidates, own, height, width)
    return result


@torch.library.custom_op("sdclr::log_sum_exp_among_themselves", mutates_args=())
def _among_themselves(rows: Tensor, height: int, width: int) -> Tensor:
    sums = torch.zeros_like(rows[:, 0])
    for above, beside, tile in _upper_tiles(rows, height, width):
        sums[above] += tile.sum(1)
        if beside != above:
            sums[beside] += tile.sum(0)  # the tile below the diagonal is this one's transpose
    return sums.log_()


@torch.library.custom_op("sdclr::log_sum_exp_among_themselves_backward", mutates_args=())
def _among_themselves_backward(grad: Tensor, result: Tensor, rows: Tensor, *, height: int, width: int) -> Tensor:
    share = grad * torch.exp(-result)
    gradient = torch.zeros_like(rows)
    memory = _room(rows, rows, height, width)
    for above, beside, tile in _upper_tiles(rows, height, width):
        # Each logit has a share in the sums of its row and, as its own transpose, in that of its column.
        shares = memory[: tile.numel()].view_as(tile)
        tile.mul_(torch.add(share[above, None], share[beside], out=shares))
        gradient[above].addmm_(tile, rows[beside])
        if beside != above:
            gradient[beside].addmm_(tile.T, rows[above])
    return gradient


def _upper_tiles(rows: Tensor, height: int, width: int) -> Iterator[tuple[slice, slice, Tensor]]:
    """`exp(row · row')` on and above the diagonal, zero on it; a tile's memory is the next one's."""
    memory = _room(rows, rows, height, width)
    for above in _blocks(0, len(rows), height):
        yield above, above, _products(rows[above], rows[above], memory).exp_().fill_diagonal_(0)
        for beside in _blocks(above.stop, len(rows), width):
            yield above, beside, _products(rows[above], rows[beside], memory).exp_()


@torch.library.custom_op("sdclr::log_sum_exp_among_candidates", mutates_args=())
def _among_candidates(anchors: Tensor, candidates: Tensor, own: int, height: int, width: int) -> Tensor:
    memory = _room(anchors, candidates, height, width)
    result = torch.empty_like(anchors[:, 0])
    for rows in _blocks(0, len(anchors), height):
        # The sum so far, as a multiple of exp(peak). The lowest number instead of -inf, which would breed NaN.
        total = torch.zeros_like(result[rows])
        peak = torch.full_like(total, torch.finfo(total.dtype).min)
        for columns in _blocks(0, len(candidates), width):
            tile = _products(anchors[rows], candidates[columns], memory)
            tile.diagonal(own + rows.start - columns.start).fill_(-torch.inf)
            higher = torch.maximum(peak, tile.amax(1))
            total.mul_(peak.sub_(higher).exp_()).add_(tile.sub_(higher[:, None]).exp_().sum(1))
            peak = higher
        torch.add(peak, total.log_(), out=result[rows])
    return result


@torch.library.custom_op("sdclr::log_sum_exp_among_candidates_backward", mutates_args=())
def _among_candidates_backward(
    grad: Tensor, result: Tensor, anchors: Tensor, candidates: Tensor, *, own: int, height: int, width: int
) -> tuple[Tensor, Tensor]:
    weighted = anchors * grad[:, None]
    memory = _room(anchors, candidates, height, width)
    to_anchors, to_candidates = torch.zeros_like(anchors), torch.zeros_like(candidates)
    for rows in _blocks(0, len(anchors), height):
        for columns in _blocks(0, len(candidates), width):
            tile = _products(anchors[rows], candidates[columns], memory)
            tile.sub_(result[rows, None]).exp_()  # the softmax, at most 1
            tile.diagonal(own + rows.start - columns.start).zero_()
            to_anchors[rows].addmm_(tile, candidates[columns])
            to_candidates[columns].addmm_(tile.T, weighted[rows])
    return to_anchors.mul_(grad[:, None]), to_candidates


def _blocks(start: int, stop: int, length: int) -> list[slice]:
    return [slice(first, min(first + length, stop)) for first in range(start, stop, length)]


def _room(rows: Tensor, columns: Tensor, height: int, width: int) -> Tensor:
    """Memory for the largest tile, among them the square ones on the diagonal."""
    return rows.new_empty(min(height, len(rows)) * min(max(height, width), len(columns)))


def _products(rows: Tensor, columns: Tensor, memory: Tensor) -> Tensor:
    """Every row's product with every column's, in memory lent."""
    tile = memory[: len(rows) * len(columns)].view(len(rows), len(columns))
    return torch.mm(rows, columns.T, out=tile)


# How the operators' results look to compilers, and how the operators are differentiated.


@_among_themselves.register_fake
@_among_candidates.register_fake
def _one_a_row(rows: Tensor, *_: Any) -> Tensor:
    return rows.new_empty(rows.shape[0])


@_among_themselves_backward.register_fake
def _like_rows(_grad: Tensor, _result: Tensor, rows: Tensor, **_: int) -> Tensor:
    return torch.empty_like(rows)


@_among_candidates_backward.register_fake
def _like_both(_grad: Tensor, _result: Tensor, anchors: Tensor, candidates: Tensor, **_: int) -> tuple[Tensor, Tensor]:
    return torch.empty_like(anchors), torch.empty_like(candidates)


def _keep_themselves(ctx: Any, inputs: tuple[Tensor, int, int], output: Tensor) -> None:
    rows, ctx.height, ctx.width = inputs
    ctx.save_for_backward(output, rows)


def _differentiate_themselves(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    gradient = _among_themselves_backward(grad, *ctx.saved_tensors, height=ctx.height, width=ctx.width)
    return gradient, None, None


def _keep_candidates(ctx: Any, inputs: tuple[Tensor, Tensor, int, int, int], output: Tensor) -> None:
    anchors, candidates, ctx.own, ctx.height, ctx.width = inputs
    ctx.save_for_backward(output, anchors, candidates)


def _differentiate_candidates(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
    gradients = _among_candidates_backward(grad, *ctx.saved_tensors, own=ctx.own, height=ctx.height, width=ctx.width)
    return *gradients, None, None, None


_among_themselves.register_autograd(_differentiate_themselves, setup_context=_keep_themselves)
_among_candidates.register_autograd(_differentiate_candidates, setup_context=_keep_candidates)
