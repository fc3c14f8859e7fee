"""Which weights a network loses: keep-masks by magnitude, or at random, and how sparse each layer becomes.

A mask is boolean, of its weight's shape; True means kept.
"""

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Literal, get_args

import torch
from torch import Tensor

Scope = Literal["global", "layer"]


def pruned_count(ratio: float, total: int) -> int:
    """Number of weights that go: `ceil(ratio · total)`, on the decimal that the ratio was written as.

    In binary floating point 0.1 · 30 is a little more than 3, and its ceiling is 4; here it is 3.

    Raises:
        ValueError: If `ratio` is not in [0, 1).
    """
    if not 0 <= ratio < 1:
        raise ValueError(
            f"a pruning ratio lies in [0, 1), not {ratio!r}: 0 keeps every weight, 0.9 removes nine in ten"
        )
    return math.ceil(Fraction(repr(float(ratio))) * total)


def magnitude_masks(weights: Mapping[str, Tensor], ratio: float, *, scope: Scope = "global") -> dict[str, Tensor]:
    """Keep-masks that remove the smallest weights by magnitude (Jiang et al., ICML 2021, §3.2).

    Exactly `ceil(ratio · N)` weights go, N counted over all weights (`scope="global"`, the paper's single threshold)
    or over each weight by itself (`scope="layer"`). Among equal magnitudes the earlier goes first, in the order of
    the mapping and then of the flattened weight, so equal weights give equal masks on every process.

    Args:
        weights: Weights by name, of any shape and floating type, all on one device. They are only read.
        ratio: Share of weights to remove, in [0, 1).
        scope: One threshold over everything, or one for each weight.

    Returns:
        For every name a boolean mask of the weight's shape on its device; True means kept.

    Raises:
        ValueError: If `weights` is empty, `ratio` is outside [0, 1) or `scope` is unknown.
    """
    return _keep_largest({name: weight.detach() for name, weight in weights.items()}, ratio, scope)


def random_masks(
    weights: Mapping[str, Tensor], ratio: float, *, generator: torch.Generator, scope: Scope = "global"
) -> dict[str, Tensor]:
    """Keep-masks that remove weights at random, as many as `magnitude_masks` would: its control.

    Args:
        weights: As for `magnitude_masks`; only shapes and device matter.
        ratio: Share of weights to remove, in [0, 1).
        generator: A CPU generator of this call's own. Seeded alike it gives equal masks on every process and device;
            the global random state is neither read nor advanced.
        scope: As for `magnitude_masks`.

    Returns:
        As `magnitude_masks`.

    Raises:
        ValueError: As `magnitude_masks`.
    """
    scores = {name: torch.rand(weight.shape, generator=generator).to(weight.device) for name, weight in weights.items()}
    return _keep_largest(scores, ratio, scope)


def layer_sparsity(masks: Mapping[str, Tensor]) -> dict[str, float]:
    """Share of removed weights in each layer, in [0, 1] (what the paper's Fig. 6 plots)."""
    return {name: 1.0 - mask.sum().item() / mask.numel() for name, mask in masks.items()}


def _keep_largest(scores: dict[str, Tensor], ratio: float, scope: Scope) -> dict[str, Tensor]:
    if not scores:
        raise ValueError("there is nothing to prune: no weights were given")
    if scope not in get_args(Scope):
        raise ValueError(f"unknown scope {scope!r}: choose one of {', '.join(get_args(Scope))}")
    if scope == "layer":
        return {name: _keep_mask(score.flatten().abs(), ratio).view_as(score) for name, score in scores.items()}
    flat = torch.cat(
        [score.flatten() for score in scores.values()]
    ).abs_()  # `cat` copied: the weights stay as they are
    kept = torch.split(_keep_mask(flat, ratio), [score.numel() for score in scores.values()])
    return {name: mask.view_as(score) for mask, (name, score) in zip(kept, scores.items(), strict=True)}


def _keep_mask(magnitude: Tensor, ratio: float) -> Tensor:
    """Remove exactly the smallest `pruned_count` entries of a flat tensor, earlier ones first among equals."""
    count = pruned_count(ratio, magnitude.numel())
    if count == 0:
        return torch.ones_like(magnitude, dtype=torch.bool)
    # Selection, not a sort: linear time, and the threshold never leaves the device.
    threshold = magnitude.kthvalue(count).values
    keep = magnitude > threshold
    surplus = magnitude.numel() - count - int(keep.sum())  # entries equal to the threshold that must stay
    if surplus:
        keep[(magnitude == threshold).nonzero().flatten()[-surplus:]] = True
    return keep
