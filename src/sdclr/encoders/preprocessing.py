"""Preprocessing of an image to the square view that an encoder takes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

from sdclr.errors import InputError
from sdclr.intensities import Intensities

Interpolation = Literal["bicubic", "bilinear", "lanczos"]
CropMode = Literal["center", "squash"]

SMALL_SIDE: Final = 96
"""Images with both sides up to this many pixels are resized whole, because a crop would discard too much."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Size, crop and interpolation of the view; mean and standard deviation are part of the encoder.

    The defaults are those of ImageNet evaluation: resize the shorter side to 256/224 of the view, crop the center.

    Examples:
        >>> Preprocessing(image_size=224).resized_side
        256
    """

    image_size: int
    """Side of the square view, in pixels."""
    crop_pct: float = 224 / 256
    """Share of the resized image's shorter side that the view keeps."""
    crop_mode: CropMode = "center"
    """center keeps the aspect ratio; squash resizes both sides to the same length first."""
    interpolation: Interpolation = "bicubic"
    """Filter of the resize; antialiased."""
    intensities: Intensities | None = field(default=None, repr=False)
    """Intensities that become black and white in images of more than 8 bits; None uses the collection's range."""

    def __post_init__(self) -> None:
        if self.image_size < 1:
            raise InputError(f"image_size={self.image_size}: give a view of 1 pixel or more")
        if not 0 < self.crop_pct <= 1:
            raise InputError(f"crop_pct={self.crop_pct}: give a share in (0, 1]; 0.875 keeps 224 of 256 pixels")
        for name, kind in (("crop_mode", CropMode), ("interpolation", Interpolation)):
            if getattr(self, name) not in get_args(kind):
                raise InputError(f"{name}={getattr(self, name)!r}: choose from {', '.join(get_args(kind))}")

    @property
    def resized_side(self) -> int:
        """Length of the shorter side before the crop, in pixels; rounded down, as in timm and torchvision."""
        return math.floor(self.image_size / self.crop_pct)

    @classmethod
    def from_timm(cls, pretrained_cfg: Mapping[str, Any], name: str) -> "Preprocessing":
        """Preprocessing of a timm model, from its `pretrained_cfg`.

        Args:
            pretrained_cfg: timm's description of the weights, as a dictionary.
            name: Name of the model, for errors.

        Raises:
            InputError: If the model does not take square RGB images, or needs an unsupported crop or filter.
        """
        channels, height, width = pretrained_cfg["input_size"]
        if channels != 3 or height != width:
            raise InputError(
                f"{name!r} takes images of {channels}x{height}x{width}, not square RGB images: choose another encoder"
            )
        interpolation: Any = pretrained_cfg.get("interpolation") or "bicubic"
        return cls(
            image_size=height,
            crop_pct=float(pretrained_cfg.get("crop_pct") or 224 / 256),
            crop_mode=pretrained_cfg.get("crop_mode") or "center",
            interpolation="bicubic" if interpolation == "random" else interpolation,
        )
