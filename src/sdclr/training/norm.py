"""Batch normalization of an encoder that starts from trained weights: its running statistics stay fixed.

Statistics that move to augmented views of a small collection cost a pretrained encoder more than training gains.
With fixed statistics each batch-norm layer of the encoder is an affine map, whose weight and bias are trained.

A pruned twin has weaker activations, so the network's statistics do not fit it. Statistics measured on the twin itself
do not fit either: they are those of the augmented views, and make the twin differ from the network even without
pruning. The statistics are therefore corrected for the effect of pruning: after each refresh of the masks, every layer
of the twin gets the statistics with which its output has the mean and variance of the network's output.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sdclr.encoders import Encoder
from sdclr.method import DropoutCompetitor, SelfCompetitor


def fix_statistics(module: nn.Module) -> int:
    """Keep the batch-norm layers of every encoder in a module in evaluation mode, even after `train()`.

    Weight and bias of these layers can still be trained. Projection heads and predictors do not change. Copies of the
    module are fixed, too. Call it after layers are replaced, for example by synchronized ones.

    Args:
        module: An `Encoder`, or a module that contains encoders: a network, or an objective with its momentum network.

    Returns:
        The number of layers.

    Examples:
        >>> import torch
        >>> from sdclr.encoders import EncoderConfig, create_encoder
        >>> encoder = create_encoder(EncoderConfig(width=4), 8)
        >>> fix_statistics(encoder)
        20
        >>> encoder.train().backbone.bn1.training
        False
    """
    encoders = [each for each in module.modules() if isinstance(each, Encoder)]
    layers = {layer for encoder in encoders for layer in _layers(encoder).values()}
    for layer in layers:
        vars(layer)["train"] = _Evaluating(layer)
        layer.eval()
    return len(layers)


@torch.no_grad()
def recalibrate(competitor: SelfCompetitor, batches: Iterable[Tensor]) -> list[Tensor]:
    """Correct a pruned twin's running statistics, so that its layers have the network's output means and variances.

    With the network's statistics μ and σ², and mean and variance of a layer's input, m and v in the network, m' and v'
    in the twin, these are `σ'² = σ² v'/v` and `μ' = m' - (m - μ) σ'/σ`, averaged over the batches. Layers are corrected
    in order, so the input of a layer of the twin comes from corrected layers. Without pruning the twin equals the
    network. The method follows Jordan et al., *REPAIR*, ICLR 2023, who correct interpolated networks.

    If the competitor has no separate statistics, nothing is done. The projection head's statistics and the modes of all
    layers do not change.

    Args:
        competitor: The pruned twin of a network with an `encoder`.
        batches: Images `(N, 3, H, W)`, on the network's device; all samples of a layer's input have equal weight.

    Returns:
        The corrected running means and variances, `(C,)` each: the competitor's own tensors.
    """
    encoder = competitor.network.get_submodule("encoder")
    layers = _layers(encoder)
    if not layers or not layers.keys() <= _with_statistics(competitor):
        return []
    settled: dict[str, list[_Moments]] = {name: [] for name in layers}
    fixed = {name: _statistics(layer) for name, layer in layers.items()}
    with _evaluating(layers):
        for batch in batches:
            seen = _seen(encoder, batch, layers)
            _correct(competitor, batch, layers, fixed=fixed, seen=seen, settled=settled)
    changed, own = [], competitor.normalization()
    for name, moments in settled.items():
        for end, values in zip(("running_mean", "running_var"), zip(*moments, strict=True), strict=False):
            changed.append(own[f"encoder.{name}.{end}"].copy_(torch.stack(values).mean(dim=0)))
    return changed


_HARDLY: Final = 1e-8
"""Variance of a channel without information, such as one whose weights are all pruned."""

_Moments = tuple[Tensor, Tensor]
"""Mean and variance of each channel, `(C,)`."""


def _with_statistics(twin: SelfCompetitor) -> set[str]:
    """Names, within the encoder, of layers for which the twin has separate running statistics."""
    start, end = "encoder.", ".running_mean"
    own = twin.normalization()
    return {name.removeprefix(start).removesuffix(end) for name in own if name.startswith(start) and name.endswith(end)}


def _seen(encoder: nn.Module, batch: Tensor, layers: Mapping[str, _BatchNorm]) -> dict[str, list[_Moments]]:
    """Moments of the input of each layer of the network, one entry per call."""
    seen: dict[str, list[_Moments]] = {name: [] for name in layers}

    def note(name: str, _: Any, given: Tensor) -> None:
        seen[name].append(_moments(given))

    with _before(layers, note):
        encoder(batch)
    return seen


def _correct(
    twin: SelfCompetitor,
    batch: Tensor,
    layers: Mapping[str, _BatchNorm],
    *,
    fixed: Mapping[str, _Moments],
    seen: Mapping[str, list[_Moments]],
    settled: dict[str, list[_Moments]],
) -> None:
    """Run the twin on a batch, correct the statistics of each layer, and record them in `settled`."""
    calls = dict.fromkeys(layers, 0)

    def fit(name: str, layer: Any, given: Tensor) -> None:
        (mean, variance), (own_mean, own_variance) = seen[name][calls[name]], _moments(given)
        calls[name] += 1
        at, spread = fixed[name]
        ratio = (own_variance + _HARDLY) / (variance + _HARDLY)
        fitted = ((spread + layer.eps) * ratio - layer.eps).clamp_min(0)
        scale = ((fitted + layer.eps) / (spread + layer.eps)).sqrt()
        # While the twin runs, the layer holds the twin's statistics.
        layer.running_mean.copy_(own_mean - (mean - at) * scale)
        layer.running_var.copy_(fitted)
        settled[name].append(_statistics(layer))

    dropping = twin.dropping() if isinstance(twin, DropoutCompetitor) else nullcontext()
    with dropping, _before(layers, fit):
        twin.part("encoder")(batch)


def _moments(given: Tensor) -> _Moments:
    """Moments of a layer's input `(N, C, …)`."""
    channels = given.float().transpose(0, 1).flatten(1)
    return channels.mean(dim=1), channels.var(dim=1, correction=0)


def _statistics(layer: Any) -> _Moments:
    return layer.running_mean.clone(), layer.running_var.clone()


class _Evaluating:
    """Replacement of a layer's `train` that keeps it in evaluation mode."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer

    def __call__(self, *_: Any, **__: Any) -> nn.Module:
        self.layer.training = False
        return self.layer


def _layers(encoder: nn.Module) -> dict[str, _BatchNorm]:
    """Batch-norm layers with running statistics, by name."""
    named = ((name, layer) for name, layer in encoder.named_modules() if isinstance(layer, _BatchNorm))
    return {name: layer for name, layer in named if layer.running_mean is not None}


@contextmanager
def _before(layers: Mapping[str, _BatchNorm], action: Callable[[str, Any, Tensor], object]) -> Iterator[None]:
    """Inside the block, call an action with name, layer and input before each layer runs."""
    handles = [
        layer.register_forward_pre_hook(lambda layer, given, name=name: _nothing(action(name, layer, given[0])))
        for name, layer in layers.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _nothing(_: object) -> None:
    """Discard a result: a hook's return value would replace the layer's input."""


@contextmanager
def _evaluating(layers: Mapping[str, _BatchNorm]) -> Iterator[None]:
    """Inside the block, layers normalize by their running statistics. Afterwards their modes are restored."""
    before = [(layer, layer.training) for layer in layers.values()]
    for layer in layers.values():
        layer.training = False
    try:
        yield
    finally:
        for layer, training in before:
            layer.training = training
