"""One intensity range for all images with more than 8 bits in a collection, stated by the files or measured.

Brightness can be compared between images only if all are scaled alike. The range is measured on a few images that are
drawn with a fixed seed, in the process that opens the collection, so it does not depend on the number of workers.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sdclr.data.source import Source, image_bytes, image_file, whole_image
from sdclr.decoding.decode import opened_image
from sdclr.decoding.formats import SUFFIXES
from sdclr.decoding.pixels import kind_of, numbers, stated_range
from sdclr.intensities import Intensities, Range
from sdclr.limits import PIXELS

_HEADERS: Final = 2_000
"""Number of files whose headers are read, to find those with more than 8 bits."""
_SEARCHED: Final = 200_000
"""Number of images whose names are checked, to find such files."""
_IMAGES: Final = 64
"""Number of images of each kind that are decoded."""
_VALUES: Final = 2**14
"""Number of intensities that are drawn from each image."""
_TAILS: Final = (0.1, 99.9)
"""Percentiles that become black and white, so that a few broken pixels have no effect."""
_SHALLOW: Final = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".webp", ".avif", ".heic", ".heif"})
"""File extensions of formats with 8 bits."""


class SeenByRange:
    """Base class of sources that decode all images with one intensity range."""

    intensities_given: bool = False
    """Whether the user has set the range."""

    @cached_property
    def intensities(self) -> Intensities:
        """The range, measured on first access."""
        return measured(self)  # type: ignore[arg-type]  # subclasses are sources

    def decoder(self, *settings: str) -> str:
        """Name of the decoder for `Stored`: the class, its settings, and the range if there is one."""
        by = [str(self.intensities)] if self.intensities else []
        return " ".join([type(self).__qualname__, *settings, *by])

    def __getstate__(self) -> dict[str, Any]:
        _ = self.intensities  # measured once, not in each process
        return self.__dict__


def intensities_of(source: Source) -> tuple[Intensities, bool]:
    """The range of a source, and whether the user has set it."""
    while hasattr(source, "source"):
        source = source.source
    return getattr(source, "intensities", Intensities()), getattr(source, "intensities_given", False)


def with_intensities(source: Source, intensities: Intensities | None, *, given: bool = False) -> Source:
    """The same images with another range, unless the user has set the range of the source.

    Args:
        source: The images.
        intensities: The range. Kinds of images that it does not cover keep the range of the source.
        given: Whether the user has set this range.
    """
    inner: Source | None = getattr(source, "source", None)
    if inner is not None:
        changed = with_intensities(inner, intensities, given=given)
        return source if changed is inner else _copied(source, {"source": changed})
    if not intensities or not isinstance(source, SeenByRange) or source.intensities_given:
        return source
    if given:
        return _copied(source, {"intensities": intensities, "intensities_given": True})
    merged = intensities.over(source.intensities)
    return source if merged == source.intensities else _copied(source, {"intensities": merged})


def _copied(source: Source, changed: dict[str, Any]) -> Source:
    made = copy.copy(source)
    made.__dict__.update(changed)
    return made


def measured(source: Source) -> Intensities:
    """Measure the range of each kind of image with more than 8 bits, on a sample of a source.

    If all sampled files state a range, the result is from the smallest to the largest stated value. If some state none,
    or intensities are outside, the result is the percentiles 0.1 and 99.9 of the sampled intensities.
    """
    found: dict[str, list[tuple[NDArray[np.float64], Range | None]]] = {}
    for number, position in enumerate(_candidates(source)):
        with suppress(Exception), opened_image(*_place(source, position), source.ids[position]) as image:
            kind = kind_of(image)
            if kind is None or len(found.setdefault(kind, [])) == _IMAGES:
                continue
            stated = stated_range(image)  # before the pixels are read, after which the file is closed
            found[kind].append((_drawn(image, number), stated))
    return Intensities(**{kind: _range(sample) for kind, sample in found.items() if sample})


def _candidates(source: Source) -> Iterator[int]:
    """Positions of images that may have more than 8 bits, drawn with a fixed seed."""
    total = len(source)
    if hasattr(source, "encoded") and not hasattr(source, "file"):
        # A table is read in order, and its images usually have one kind.
        yield from range(min(_IMAGES, total))
        return
    count = 0
    for position in np.random.default_rng(0).permutation(total)[:_SEARCHED].tolist():
        ending = Path(source.ids[position].rpartition("#")[0] or source.ids[position]).suffix.lower()
        if ending not in SUFFIXES:
            ending = str(_place(source, position)[0])[-5:].lower()
            ending = ending[ending.rfind(".") :]
        if ending not in _SHALLOW:
            yield position
            count += 1
            if count == _HEADERS:
                return


def _place(source: Source, position: int) -> tuple[Any, int]:
    """The file or the bytes of an image, and the byte offset of its page."""
    place: Callable[[int], tuple[Path, int]] | None = getattr(source, "place", None)
    if place is not None:
        return place(position)
    whole = whole_image(source, position)
    file = image_file(source, position) if whole is None else whole.file
    return image_bytes(source, position) if file is None else file, 0


def _drawn(image: Image.Image, seed: int) -> NDArray[np.float64]:
    if image.width * image.height > PIXELS.value:
        raise ValueError
    values = numbers(image).ravel()
    if len(values) <= _VALUES:
        return values
    return np.random.default_rng(seed).choice(values, _VALUES, replace=False, shuffle=False)


def _range(sample: list[tuple[NDArray[np.float64], Range | None]]) -> Range:
    values = np.concatenate([drawn for drawn, _ in sample])
    stated = [said for _, said in sample if said is not None]
    if len(stated) == len(sample):
        low, high = min(said[0] for said in stated), max(said[1] for said in stated)
        if low <= values.min() and values.max() <= high:
            return low, high
    low, high = (float(value) for value in np.percentile(values, _TAILS))
    return (low, high) if low < high else (low, low + 1)
