"""Pruning masks by magnitude or at random, and the sparsity of each layer.

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
    """Number of weights to remove: `ceil(ratio · total)`, with the ratio as a decimal number.

    In binary floating point 0.1 · 30 is slightly more than 3, and its ceiling is 4; here it is 3.

    Raises:
        ValueError: If `ratio` is not in [0, 1).
    """
    if not 0 <= ratio < 1:
        raise ValueError(f"a pruning ratio must be in [0, 1), not {ratio!r}: 0 keeps every weight, 0.9 removes 90%")
    return math.ceil(Fraction(repr(float(ratio))) * total)


def magnitude_masks(weights: Mapping[str, Tensor], ratio: float, *, scope: Scope = "global") -> dict[str, Tensor]:
    """Keep-masks that remove the smallest weights by magnitude (Jiang et al., ICML 2021, §3.2).

    Exactly `ceil(ratio · N)` weights are removed, where N counts all weights (`scope="global"`, the paper's single
    threshold) or each weight separately (`scope="layer"`). Of equal magnitudes the earlier is removed first, in the
    order of the mapping and then of the flattened weight, so equal weights give equal masks on every process.

    Args:
        weights: Weights by name, of any shape and floating type, all on one device. They are not changed.
        ratio: Share of weights to remove, in [0, 1).
        scope: One threshold over all weights, or one for each weight.

    Returns:
        A boolean mask for every name, of the weight's shape and on its device; True means kept.

    Raises:
        ValueError: If `weights` is empty, `ratio` is outside [0, 1) or `scope` is unknown.
        TypeError: If `weights` is not a mapping.

    Examples:
        >>> weights = {"fc.weight": torch.tensor([[3.0, -0.1], [0.5, -2.0]])}
        >>> sdclr.magnitude_masks(weights, 0.5)
        {'fc.weight': tensor([[ True, False],
                              [False,  True]])}
    """
    if not isinstance(weights, Mapping):
        raise TypeError(
            f"weights is a {type(weights).__name__}, not a mapping of names to weights: give "
            "dict(network.named_parameters()), or only the layers to prune"
        )
    return _keep_largest({name: weight.detach() for name, weight in weights.items()}, ratio, scope)


def random_masks(
    weights: Mapping[str, Tensor], ratio: float, *, generator: torch.Generator, scope: Scope = "global"
) -> dict[str, Tensor]:
    """Keep-masks that remove as many weights as `magnitude_masks`, at random: its control.

    Args:
        weights: As for `magnitude_masks`; only shapes and device matter.
        ratio: Share of weights to remove, in [0, 1).
        generator: A CPU generator for this call. The same seed gives equal masks on every process and device; the
            global random state is neither read nor changed.
        scope: As for `magnitude_masks`.

    Returns:
        As `magnitude_masks`.

    Raises:
        ValueError: As `magnitude_masks`.

    Examples:
        >>> weights = {"fc.weight": torch.ones(4, 5)}
        >>> masks = sdclr.random_masks(weights, 0.9, generator=torch.Generator().manual_seed(0))
        >>> int(masks["fc.weight"].sum())  # two weights of twenty are kept
        2
    """
    scores = {name: torch.rand(weight.shape, generator=generator).to(weight.device) for name, weight in weights.items()}
    return _keep_largest(scores, ratio, scope)


def layer_sparsity(masks: Mapping[str, Tensor]) -> dict[str, float]:
    """Share of removed weights in each layer, in [0, 1] (as in the paper's Fig. 6).

    Args:
        masks: Keep-masks by the weight's name; True means kept.

    Returns:
        The share by the weight's name.

    Examples:
        >>> sdclr.layer_sparsity({"fc.weight": torch.tensor([True, False, False, False])})
        {'fc.weight': 0.75}
    """
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
    """Remove exactly the smallest `pruned_count` entries of a flat tensor. Of equal entries the earlier go first."""
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
