"""Batch normalization of an encoder that starts from trained weights: its running statistics stay where they are.

Statistics that move to augmented views of a small collection cost a pretrained encoder more than training gains it.
With fixed statistics each batch-norm layer of the encoder is an affine map, whose weight and bias are trained. The
pruned twin has other activations, so that its own statistics have to follow its masks: they are measured anew after
each refresh, over several batches (Wu and Johnson, *Rethinking "Batch" in BatchNorm*, 2021, section 3).
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sdclr.encoders import Encoder
from sdclr.method import DropoutCompetitor, SelfCompetitor, SelfCompetitors


def fix_statistics(module: nn.Module) -> int:
    """Keep the batch-norm layers of every encoder in a module in evaluation mode, whatever `train()` is called.

    Weight and bias of these layers can still be trained. Projection heads and predictors stay as they are. Copies of
    the module are fixed, too. Call it after layers are replaced, for example by synchronized ones.

    Args:
        module: An `Encoder`, or what holds some: a network, or an objective with its momentum network.

    Returns:
        The number of layers.

    Example:
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
    """Measure the running statistics of a pruned twin's encoder anew: each is its mean over the batches.

    A competitor without statistics of its own runs with the network's, and nothing is measured. The projection head's
    statistics and the modes of all layers stay as they were.

    Args:
        competitor: The twin, or several, of a network with an `encoder`.
        batches: Images `(N, 3, H, W)`, on the network's device.

    Returns:
        The running means and variances that were measured, `(C,)` each: the competitor's own tensors.
    """
    images, measured = list(batches), []
    layers = _layers(competitor.network.get_submodule("encoder"))
    others = competitor.others if isinstance(competitor, SelfCompetitors) else ()
    twins: list[Any] = [competitor, *others]
    for twin in twins:
        own = twin.normalization()
        statistics = [f"encoder.{name}.{end}" for name in layers for end in ("running_mean", "running_var")]
        if not all(name in own for name in statistics):
            continue
        for name in layers:
            # The moving average of a layer without a momentum weighs all batches since this count was 0 alike.
            own[f"encoder.{name}.num_batches_tracked"].zero_()
        part = twin.part("encoder")
        with _averaging(layers), twin.dropping() if isinstance(twin, DropoutCompetitor) else nullcontext():
            for batch in images:
                part(batch)
        measured += [own[name] for name in statistics]
    return measured


class _Evaluating:
    """The method `train` of a layer that stays in evaluation mode."""

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
def _averaging(layers: Mapping[str, _BatchNorm]) -> Iterator[None]:
    """Inside, layers normalize by the batch and average its statistics; outside, they are as they were."""
    before = [(layer, layer.training, layer.momentum) for layer in layers.values()]
    for layer in layers.values():
        layer.training, layer.momentum = True, None
    try:
        yield
    finally:
        for layer, training, momentum in before:
            layer.training, layer.momentum = training, momentum
