"""Exact log-sum-exp over all candidates in tiles, with memory linear in their number instead of quadratic.

The matrix of logits of NT-Xent has (2N)² entries, 16 GiB at N = 32,768. Here only one tile of it is in memory: the
forward pass sums it up, and the backward pass computes it again. A tile stays in the processor's cache, so this is also
faster.

The forward and the backward pass are custom operators, so `torch.compile` neither breaks the graph nor unrolls loops.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Tiling(NamedTuple):
    """Tile sizes for one type of device."""

    height: int
    """Rows of a tile. Low, because the triangle of a symmetric matrix is covered in steps of this height."""
    width: int
    """Columns of a tile."""
    worthwhile: int
    """Number of matrix entries from which tiles are used by default."""


# Four megabytes of float32. Tiles of one megabyte are 10 % faster on an idle core but much slower on busy ones, because
# every operation on a tile synchronizes all threads. Below 512 rows the whole matrix is as fast.
_ON_CPU = Tiling(height=256, width=4096, worthwhile=512 * 512)
# 64 MiB: a GPU needs work for all multiprocessors, and few kernel launches. A single tile has no advantage.
_ON_GPU = Tiling(height=2048, width=8192, worthwhile=2048 * 8192)

# Logits of unit vectors are within ±1/τ. Up to this value neither exp(1/τ), summed over 10¹³ candidates, nor exp(-1/τ)
# leaves the range of float32, so an exact sum needs no maximum.
_LARGEST_BARE_LOGIT = 40.0


def tiling(device: torch.device) -> Tiling:
    """The default tiling of a device."""
    return _ON_CPU if device.type == "cpu" else _ON_GPU


def log_sum_exp(
    anchors: Tensor, candidates: Tensor, own: int, temperature: float, *, tile: tuple[int, int] | None = None
) -> Tensor:
    """`log Σ exp(anchor · candidate / τ)` for each anchor, over all candidates except the anchor itself.

    Differentiable once, by anchors and candidates. If `candidates` is the same tensor object as `anchors`, the matrix
    of logits is symmetric, and half of its tiles are enough.

    Args:
        anchors: Unit vectors `(n, D)`, float32 or float64.
        candidates: Unit vectors `(N, D)` of the same type. Anchor `i` is candidate `own + i`.
        own: Position of the first anchor among the candidates.
        temperature: τ > 0.
        tile: Rows and columns of a tile; by default those of the device.

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
            sums[beside] += tile.sum(0)  # the tile below the diagonal is the transpose
    return sums.log_()


@torch.library.custom_op("sdclr::log_sum_exp_among_themselves_backward", mutates_args=())
def _among_themselves_backward(grad: Tensor, result: Tensor, rows: Tensor, *, height: int, width: int) -> Tensor:
    share = grad * torch.exp(-result)
    gradient = torch.zeros_like(rows)
    memory = _room(rows, rows, height, width)
    for above, beside, tile in _upper_tiles(rows, height, width):
        # Each logit is part of the sum of its row and, by symmetry, of the sum of its column.
        shares = memory[: tile.numel()].view_as(tile)
        tile.mul_(torch.add(share[above, None], share[beside], out=shares))
        gradient[above].addmm_(tile, rows[beside])
        if beside != above:
            gradient[beside].addmm_(tile.T, rows[above])
    return gradient


def _upper_tiles(rows: Tensor, height: int, width: int) -> Iterator[tuple[slice, slice, Tensor]]:
    """Tiles of `exp(row · row')` above the diagonal, with zeros on it. All tiles share the same memory."""
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
        # The sum so far, as a multiple of exp(peak). The peak starts at the lowest number, because -inf gives NaN.
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
    """Memory for the largest tile, including the square tiles on the diagonal."""
    return rows.new_empty(min(height, len(rows)) * min(max(height, width), len(columns)))


def _products(rows: Tensor, columns: Tensor, memory: Tensor) -> Tensor:
    """Dot products of all rows with all columns, written into `memory`."""
    tile = memory[: len(rows) * len(columns)].view(len(rows), len(columns))
    return torch.mm(rows, columns.T, out=tile)


# Shapes of the operators' results for compilers, and their gradients.


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
