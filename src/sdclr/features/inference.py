"""Encoders in eval mode, and a copy of an encoder that computes the same features in less time on a CPU."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from sdclr.encoders import Encoder

TOLERANCE: Final = 1e-3
"""Maximum difference between features of copy and encoder, as a fraction of the largest; about 1e-6 in practice."""


NUMBERS_AT_ONCE: Final = 64 * 3 * 224**2
"""Maximum number of input values of a forward pass on a CPU: 64 images of 224 px. It limits the activation memory."""


@contextmanager
def evaluating(encoder: nn.Module, device: torch.device | str | None = None) -> Iterator[torch.device]:
    """Switch to eval mode; restore the training mode of every submodule when the context ends.

    Args:
        encoder: The module.
        device: Device to move it to; None leaves it on its device.

    Yields:
        The device of the encoder.
    """
    if device is not None:
        encoder.to(device)
        where = torch.device(device)
    else:
        where = next((parameter.device for parameter in encoder.parameters()), torch.device("cpu"))
    modes = [(module, module.training) for module in encoder.modules()]
    encoder.eval()
    try:
        yield where
    finally:
        for module, training in modes:
            module.training = training


def run_in_pieces(module: nn.Module, inputs: Tensor) -> Any:
    """Outputs of a module for a batch. On a CPU, large batches run in pieces, to limit memory.

    Args:
        module: In eval mode, so that images do not depend on each other.
        inputs: (N, …).

    Returns:
        The outputs for the whole batch.
    """
    size = max(1, NUMBERS_AT_ONCE // max(1, inputs[:1].numel()))
    if inputs.device.type != "cpu" or len(inputs) <= size:
        return module(inputs)
    outputs = [module(piece) for piece in torch.split(inputs, size)]
    return torch.cat(outputs) if all(isinstance(output, Tensor) for output in outputs) else outputs[0]


@torch.inference_mode()
def for_inference(encoder: nn.Module) -> nn.Module:
    """An encoder for evaluation on a CPU: batch norm folded into the convolutions, weights in channels-last layout.

    Batch norm in evaluation mode is affine, so it can be merged into the convolution before it. On
    `tf_efficientnet_lite0` at 224 px both together make the forward pass twice as fast (docs/results/mining.md).

    Args:
        encoder: Not modified. Only an `Encoder` on the CPU has a faster copy; any other module is returned unchanged.

    Returns:
        The copy in eval mode. It is checked against the encoder on random images: if their features differ by more than
        `TOLERANCE`, or the encoder cannot be copied, the encoder itself is returned.
    """
    if not isinstance(encoder, Encoder) or encoder.mean.device.type != "cpu":
        return encoder
    images = torch.rand(2, 3, encoder.image_size, encoder.image_size, generator=torch.Generator().manual_seed(0))
    expected = _features(encoder, images)
    try:
        folded = copy.deepcopy(encoder).eval()
        _fold(folded, images[:1])
        folded = folded.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
        difference = (_features(folded, images) - expected).abs().max()
    except Exception:  # noqa: BLE001  # a user's module may not support copies or this memory layout
        return encoder
    return folded if bool(difference <= TOLERANCE * expected.abs().max()) else encoder


def _features(encoder: nn.Module, images: Tensor) -> Tensor:
    with evaluating(encoder):
        features: Tensor = encoder(images)
    return features


def _fold(network: nn.Module, images: Tensor) -> None:
    """Fold each batch norm into the convolution before it."""
    pairs = _pairs(network, images)
    for convolution, norm in pairs:
        convolution.weight, convolution.bias = fuse_conv_bn_weights(
            convolution.weight, convolution.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
    norms = {id(norm) for _, norm in pairs}
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if id(child) in norms:
                setattr(parent, name, _without_norm(child))


def _pairs(network: nn.Module, images: Tensor) -> list[tuple[nn.Conv2d, Any]]:
    """Convolutions with the batch norms that take their outputs, found in one forward pass."""
    outputs: dict[int, tuple[Tensor, Any]] = {}  # the tensors are kept, so that ids stay unique
    pairs: list[tuple[nn.Conv2d, Any]] = []

    def after_convolution(module: nn.Module, _inputs: Any, output: Tensor) -> None:
        outputs[id(output)] = (output, module)

    def before_norm(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if id(inputs[0]) in outputs:
            pairs.append((outputs[id(inputs[0])][1], module))

    hooks = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(after_convolution))
        elif isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            hooks.append(module.register_forward_pre_hook(before_norm))
    network(images)
    for hook in hooks:
        hook.remove()
    return pairs


def _without_norm(norm: Any) -> nn.Module:
    """The rest of a folded batch norm: timm's batch norms also have drop and activation."""
    return nn.Sequential(norm.drop, norm.act) if hasattr(norm, "act") else nn.Identity()
