"""Seeded near-duplicates of an image, with one function for each type of change."""

import io
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

Image = NDArray[np.uint8]
Change = Callable[[Image, np.random.Generator], Image]


def recompressed(image: Image, random: np.random.Generator) -> Image:
    """JPEG of quality 30 to 60."""
    return _jpeg(image, int(random.integers(30, 61)))


def resized(image: Image, random: np.random.Generator) -> Image:  # noqa: ARG001  # all take both
    """Half the width and height."""
    return _resized(image, 0.5)


def crop(share: float) -> Change:
    """A random crop with this share of the area. Its aspect ratio differs by up to 10 %."""

    def cropped(image: Image, random: np.random.Generator) -> Image:
        height, width = image.shape[:2]
        stretch = np.exp(random.uniform(-0.05, 0.05))
        rows = min(height, round(height * np.sqrt(share) * stretch))
        columns = min(width, round(share * height * width / rows))
        top, left = int(random.integers(0, height - rows + 1)), int(random.integers(0, width - columns + 1))
        return image[top : top + rows, left : left + columns].copy()

    return cropped


def mirrored(image: Image, random: np.random.Generator) -> Image:  # noqa: ARG001  # all take both
    """Mirrored horizontally."""
    return np.ascontiguousarray(image[:, ::-1])


def exposed(image: Image, random: np.random.Generator) -> Image:
    """Values times 0.5 to 0.75, or 1.3 to 1.6, clipped."""
    gain = random.uniform(0.5, 0.75) if random.random() < 0.5 else random.uniform(1.3, 1.6)
    return _clipped(image * gain)


def contrast(image: Image, random: np.random.Generator) -> Image:
    """Contrast times 0.6 to 1.5 around the mean."""
    mean = image.mean()
    return _clipped(mean + (image - mean) * random.uniform(0.6, 1.5))


def gamma(image: Image, random: np.random.Generator) -> Image:
    """Gamma 0.5 to 0.75, or 1.3 to 2."""
    power = random.uniform(0.5, 0.75) if random.random() < 0.5 else random.uniform(1.3, 2)
    return _clipped(255 * (image / 255) ** power)


def temperature(image: Image, random: np.random.Generator) -> Image:
    """Red and blue changed in opposite directions by up to 25 %, as by another white balance."""
    change = random.choice([-1, 1]) * random.uniform(0.12, 0.25)
    return _clipped(image * np.array([1 + change, 1, 1 - change]))


def gray(image: Image, random: np.random.Generator) -> Image:  # noqa: ARG001  # all take both
    """Without color."""
    return np.asarray(Pillow.fromarray(image).convert("L").convert("RGB"))


def rotated(image: Image, random: np.random.Generator) -> Image:
    """Rotated by 3 degrees in either direction, with black corners."""
    height, width = image.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), random.choice([-3.0, 3.0]), 1)
    return np.asarray(cv2.warpAffine(image, turn, (width, height), flags=cv2.INTER_CUBIC), dtype=np.uint8)


def bordered(image: Image, random: np.random.Generator) -> Image:
    """A white or black border of 5 to 12 % of each side."""
    height, width = image.shape[:2]
    share = random.uniform(0.05, 0.12)
    rows, columns = round(height * share), round(width * share)
    color = 0 if random.random() < 0.5 else 255
    return np.pad(image, ((rows, rows), (columns, columns), (0, 0)), constant_values=color)


def combined(image: Image, random: np.random.Generator) -> Image:
    """Cropped to 80 %, 30 % smaller, brightness changed by up to 20 %, JPEG of quality 50; half of them mirrored."""
    small = _resized(crop(0.8)(image, random), 0.7)
    lit = _clipped(small * random.uniform(0.8, 1.2))
    return _jpeg(mirrored(lit, random) if random.random() < 0.5 else lit, 50)


CHANGES: dict[str, Change] = {
    "recompressed": recompressed,
    "resized 50 %": resized,
    "cropped to 90 %": crop(0.9),
    "cropped to 80 %": crop(0.8),
    "cropped to 65 %": crop(0.65),
    "mirrored": mirrored,
    "exposure": exposed,
    "contrast": contrast,
    "gamma": gamma,
    "color temperature": temperature,
    "gray": gray,
    "rotated 3 degrees": rotated,
    "border": bordered,
    "combined": combined,
}
"""Types of change by name."""


def _jpeg(image: Image, quality: int) -> Image:
    file = io.BytesIO()
    Pillow.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Pillow.open(file).convert("RGB"))


def _resized(image: Image, factor: float) -> Image:
    height, width = image.shape[:2]
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(Pillow.fromarray(image).resize(size, Pillow.Resampling.BICUBIC))


def _clipped(values: NDArray[np.float64]) -> Image:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
