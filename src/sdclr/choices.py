"""Choices of options that several packages use."""

from typing import Final, Literal, TypeAlias

Amp: TypeAlias = Literal["auto", "none", "bf16", "fp16"]
"""Mixed precision: the number format of products; `auto` depends on the hardware."""

Metric = Literal["cosine", "euclidean"]
"""Distance of features."""

Format = Literal["timm", "torchvision", "onnx"]
"""Export format of an encoder."""
FORMATS: Final[tuple[Format, ...]] = ("timm", "torchvision", "onnx")
"""All export formats."""
