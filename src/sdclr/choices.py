"""Names that options take in several packages."""

from typing import Final, Literal, TypeAlias

Amp: TypeAlias = Literal["auto", "none", "bf16", "fp16"]
"""Mixed precision: the number format of products, `auto` for what suits the hardware."""

Metric = Literal["cosine", "euclidean"]
"""How far features are apart."""

Format = Literal["timm", "torchvision", "onnx"]
"""What an encoder is exported for."""
FORMATS: Final[tuple[Format, ...]] = ("timm", "torchvision", "onnx")
"""All of them."""
