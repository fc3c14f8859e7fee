"""Draws the parameters of views, separately from rendering.

A view is a few numbers: a crop box, a flip, a chain of color operations, a blur. This module draws them for a whole
batch at once, by a pure function of (seed, epoch, sample index, view). A sample's view therefore does not depend on its
batch or on the process that draws it, and a resumed run draws the same views again.

The recipe is SimCLR's (Chen et al., *A Simple Framework for Contrastive Learning of Visual Representations*, ICML 2020,
appendix A) with the strengths that *Self-Damaging Contrastive Learning* (ICML 2021) uses on CIFAR.
"""

import itertools
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdclr.views.config import ViewConfig

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Bools: TypeAlias = NDArray[np.bool_]
_Words: TypeAlias = NDArray[np.uint64]

BRIGHTNESS: Final = 0
CONTRAST: Final = 1
SATURATION: Final = 2
HUE: Final = 3
"""The color operations by their number in `ViewParameters.order`, as in torchvision's ColorJitter."""

_ORDERS: Final = np.array(list(itertools.permutations(range(4))), dtype=np.int64)
_CROP_ATTEMPTS: Final = 10

# The use of each draw in a sample's random stream. Reproducibility depends on the numbers: never renumber.
_FLIP, _JITTER, _GRAY, _BLUR, _SIGMA, _FACTORS, _ORDER, _TOP, _LEFT, _CROP = 0, 1, 2, 3, 4, 5, 9, 10, 11, 12


@dataclass(frozen=True, slots=True, eq=False)
class ViewParameters:
    """One view of each of N samples, as numbers."""

    top: Ints
    """(N,) first row of the crop, in pixels of the image."""
    left: Ints
    """(N,) first column of the crop."""
    height: Ints
    """(N,) rows of the crop."""
    width: Ints
    """(N,) columns of the crop."""
    flip: Bools
    """(N,) whether left and right are exchanged, after the crop."""
    factors: Floats
    """(N, 4) brightness, contrast and saturation factors, and the hue shift in turns; (1, 1, 1, 0) changes nothing."""
    order: Ints
    """(N, 4) the order in which these four are applied: a permutation of `BRIGHTNESS`, …, `HUE`."""
    gray: Bools
    """(N,) whether the view is made gray, after the four."""
    sigma: Floats
    """(N,) standard deviation of the blur, the last step, in pixels of the view; 0 = no blur."""

    def __len__(self) -> int:
        return len(self.top)

    def take(self, which: slice | Ints) -> "ViewParameters":
        """The parameters of some of the samples."""
        return ViewParameters(
            self.top[which],
            self.left[which],
            self.height[which],
            self.width[which],
            self.flip[which],
            self.factors[which],
            self.order[which],
            self.gray[which],
            self.sigma[which],
        )


def draw_views(
    config: ViewConfig, *, seed: int, epoch: int, indices: Ints, view: int, height: ArrayLike, width: ArrayLike
) -> ViewParameters:
    """Draws one view of each sample, as a pure function of (seed, epoch, sample index, view).

    Args:
        config: The strengths and probabilities.
        seed: The run's seed, 0 or more.
        epoch: The epoch, 0 or more.
        indices: (N,) the samples' indices, 0 or more.
        view: Which view of the sample: 0 or 1.
        height: Rows of the images: one number, or (N,).
        width: Columns of the images: one number, or (N,).

    Returns:
        The parameters of N views.
    """
    stream = _streams(seed, epoch, view, indices)
    first = _uniforms(stream, 0, _CROP + 2)
    top, left, crop_height, crop_width = _draw_crops(config, stream, first, height, width)
    factors, order = _draw_jitter(config, first)
    low, high = config.blur_sigma
    return ViewParameters(
        top=top,
        left=left,
        height=crop_height,
        width=crop_width,
        flip=first[:, _FLIP] < config.flip,
        factors=factors,
        order=order,
        gray=first[:, _GRAY] < config.gray,
        sigma=np.where(first[:, _BLUR] < config.blur, low + first[:, _SIGMA] * (high - low), 0.0),
    )


def _draw_jitter(config: ViewConfig, first: Floats) -> tuple[Floats, Ints]:
    """The (N, 4) factors and orders of torchvision's ColorJitter, or the identity for samples without jitter."""
    strengths = np.array([config.brightness, config.contrast, config.saturation])
    low = np.append(np.maximum(1 - strengths, 0), -config.hue)
    high = np.append(1 + strengths, config.hue)
    jitter = (first[:, _JITTER] < config.jitter)[:, None]
    factors = np.where(jitter, low + first[:, _FACTORS : _FACTORS + 4] * (high - low), [1.0, 1.0, 1.0, 0.0])
    order = np.where(jitter, _ORDERS[(first[:, _ORDER] * len(_ORDERS)).astype(np.int64)], _ORDERS[0])
    return factors, order


def _draw_crops(
    config: ViewConfig, stream: _Words, first: Floats, height: ArrayLike, width: ArrayLike
) -> tuple[Ints, Ints, Ints, Ints]:
    """Boxes as in torchvision's RandomResizedCrop: ten attempts, then the largest central box."""
    rows = np.broadcast_to(np.asarray(height, dtype=np.int64), stream.shape)
    columns = np.broadcast_to(np.asarray(width, dtype=np.int64), stream.shape)
    box_rows, box_columns, fits = _attempt(config, rows, columns, first[:, _CROP], first[:, _CROP + 1])
    todo = np.flatnonzero(~fits)
    for attempt in range(1, _CROP_ATTEMPTS):
        if not len(todo):
            break
        pair = _uniforms(stream[todo], _CROP + 2 * attempt, 2)
        tried_rows, tried_columns, fits = _attempt(config, rows[todo], columns[todo], pair[:, 0], pair[:, 1])
        box_rows[todo[fits]], box_columns[todo[fits]] = tried_rows[fits], tried_columns[fits]
        todo = todo[~fits]
    top = (first[:, _TOP] * (rows - box_rows + 1)).astype(np.int64)
    left = (first[:, _LEFT] * (columns - box_columns + 1)).astype(np.int64)
    if len(todo):
        ratio = np.clip(columns[todo] / rows[todo], *config.crop_ratio)
        box_rows[todo] = np.clip(np.rint(columns[todo] / ratio), 1, rows[todo])
        box_columns[todo] = np.clip(np.rint(rows[todo] * ratio), 1, columns[todo])
        top[todo] = (rows[todo] - box_rows[todo]) // 2
        left[todo] = (columns[todo] - box_columns[todo]) // 2
    return top, left, box_rows, box_columns


def _attempt(config: ViewConfig, rows: Ints, columns: Ints, scale: Floats, ratio: Floats) -> tuple[Ints, Ints, Bools]:
    """One random box (rows, columns) from two uniform numbers, and whether it fits into the image."""
    low, high = config.crop_scale
    area = rows * columns * (low + scale * (high - low))
    log_low, log_high = np.log(config.crop_ratio)
    root = np.exp(0.5 * (log_low + ratio * (log_high - log_low)))
    side = np.sqrt(area)
    box_rows = np.rint(side / root).astype(np.int64)
    box_columns = np.rint(side * root).astype(np.int64)
    fits = (box_rows > 0) & (box_rows <= rows) & (box_columns > 0) & (box_columns <= columns)
    return box_rows, box_columns, fits


_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)


def _mix(words: _Words) -> _Words:
    """The finalizer of SplitMix64 (Steele, Lea & Flood, OOPSLA 2014), a bijection of 64-bit words."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _streams(seed: int, epoch: int, view: int, indices: Ints) -> _Words:
    """(N,) the seed of each sample's SplitMix64 stream."""
    state = np.zeros(1, dtype=np.uint64)
    for word in (seed, epoch, view):
        state = _mix((state + _GOLDEN) ^ np.uint64(word))
    return _mix((state + _GOLDEN) ^ indices.astype(np.uint64))


def _uniforms(stream: _Words, first: int, count: int) -> Floats:
    """(N, count) draws number `first`, `first` + 1, … of each stream, uniform on [0, 1) with 53 bits."""
    steps = np.arange(first + 1, first + count + 1, dtype=np.uint64) * _GOLDEN
    return (_mix(stream[:, None] + steps) >> np.uint64(11)).astype(np.float64) * 2.0**-53
