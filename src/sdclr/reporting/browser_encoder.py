"""Write an encoder as scripts, so that a page opened from disk can compute the features of an image."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from sdclr.encoders import Encoder
from sdclr.encoders.preprocessing import SMALL_SIDE
from sdclr.reporting.encoder_graph import Layer, UnsupportedEncoderError, read_layers, run_layers
from sdclr.reporting.search_index import as_base64, write_script

LIMIT: Final = 16 * 2**20
"""Default maximum bytes of the scripts of an encoder."""

_ALIKE: Final = 0.99
"""Minimum cosine between the features of the quantized and the original encoder on a test image."""

_SMALL: Final = 20_000
"""Convolutions with fewer weights use two bytes per weight, like depthwise ones. They are 8% of the default encoder's
weights and cause most of the difference: the cosine rises from 0.992 to 0.999 (docs/results/page_search.md)."""

_SCRIPT: Final = 3 * 2**19
"""Maximum bytes of weights per script, before base64."""


@dataclass(frozen=True)
class BrowserEncoder:
    """Quantized layers with weights of one or two bytes, and the preprocessing of an image."""

    layers: list[Layer]
    """Layers with integer weights, from -127 to 127 or from -32767 to 32767."""
    scales: list[Tensor | None]
    """(out,) per layer: the factors of its weights."""
    view: dict[str, Any]
    """Size, crop and filter of the evaluation view, mean and standard deviation."""

    def restored(self) -> list[Layer]:
        """The layers with dequantized weights, as the browser uses them."""
        return [
            layer
            if scale is None or layer.weight is None
            else replace(layer, weight=layer.weight * scale[:, None, None, None])
            for layer, scale in zip(self.layers, self.scales, strict=True)
        ]


def browser_encoder(encoder: Encoder, *, limit: int = LIMIT) -> BrowserEncoder:
    """Convert an encoder to layers that a browser can compute.

    Each filter's weights are rounded to 255 levels between plus and minus its largest weight, or to 65,535 levels in
    small or depthwise layers. Biases are not rounded.

    Args:
        encoder: In eval mode, on any device. Not changed.
        limit: Maximum bytes of the scripts.

    Raises:
        UnsupportedEncoderError: `read_layers` does not support it, it is too large, or its features change too much.
    """
    weights = sum(parameter.numel() for parameter in encoder.parameters())
    if weights * 4 / 3 > limit:
        raise UnsupportedEncoderError(
            f"its {weights:,} weights take {weights * 4 / 3 / 2**20:.0f} MiB, and {limit / 2**20:.0f} MiB are allowed"
        )
    preprocessing = encoder.preprocessing
    layers = read_layers(encoder.backbone, preprocessing.image_size)
    pairs = [_quantized(layer) for layer in layers]
    view = {
        "size": preprocessing.image_size,
        "resized": preprocessing.resized_side,
        "squash": preprocessing.crop_mode == "squash",
        "small": SMALL_SIDE,
        "filter": preprocessing.interpolation,
        "mean": encoder.mean.flatten().tolist(),
        "std": encoder.std.flatten().tolist(),
    }
    found = BrowserEncoder([layer for layer, _ in pairs], [scale for _, scale in pairs], view)
    _check(found, encoder)
    return found


def _is_wide(layer: Layer) -> bool:
    """Whether the layer's weights have two bytes."""
    return layer.depthwise or (layer.weight is not None and layer.weight.numel() < _SMALL)


def _quantized(layer: Layer) -> tuple[Layer, Tensor | None]:
    if layer.weight is None:
        return layer, None
    levels = 32767 if _is_wide(layer) else 127
    largest = layer.weight.abs().amax(dim=(1, 2, 3)).clamp(min=torch.finfo(torch.float32).tiny * levels)
    scale = largest / levels
    return replace(layer, weight=(layer.weight / scale[:, None, None, None]).round()), scale


@torch.no_grad()
def _check(found: BrowserEncoder, encoder: Encoder) -> None:
    """Compare the features of the layers and of the encoder on a smooth random image."""
    size = encoder.image_size
    coarse = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    image = F.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=False).clamp(0, 1)
    expected = encoder(image.to(encoder.mean.device)).cpu()
    mean, std = (torch.tensor(found.view[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    cosine = float(F.cosine_similarity(expected, run_layers(found.restored(), (image - mean) / std)))
    if not cosine >= _ALIKE:  # also if nan
        raise UnsupportedEncoderError(f"with rounded weights its features have a cosine of {cosine:.3f} to its own")


def write_encoder(
    folder: Path, prefix: str, encoder: BrowserEncoder, components: NDArray[np.float32]
) -> dict[str, Any]:
    """Write the scripts of an encoder and of the components that reduce its features.

    Args:
        folder: The folder of the scripts.
        prefix: A script is named `{prefix}{number}.js`.
        encoder: The encoder.
        components: (d, D) of the index, stored as two bytes each.

    Returns:
        Settings for the page: names of the scripts, and their size in bytes.
    """
    scale = np.abs(components).max(axis=1) / 32767
    described, weights, numbers = _packed(encoder.layers, encoder.scales)
    first = {
        "view": encoder.view,
        "layers": described,
        "weights": len(weights),
        "numbers": as_base64(numbers, "<f4"),
        "components": as_base64(np.rint(components / scale[:, None]), "<i2"),
        "componentScale": as_base64(scale, "<f4"),
        "width": components.shape[1],
    }
    scripts = [f"{prefix}000.js"]
    size = write_script(folder / scripts[0], "sdclrEncoder", first)
    for start in range(0, len(weights), _SCRIPT):
        scripts.append(f"{prefix}{len(scripts):03d}.js")
        part = {"start": start, "weights": as_base64(np.frombuffer(weights[start : start + _SCRIPT], np.uint8), "u1")}
        size += write_script(folder / scripts[-1], "sdclrWeights", part)
    return {"scripts": scripts, "bytes": size}


def _packed(
    layers: Sequence[Layer], scales: Sequence[Tensor | None]
) -> tuple[list[dict[str, Any]], bytes, NDArray[np.float32]]:
    """The layers as JSON, the concatenated bytes of all weights, and all scales and biases.

    The weights of a dense convolution have the order (out, height, width, in), of a depthwise one (height, width, out).
    """
    described, numbers, length = [], [np.zeros(0, np.float32)], 0
    weights = bytearray()
    for layer, scale in zip(layers, scales, strict=True):
        entry: dict[str, Any] = {"kind": layer.kind, "inputs": layer.inputs}
        entry |= {"low": layer.low} if math.isfinite(layer.low) else {}
        entry |= {"high": layer.high} if math.isfinite(layer.high) else {}
        if layer.kind in ("conv", "max_pool"):
            entry |= {"size": layer.size, "stride": layer.stride, "pad": layer.pad}
        if layer.weight is not None and layer.bias is not None and scale is not None:
            entry |= {"out": len(scale), "depthwise": layer.depthwise, "wide": _is_wide(layer)}
            entry |= {"each": layer.weight[0].numel(), "weights": len(weights), "numbers": length}
            order = (2, 3, 0, 1) if layer.depthwise else (0, 2, 3, 1)
            flat = layer.weight.permute(order).contiguous().flatten().numpy()
            weights += flat.astype("<i2" if _is_wide(layer) else "i1").tobytes()
            weights += bytes(len(weights) % 2)  # two-byte numbers start at even offsets
            numbers += [scale.numpy().astype(np.float32), layer.bias.float().numpy()]
            length += 2 * len(scale)
        described.append(entry)
    return described, bytes(weights), np.concatenate(numbers)
