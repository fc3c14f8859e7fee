"""Seeded junk images and near-duplicates, made from the images of a collection."""

import io
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageFile

Image = NDArray[np.uint8]

COPIED_SHARE, BURST_SHARE = 0.03, 0.03
SHORTEST_BURST, LONGEST_BURST = 8, 45


def _black(image: Image, random: np.random.Generator) -> Image:
    """A black image with some sensor noise, as with a lens cap."""
    return np.clip(random.normal(3, 2, image.shape), 0, 255).astype(np.uint8)


def _overexposed(image: Image, random: np.random.Generator) -> Image:
    """Nearly everything is white."""
    return np.clip(image.astype(np.float32) * random.uniform(3, 6) + random.uniform(90, 170), 0, 255).astype(np.uint8)


def _noise(image: Image, random: np.random.Generator) -> Image:
    return random.integers(0, 256, image.shape, dtype=np.uint8)


def _one_color(image: Image, random: np.random.Generator) -> Image:
    return np.broadcast_to(random.integers(0, 256, 3, dtype=np.uint8), image.shape).copy()


def _torn(image: Image, random: np.random.Generator) -> Image:
    """The lower part is gray, or comes from another place of the image."""
    torn = image.copy()
    cut = int(len(image) * random.uniform(0.25, 0.6))
    if random.random() < 0.5:
        torn[cut:] = 128
    else:
        torn[cut:] = np.roll(image, int(image.shape[1] * random.uniform(0.3, 0.7)), axis=1)[: len(image) - cut]
    return torn


def _half_decoded(image: Image, random: np.random.Generator) -> Image:
    """Pillow's result for a truncated JPEG file. Small images are enlarged first, so that rows can be missing."""
    height, width = image.shape[:2]
    factor = max(1, round(96 / min(height, width)))
    large = Pillow.fromarray(image).resize((width * factor, height * factor), Pillow.Resampling.BICUBIC)
    file = io.BytesIO()
    large.save(file, "JPEG", quality=80)
    whole = file.getvalue()
    kept = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        part = Pillow.open(io.BytesIO(whole[: int(len(whole) * random.uniform(0.45, 0.7))])).convert("RGB")
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = kept
    return np.asarray(part.resize((width, height), Pillow.Resampling.BOX))


JUNK: dict[str, Callable[[Image, np.random.Generator], Image]] = {
    "black": _black,
    "overexposed": _overexposed,
    "noise": _noise,
    "color": _one_color,
    "torn": _torn,
    "half": _half_decoded,
}


def junk_images(images: Sequence[Image], count: int, *, seed: int) -> list[tuple[str, Image]]:
    """Junk images in the sizes of a collection's images.

    Args:
        images: (H, W, 3) each; some of them are turned into junk.
        count: Number of junk images; the types alternate.
        seed: Seed of the random choices.

    Returns:
        Type of junk, and image.
    """
    random = np.random.default_rng(seed)
    kinds = list(JUNK)
    made = []
    for number, chosen in enumerate(random.choice(len(images), count, replace=count > len(images))):
        kind = kinds[number % len(kinds)]
        made.append((kind, JUNK[kind](images[chosen], random)))
    return made


class Copy(NamedTuple):
    """A near-duplicate."""

    original: int
    """Position of the image it was made from."""
    burst: bool
    image: Image


def near_duplicates(images: Sequence[Image], *, seed: int) -> list[Copy]:
    """Copies of single images, and bursts.

    Args:
        images: (H, W, 3) each.
        seed: Seed of the random choices.

    Returns:
        One copy of 3 % of the images each, then bursts of 8 to 45 frames with 3 % of the images in all; at least one.
    """
    random = np.random.default_rng(seed)
    chosen = random.permutation(len(images))
    singles = max(1, round(COPIED_SHARE * len(images)))
    copies = [Copy(int(i), False, _copied(images[i], random)) for i in chosen[:singles]]
    left = max(SHORTEST_BURST, round(BURST_SHARE * len(images)))
    for original in chosen[singles:]:
        if left < SHORTEST_BURST:
            break
        length = min(left, int(random.integers(SHORTEST_BURST, LONGEST_BURST + 1)))
        copies += [Copy(int(original), True, _shifted(images[original], random)) for _ in range(length)]
        left -= length
    return copies


def _copied(image: Image, random: np.random.Generator) -> Image:
    return (_recompressed, _shifted, _brightened)[random.integers(3)](image, random)


def _recompressed(image: Image, random: np.random.Generator) -> Image:
    file = io.BytesIO()
    Pillow.fromarray(image).save(file, "JPEG", quality=int(random.integers(50, 86)))
    return np.asarray(Pillow.open(file).convert("RGB"))


def _shifted(image: Image, random: np.random.Generator) -> Image:
    """Shifted by up to 3 % of each side (at least one pixel), with a repeated border and some sensor noise."""
    height, width = image.shape[:2]
    most = (max(1, round(0.03 * height)), max(1, round(0.03 * width)))
    down, right = (int(random.integers(-reach, reach + 1)) for reach in most)
    rows = np.clip(np.arange(height) + down, 0, height - 1)
    columns = np.clip(np.arange(width) + right, 0, width - 1)
    moved = image[rows][:, columns].astype(np.float32) + random.normal(0, 2, image.shape)
    return np.clip(np.rint(moved), 0, 255).astype(np.uint8)


def _brightened(image: Image, random: np.random.Generator) -> Image:
    return np.clip(np.rint(image.astype(np.float32) * random.uniform(0.85, 1.15)), 0, 255).astype(np.uint8)
