"""RandAugment on rendered views, with a strength for each sample.

As in `sdclr.views.parameters`, operations are drawn separately from their application, by a pure function of (seed,
epoch, key, view). They are applied to a whole batch at once: each kind of operation to all the views that drew it.

The operations are those of RandAugment (Cubuk et al., *RandAugment: Practical Automated Data Augmentation with a
Reduced Search Space*, 2020) with the ranges in the published code of *Contrastive Learning with Boosted Memorization*
(Zhou et al., ICML 2022, "BCL"). As in that code, they follow all the usual augmentations and replace none of them,
geometric operations take the nearest pixel and fill with black, and shears leave the top left corner in place.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from sdclr.views.config import SCALE, RandAugmentConfig
from sdclr.views.parameters import Floats, Ints, _streams, _uniforms
from sdclr.views.render import LUMA, to_device


class Operation(IntEnum):
    """An operation on a view. The reproducibility of runs depends on the numbers: never renumber."""

    SHEAR_X = 0
    SHEAR_Y = 1
    TRANSLATE_X = 2
    TRANSLATE_Y = 3
    ROTATE = 4
    AUTO_CONTRAST = 5
    INVERT = 6
    EQUALIZE = 7
    SOLARIZE = 8
    POSTERIZE = 9
    CONTRAST = 10
    COLOR = 11
    BRIGHTNESS = 12
    SHARPNESS = 13
    CUTOUT = 14


NONE: Final = -1
"""The number for no operation."""


RANGES: Final[dict[Operation, tuple[float, float]]] = {
    Operation.SHEAR_X: (0.0, 0.6),  # columns per row
    Operation.SHEAR_Y: (0.0, 0.6),  # rows per column
    Operation.TRANSLATE_X: (0.0, 0.66),  # of the side
    Operation.TRANSLATE_Y: (0.0, 0.66),  # of the side
    Operation.ROTATE: (0.0, 60.0),  # degrees
    Operation.AUTO_CONTRAST: (0.0, 1.0),  # not used, as in the two below
    Operation.INVERT: (0.0, 1.0),
    Operation.EQUALIZE: (0.0, 1.0),
    Operation.SOLARIZE: (0.0, 110.0),  # the 8-bit level from which values are inverted
    Operation.POSTERIZE: (4.0, 8.0),  # number of bits kept
    Operation.CONTRAST: (0.1, 1.9),  # factor
    Operation.COLOR: (0.1, 1.9),  # factor
    Operation.BRIGHTNESS: (0.1, 1.9),  # factor
    Operation.SHARPNESS: (0.1, 1.9),  # factor
    Operation.CUTOUT: (0.0, 0.4),  # of the side
}
"""The value of each operation at magnitude 0 and at magnitude `SCALE`."""

_LOW, _HIGH = np.array([RANGES[operation] for operation in Operation]).T
_CUTOUT_COLOR: Final = (125 / 255, 123 / 255, 114 / 255)
_CACHE_BYTES: Final = 2**20
_GEOMETRY: Final = slice(Operation.SHEAR_X, Operation.ROTATE + 1)

# The random streams of RandAugment have view numbers that no view has, and one more for what the views of an image
# share. The second line is the use of each draw in a turn. Reproducibility depends on the numbers: never renumber.
_VIEWS, _SHARED = 2**32, 2**33
_GATE, _KIND, _SIGN, _X, _Y, _DRAWS = 0, 1, 2, 3, 4, 5

# Layout of the numbers of a view, which contain all that applying an operation needs.
_VALUE, _LEFT, _TOP, _MATRIX = 0, 1, 2, slice(3, 9)


@dataclass(frozen=True, slots=True, eq=False)
class Operations:
    """The operations on each of N views, in up to K turns, as numbers."""

    kind: Ints
    """(N, K) an `Operation`, or `NONE`."""
    value: Floats
    """(N, K) its value, in the unit of its range; negative for the opposite direction of a geometric operation."""
    x: Floats
    """(N, K) horizontal center of the cutout, from 0 to 1."""
    y: Floats
    """(N, K) vertical center of the cutout, from 0 to 1."""


def randaugment(
    views: Tensor,
    keys: Ints,
    *,
    strength: Tensor | NDArray[np.floating],
    config: RandAugmentConfig | None = None,
    seed: int,
    epoch: int,
    view: int,
) -> Tensor:
    """Applies RandAugment to views, each with the strength of its sample.

    Args:
        views: (N, 3, S, S) float in [0, 1], in any memory layout. They are not modified.
        keys: (N,) keys with which the views were drawn, 0 or more.
        strength: (N,) w in [0, 1]. With an array, or a tensor on the CPU, the host need not wait for the device.
        config: Settings; BCL-I by default.
        seed: The run's seed, 0 or more.
        epoch: The epoch, 0 or more.
        view: Which view of the samples: 0 or 1.

    Returns:
        (N, 3, S, S) in [0, 1] in the same layout; `views` themselves if no operation is drawn.

    Raises:
        ValueError: If the shapes do not match.
    """
    weights = np.asarray(strength.detach().cpu() if isinstance(strength, Tensor) else strength, dtype=np.float64)
    if views.ndim != 4 or views.shape[1] != 3 or not len(views) == len(keys) == len(weights):
        raise ValueError(
            f"views of shape {tuple(views.shape)} with {len(keys)} keys and {len(weights)} strengths: "
            "RandAugment wants (N, 3, S, S), N and N"
        )
    drawn = draw_operations(config or RandAugmentConfig(), keys, weights, seed=seed, epoch=epoch, view=view)
    return apply_operations(views, drawn)


def draw_operations(
    config: RandAugmentConfig, keys: Ints, strength: Floats, *, seed: int, epoch: int, view: int
) -> Operations:
    """Draws operations on one view of each sample, as a pure function of (seed, epoch, key, view) and the strength.

    See `randaugment` for the arguments.
    """
    turns = config.operations
    draws = _uniforms(_streams(seed, epoch, _VIEWS + view, keys), 0, turns * _DRAWS).reshape(-1, turns, _DRAWS)
    shared = _uniforms(_streams(seed, epoch, _SHARED, keys), 0, 1)[:, 0] if config.scatter else 1.0
    magnitude = (config.low + (config.high - config.low) * strength * shared) / SCALE
    kind = (draws[..., _KIND] * len(Operation)).astype(np.int64)
    value = _LOW[kind] + (_HIGH - _LOW)[kind] * magnitude[:, None]
    turned = (kind < _GEOMETRY.stop) & (draws[..., _SIGN] < 0.5)
    return Operations(
        kind=np.where(draws[..., _GATE] < strength[:, None], kind, NONE),
        value=np.where(turned, -value, value),
        x=draws[..., _X],
        y=draws[..., _Y],
    )


@torch.no_grad()
def apply_operations(views: Tensor, drawn: Operations) -> Tensor:
    """Applies drawn operations to (N, 3, S, S) views, turn by turn. See `randaugment`."""
    out = views
    # On a CPU, the chunk size keeps each step's input and output in its cache.
    chunk = max(1, len(views) if views.device.type != "cpu" else _CACHE_BYTES // (12 * views.shape[3] ** 2))
    with torch.autocast(views.device.type, enabled=False):
        for turn in range(drawn.kind.shape[1]):
            kind = drawn.kind[:, turn]
            order = np.argsort(kind, kind="stable")
            ends = np.searchsorted(kind[order], np.arange(len(Operation) + 1))
            order, ends = order[ends[0] :], ends - ends[0]
            if not len(order):
                continue
            out = out.clone() if out is views else out
            where = to_device(order, views.device)
            numbers = to_device(_packed(drawn, order, turn, views.shape[3]), views.device)
            for kinds, change in _CHANGES:
                for begin in range(ends[kinds.start], ends[kinds.stop], chunk):
                    part = slice(begin, min(begin + chunk, ends[kinds.stop]))
                    changed = change(out.index_select(0, where[part]).float(), numbers[part])
                    out.index_copy_(0, where[part], changed.to(out.dtype))
    return out


def _packed(drawn: Operations, rows: Ints, turn: int, side: int) -> NDArray[np.float32]:
    """(M, 9) float32: all numbers of some views, for a single copy to the device."""
    kind, value = drawn.kind[rows, turn], drawn.value[rows, turn]
    numbers = np.zeros((len(rows), 9), dtype=np.float32)
    bits = np.floor(value).clip(1, 8)
    numbers[:, _VALUE] = np.where(kind == Operation.POSTERIZE, 2.0 ** (8 - bits), value)
    numbers[:, _LEFT] = np.floor(np.maximum((drawn.x[rows, turn] - value / 2) * side, 0))
    numbers[:, _TOP] = np.floor(np.maximum((drawn.y[rows, turn] - value / 2) * side, 0))
    numbers[:, _MATRIX] = _matrices(kind, value).reshape(-1, 6)
    return numbers


def _matrices(kind: Ints, value: Floats) -> Floats:
    """(M, 2, 3) maps from positions in the new view to positions in the old one, both within -1 and 1."""
    matrices = np.tile(np.eye(2, 3), (len(kind), 1, 1))
    angle = np.deg2rad(np.where(kind == Operation.ROTATE, value, 0.0))
    matrices[:, 0, 0] = matrices[:, 1, 1] = np.cos(angle)
    matrices[:, 0, 1], matrices[:, 1, 0] = -np.sin(angle), np.sin(angle)
    for axis, (shear, translate) in enumerate(
        [(Operation.SHEAR_X, Operation.TRANSLATE_X), (Operation.SHEAR_Y, Operation.TRANSLATE_Y)]
    ):
        sheared = np.where(kind == shear, value, 0.0)
        matrices[:, axis, 1 - axis] += sheared
        matrices[:, axis, 2] = sheared + np.where(kind == translate, 2 * value, 0.0)
    return matrices


def _moved(pixels: Tensor, numbers: Tensor) -> Tensor:
    grid = F.affine_grid(numbers[:, _MATRIX].reshape(-1, 2, 3), list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, mode="nearest", padding_mode="zeros", align_corners=False)


def _contrast_stretched(pixels: Tensor, _: Tensor) -> Tensor:
    """Each channel's darkest value becomes 0 and its brightest 1."""
    low, high = pixels.amin((2, 3), keepdim=True), pixels.amax((2, 3), keepdim=True)
    return torch.where(high > low, (pixels - low) / (high - low).clamp(min=1e-12), pixels)


def _inverted(pixels: Tensor, _: Tensor) -> Tensor:
    return 1 - pixels


def _equalized(pixels: Tensor, _: Tensor) -> Tensor:
    """The 8-bit levels of each channel become about equally frequent, by the rule of Pillow."""
    levels = _levels(pixels).long().flatten(2)
    counts = levels.new_zeros(*levels.shape[:2], 256).scatter_add_(2, levels, torch.ones_like(levels))
    brightest = counts.gather(2, levels.amax(2, keepdim=True))
    step = (levels.shape[2] - brightest) // 255
    below = counts.cumsum(2) - counts
    table = ((below + step // 2) // step.clamp(min=1)).clamp(max=255)
    table = torch.where(step > 0, table, torch.arange(256, device=pixels.device))
    return (table.gather(2, levels).float() / 255).view_as(pixels)


def _solarized(pixels: Tensor, numbers: Tensor) -> Tensor:
    return torch.where(_levels(pixels) >= _column(numbers, _VALUE), 1 - pixels, pixels)


def _posterized(pixels: Tensor, numbers: Tensor) -> Tensor:
    step = _column(numbers, _VALUE)
    return torch.floor(_levels(pixels) / step) * step / 255


def _contrasted(pixels: Tensor, numbers: Tensor) -> Tensor:
    return _blended(pixels, _gray(pixels).mean((2, 3), keepdim=True), numbers)


def _colored(pixels: Tensor, numbers: Tensor) -> Tensor:
    return _blended(pixels, _gray(pixels), numbers)


def _brightened(pixels: Tensor, numbers: Tensor) -> Tensor:
    return (pixels * _column(numbers, _VALUE)).clamp_(0, 1)


def _sharpened(pixels: Tensor, numbers: Tensor) -> Tensor:
    """Moves away from (or toward) the view smoothed by Pillow's kernel, which has 5 in its center and 1 around it."""
    if pixels.shape[3] < 3:
        return pixels
    inner = (..., slice(1, -1), slice(1, -1))
    lines = pixels[..., :-2] + pixels[..., 1:-1] + pixels[..., 2:]
    smooth = pixels.clone()
    smooth[inner] = (lines[..., :-2, :] + lines[..., 1:-1, :] + lines[..., 2:, :] + 4 * pixels[inner]) / 13
    return _blended(pixels, smooth, numbers)


def _cut_out(pixels: Tensor, numbers: Tensor) -> Tensor:
    """Fills a square with one color, including the pixels at both ends."""
    side = pixels.shape[3]
    place = torch.arange(side, device=pixels.device)
    left, top, extent = numbers[:, _LEFT, None], numbers[:, _TOP, None], numbers[:, _VALUE, None] * side
    across = (place >= left) & (place <= left + extent)
    down = (place >= top) & (place <= top + extent)
    inside = down[:, :, None] & across[:, None]
    for channel, value in enumerate(_CUTOUT_COLOR):
        pixels[:, channel].masked_fill_(inside, value)
    return pixels


def _levels(pixels: Tensor) -> Tensor:
    """The 8-bit levels, on which operations with thresholds are defined."""
    return (pixels * 255).round_()


def _gray(pixels: Tensor) -> Tensor:
    red, green, blue = pixels.unbind(1)
    gray: Tensor = float(LUMA[0]) * red + float(LUMA[1]) * green + float(LUMA[2]) * blue
    return gray[:, None]


def _blended(pixels: Tensor, other: Tensor, numbers: Tensor) -> Tensor:
    """Interpolates from `other` at value 0 to the pixels at value 1, and extrapolates beyond."""
    return (other + _column(numbers, _VALUE) * (pixels - other)).clamp_(0, 1)


def _column(numbers: Tensor, which: int) -> Tensor:
    return numbers[:, which, None, None, None]


_Change: TypeAlias = Callable[[Tensor, Tensor], Tensor]


def _only(operation: Operation) -> slice:
    return slice(operation, operation + 1)


_CHANGES: Final[tuple[tuple[slice, _Change], ...]] = (
    (_GEOMETRY, _moved),
    (_only(Operation.AUTO_CONTRAST), _contrast_stretched),
    (_only(Operation.INVERT), _inverted),
    (_only(Operation.EQUALIZE), _equalized),
    (_only(Operation.SOLARIZE), _solarized),
    (_only(Operation.POSTERIZE), _posterized),
    (_only(Operation.CONTRAST), _contrasted),
    (_only(Operation.COLOR), _colored),
    (_only(Operation.BRIGHTNESS), _brightened),
    (_only(Operation.SHARPNESS), _sharpened),
    (_only(Operation.CUTOUT), _cut_out),
)
"""The function for each range of operations. Its arguments are a copy of the pixels (M, 3, S, S) of the views that drew
one of them, which it may overwrite, and their numbers (M, 9)."""
