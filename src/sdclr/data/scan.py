"""Checks every image before training: loads a small set into memory, finds the bad files of a large one.

Worker processes decode in parallel. Threads would be sufficient for photos. But a small JPEG is decoded in less time
than a thread waits for the interpreter lock, and two threads then take longer than one.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from sdclr.data.sources import Source
from sdclr.decoding.decode import BadImage
from sdclr.decoding.workers import items_in_order
from sdclr.errors import BadImageError, InputError
from sdclr.files import read_csv, write_csv
from sdclr.progress import stage

__all__ = [
    "BadImage",
    "LoadedImages",
    "check_bad_fraction",
    "is_small",
    "load_images",
    "scan",
    "write_bad_images",
]

MAX_SMALL_SIDE = 96
"""Longest side, in pixels, of images that are held in memory."""

MAX_SMALL_BYTES = 4 * 2**30
"""Size in bytes of a decoded set, above which it is not held in memory."""

_PEEK = 16
_BLOCK = 64

_Block = tuple[list[int], NDArray[np.uint8], list[BadImage], bool]
"""Positions in the source, images, bad images, and whether some of these only have another size."""


@dataclass(frozen=True, kw_only=True)
class LoadedImages:
    """A small set, decoded."""

    images: Tensor
    """The good images, `(M, 3, H, W)`, uint8."""
    kept: NDArray[np.int64]
    """Their positions in the source, `(M,)`, ascending."""
    bad: list[BadImage]
    """Left-out images, which are unreadable or differ in size, and files that the source skipped."""
    sizes_differ: bool
    """Whether some left-out images are readable but have another size."""


def is_small(source: Source) -> bool:
    """Whether a set can be held in memory: the first images have one size up to 96 px, and all take under 4 GiB."""
    shapes = first_shapes(source)
    if len(set(shapes)) != 1:
        return False
    height, width = shapes[0]
    return max(height, width) <= MAX_SMALL_SIDE and len(source) * height * width * 3 < MAX_SMALL_BYTES


def load_images(source: Source, *, workers: int = 0) -> LoadedImages:
    """Decode a whole set of equal-sized images.

    The most frequent size among the first images is the set's size; images of another size are listed as bad.

    Args:
        source: The images.
        workers: Processes that decode; 0 decodes in this process.

    Returns:
        The images as one tensor, their positions in the source, and what was left out.

    Raises:
        InputError: No image can be decoded.
    """
    shapes = Counter(first_shapes(source))
    if not shapes:
        raise InputError(f"{source.name}: none of its {len(source)} images can be decoded; check the files")
    height, width = shapes.most_common(1)[0][0]
    pixels = np.empty((len(source), 3, height, width), dtype=np.uint8)
    good = np.zeros(len(source), dtype=bool)
    bad = _skipped(source)
    sizes_differ = False
    for indices, images, found, odd in _visit("reading images", _Blocks(source, (height, width)), workers):
        pixels[indices] = images
        good[indices] = True
        bad += found
        sizes_differ |= odd
    kept = np.flatnonzero(good)
    if len(kept) < len(source):
        pixels = pixels[kept]
    return LoadedImages(images=torch.from_numpy(pixels), kept=kept, bad=bad, sizes_differ=sizes_differ)


def scan(source: Source, *, workers: int = 0) -> list[BadImage]:
    """Decode every image once, JPEGs at their smallest scale, to find the bad ones before training.

    Args:
        source: The images.
        workers: Processes that decode; 0 decodes in this process.

    Returns:
        The files that the source skipped, then the unreadable images in the source's order.
    """
    bad = _skipped(source)
    for _, _, found, _ in _visit("checking images", _Blocks(source), workers):
        bad += found
    return bad


BAD_IMAGES: Final = ("id", "reason")
"""Columns of a list of unusable images."""


def read_bad_images(path: Path) -> list[tuple[str, str]]:
    """Id and reason of each image in a list written by `write_bad_images`.

    Raises:
        InputError: The file is missing, or there is no permission.
        DamagedFileError: The file is not such a list.
    """
    remedy = "put back a whole copy of it, or remove it"
    return [(image_id, reason) for image_id, reason in read_csv(path, BAD_IMAGES, remedy)]


def write_bad_images(path: Path, bad: Sequence[BadImage]) -> None:
    """Write `id,reason` rows, all or none.

    Args:
        path: The CSV file; its folder is created if needed.
        bad: The images.
    """
    write_csv(path, BAD_IMAGES, ((image.id, image.reason) for image in bad))


def check_bad_fraction(
    bad: Iterable[BadImage], total: int, limit: float = 0.01, *, listed_in: Path | None = None
) -> None:
    """Check that not too many images of a set are bad.

    Args:
        bad: The left-out images; only those with `counted` count.
        total: Images in the source, including bad ones.
        limit: Maximum fraction of bad images.
        listed_in: File of the list, for the message.

    Raises:
        InputError: The fraction is larger.
    """
    counted = [image for image in bad if image.counted]
    if len(counted) <= limit * total:
        return
    names = ", ".join(f"{image.id} ({image.reason})" for image in counted[:3])
    place = f", all listed in {listed_in}" if listed_in is not None else ""
    raise InputError(
        f"{len(counted)} of {total} images are bad, more than the limit of {100 * limit:.4g}%: {names}{place}; "
        "mend or remove them, or raise --max-bad-fraction"
    )


def first_shapes(source: Source) -> list[tuple[int, int]]:
    """Heights and widths of the first readable images; unreadable ones are skipped, to the end if needed."""
    shapes: list[tuple[int, int]] = []
    for index in range(len(source)):
        with suppress(BadImageError):
            height, width, _ = source.image(index).shape
            shapes.append((height, width))
        if len(shapes) == _PEEK:
            break
    return shapes


def _skipped(source: Source) -> list[BadImage]:
    return list(getattr(source, "skipped", ()))


class _OddSizeError(BadImageError):
    """The image is readable but has the wrong size."""


class _Blocks(Dataset[_Block]):
    """A source in blocks of images, decoded on access.

    Without a size the images are decoded at the smallest scale and dropped. With a size they are kept as `(B, 3, H,
    W)`, and images of another size are bad.
    """

    def __init__(self, source: Source, size: tuple[int, int] | None = None) -> None:
        self.source = source
        self.size = size

    def __len__(self) -> int:
        return math.ceil(len(self.source) / _BLOCK)

    def __getitem__(self, number: int) -> _Block:
        height, width = self.size or (0, 0)
        images = np.empty((_BLOCK, 3, height, width), dtype=np.uint8)
        indices: list[int] = []
        bad = []
        odd = False
        for index in range(number * _BLOCK, min((number + 1) * _BLOCK, len(self.source))):
            try:
                if self.size is None:
                    self.source.image(index, min_side=1)
                else:
                    images[len(indices)] = self._of_size(index).transpose(2, 0, 1)
                indices.append(index)
            except BadImageError as error:
                bad.append(BadImage(error.image_id, error.reason, counted=True))
                odd |= isinstance(error, _OddSizeError)
        return indices, images[: len(indices)], bad, odd

    def _of_size(self, index: int) -> NDArray[np.uint8]:
        image = self.source.image(index)
        if image.shape[:2] != self.size:
            found, common = (f"{size[1]}x{size[0]}" for size in (image.shape, self.size or ()))
            raise _OddSizeError(self.source.ids[index], f"size {found} differs from the set's {common}")
        return image


def _visit(name: str, blocks: _Blocks, workers: int) -> Iterator[_Block]:
    total = len(blocks.source)
    with stage(name, total) as update:
        for number, block in enumerate(items_in_order(blocks, workers), start=1):
            yield block
            update(min(number * _BLOCK, total))
