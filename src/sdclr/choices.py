"""Names that options take in several packages."""

from typing import Final, Literal, TypeAlias

Amp: TypeAlias = Literal["auto", "none", "bf16", "fp16"]


Metric = Literal["cosine", "euclidean"]


Format = Literal["timm", "torchvision", "onnx"]


FORMATS: Final[tuple[Format, ...]] = ("timm", "torchvision", "onnx")
