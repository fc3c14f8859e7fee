"""Settings of views. Imports neither NumPy nor torch."""

import math
from dataclasses import dataclass
from typing import Final

from sdclr.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """Augmentation of the two views of an image.

    Raises:
        InputError: If a probability, a range or a strength is out of range.

    Example:
        >>> views = sdclr.ViewConfig(image_size=64, blur=0.5)
        >>> views.crop_scale
        (0.1, 1.0)
        >>> sdclr.ViewConfig(flip=1.5)
        Traceback (most recent call last):
            ...
        sdclr.errors.InputError: flip is 1.5: give a probability between 0 and 1
    """

    image_size: int = 32
    """Side of the square views, in pixels."""
    crop_scale: tuple[float, float] = (0.1, 1.0)
    """Smallest and largest area of the crop, as a fraction of the image."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Smallest and largest width / height of the crop."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    brightness: float = 0.4
    """Brightness is multiplied by a factor between 1 - this value and 1 + this value."""
    contrast: float = 0.4
    """Contrast is multiplied by a factor between 1 - this value and 1 + this value."""
    saturation: float = 0.4
    """Saturation is multiplied by a factor between 1 - this value and 1 + this value."""
    hue: float = 0.1
    """Hue is rotated by at most this fraction of a full turn, in either direction (0 to 0.5)."""
    jitter: float = 0.8
    """Probability of color jitter (brightness, contrast, saturation and hue)."""
    gray: float = 0.2
    """Probability of grayscale."""
    blur: float = 0.0
    """Probability of Gaussian blur."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Smallest and largest standard deviation of the blur, in pixels of the view."""

    def __post_init__(self) -> None:
        if self.image_size < 1:
            raise InputError(f"image_size is {self.image_size}: give a side of at least 1 pixel")
        for name in ("flip", "jitter", "gray", "blur"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}: give a probability between 0 and 1")
        for name in ("brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} is {getattr(self, name)}: give a strength of 0 or more")
        if not 0 <= self.hue <= 0.5:
            raise InputError(f"hue is {self.hue}: give a strength between 0 and 0.5")
        for name, upper in (("crop_scale", 1.0), ("crop_ratio", 1000.0), ("blur_sigma", 1000.0)):
            low, high = getattr(self, name)
            if not 0 < low <= high <= upper:
                raise InputError(f"{name} is ({low}, {high}): give 0 < low <= high <= {upper:g}")


SCALE: Final = 30.0
"""The largest magnitude of RandAugment."""


@dataclass(frozen=True, kw_only=True)
class RandAugmentConfig:
    """RandAugment of a view, with the strength w of its sample, 0 to 1.

    The defaults are those of BCL-I. BCL-D (based on SDCLR) uses `operations=2, low=5, scatter=True`.

    Raises:
        InputError: If a number is out of range.
    """

    operations: int = 1
    """Number of operations drawn for each view; each is applied with probability w."""
    low: float = 10.0
    """Magnitude at strength 0, on RandAugment's scale from 0 to 30."""
    high: float = 30.0
    """Magnitude at strength 1, on the same scale."""
    scatter: bool = False
    """Multiply w by a uniform random number from 0 to 1 for the magnitude; both views share this number."""

    def __post_init__(self) -> None:
        if self.operations < 1:
            raise InputError(f"operations is {self.operations}: give at least 1")
        if not 0 <= self.low <= self.high <= SCALE:
            raise InputError(f"low and high are {self.low} and {self.high}: give 0 <= low <= high <= {SCALE:g}")
