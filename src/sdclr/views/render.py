"""Draws views as batches of tensors, on the CPU or a GPU.

Every step of a view is linear, so rendering needs little computation. Crop, antialiased resize and flip are separable:
two matrix products with weights that depend only on the box. The whole color chain is one affine map of RGB. A blur is
two more products. Values are clamped to their range after the resize and at the end. They are not clamped after each
color operation, and not rounded to 8 bits in between. On CIFAR-10, with the default strengths but no hue shift, views
differ from torchvision's step-by-step views of 8-bit values by 1.6/255 on average and 11/255 at the 99th percentile.
Where no value is clamped, they are the same.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdclr.views.parameters import BRIGHTNESS, CONTRAST, HUE, SATURATION, ViewParameters

Floats: TypeAlias = NDArray[np.float64]

LUMA: Final = np.array([0.2989, 0.587, 0.114])
"""Weights of the gray value (ITU-R BT.601, with the digits that torchvision uses)."""

# Layout of the numbers of a view, which contain all that rendering needs. _PLACE_DOWN and _PLACE_ACROSS are indices of
# the view's box in the weight tables.
_LEFT, _WIDTH, _TOP, _HEIGHT, _FLIP, _SIGMA, _PLACE_DOWN, _PLACE_ACROSS = range(8)
_PIXEL_MAP, _MEAN_MAP = slice(8, 17), slice(17, 26)
_NUMBERS: Final = 26

_TABLE_SIDE: Final = 64
_TABLE_BYTES: Final = 64 * 2**20
_CACHE_BYTES: Final = 9 * 2**17


def render(
    images: Tensor,
    params: ViewParameters,
    image_size: int,
    *,
    channels_last: bool = False,
    compile: bool = False,  # noqa: A002  # torch's word
) -> Tensor:
    """Draws one view of each image.

    On a GPU the host does not wait: it packs the parameters, starts their copy and queues the kernels.

    Args:
        images: (N, 3, H, W) uint8.
        params: The N views, with boxes inside H x W.
        image_size: Side S of the views.
        channels_last: Use torch's memory layout of that name for the views, at no cost here.
        compile: Use `torch.compile`: fewer kernels, after a compilation for each new shape. For GPUs; on a CPU the
            compilation takes longer than it saves.

    Returns:
        (N, 3, S, S) float32 in [0, 1], on the device of `images`.

    Raises:
        ValueError: If `images` has the wrong type or shape, or the number of views is not N.
    """
    return _render_all(images, [params], image_size, channels_last=channels_last, compiled=compile)[0]


def render_views(
    images: Tensor,
    views: Sequence[ViewParameters],
    image_size: int,
    *,
    channels_last: bool = False,
    compile: bool = False,  # noqa: A002  # torch's word
) -> Tensor:
    """Draws V views of each image, and reads each image only once. See `render`.

    Args:
        images: (N, 3, H, W) uint8.
        views: The parameters of V views, each for all N images.
        image_size: Side S of the views.
        channels_last: Use torch's memory layout of that name for each view.
        compile: Use `torch.compile`.

    Returns:
        (V, N, 3, S, S) float32 in [0, 1], on the device of `images`.

    Raises:
        ValueError: If `images` has the wrong type or shape, or the number of views is not N.
    """
    return _render_all(images, views, image_size, channels_last=channels_last, compiled=compile)


def to_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """Copy an array to a tensor on a device without waiting. A copy to a GPU uses pinned memory."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


@torch.no_grad()
def _render_all(
    images: Tensor, views: Sequence[ViewParameters], image_size: int, *, channels_last: bool, compiled: bool
) -> Tensor:
    """`render` for V views of the same images: (V, N, 3, S, S)."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must be uint8 of shape (N, 3, H, W), not {images.dtype} of {tuple(images.shape)}")
    if any(len(params) != len(images) for params in views):
        raise ValueError(f"{[len(params) for params in views]} views were drawn for {len(images)} images")
    device, (count, _, rows, columns) = images.device, images.shape
    packed = _packed(views, rows, columns)
    numbers = to_device(packed, device)
    tables = _tables(rows, columns, image_size, device)
    out = _empty(len(views), count, image_size, channels_last=channels_last, device=device)
    blurred: Tensor | slice | None = slice(None) if packed[..., _SIGMA].any() else None
    chunk = _chunk(images, len(views), image_size)
    with torch.autocast(device.type, enabled=False):
        for begin in range(0, count, chunk):
            part = slice(begin, begin + chunk)
            if blurred is not None and device.type == "cpu" and not compiled:
                # On a CPU, skipping unblurred views saves time, and shapes may differ between chunks.
                blurred = torch.from_numpy(np.flatnonzero(packed[part, :, _SIGMA]))
            (_compiled() if compiled else draw)(images[part], numbers[part], tables, out[:, part], blurred=blurred)
    return out


def _empty(views: int, count: int, size: int, *, channels_last: bool, device: torch.device) -> Tensor:
    """Allocate (V, N, 3, S, S) floats; each view (N, 3, S, S) has the requested memory layout."""
    if channels_last:
        return torch.empty(views, count, size, size, 3, device=device).permute(0, 1, 4, 2, 3)
    return torch.empty(views, count, 3, size, size, device=device)


def _chunk(images: Tensor, views: int, image_size: int) -> int:
    """Number of images to render at once. On a CPU, the input and output of each step fit into its cache."""
    if images.device.type != "cpu":
        return max(1, len(images))
    floats = 3 * max(images.shape[2] * images.shape[3], image_size**2)
    return max(1, _CACHE_BYTES // (4 * floats * views))


def _packed(views: Sequence[ViewParameters], rows: int, columns: int) -> NDArray[np.float32]:
    """(N, V, 26) float32: all numbers of all views, for a single copy to the device."""
    numbers = np.empty((len(views[0]), len(views), _NUMBERS), dtype=np.float32)
    for number, params in enumerate(views):
        view = numbers[:, number]
        view[:, _LEFT], view[:, _WIDTH] = params.left, params.width
        view[:, _TOP], view[:, _HEIGHT] = params.top, params.height
        view[:, _FLIP], view[:, _SIGMA] = params.flip, params.sigma
        view[:, _PLACE_DOWN] = _place(params.top, params.height, rows)
        view[:, _PLACE_ACROSS] = _place(params.left, params.width, columns) + _boxes(columns) * params.flip
        pixel_map, mean_map = color_maps(params)
        view[:, _PIXEL_MAP], view[:, _MEAN_MAP] = pixel_map.reshape(-1, 9), mean_map.reshape(-1, 9)
    numbers[..., _PIXEL_MAP.start :] /= 255  # input pixels range from 0 to 255, output from 0 to 1
    return numbers


@lru_cache(maxsize=1)
def _compiled() -> Callable[..., None]:
    """`draw`, compiled by torch for each shape."""
    compiled: Callable[..., None] = torch.compile(draw, dynamic=False)
    return compiled


def draw(
    images: Tensor,
    numbers: Tensor,
    tables: tuple[Tensor | None, Tensor | None],
    out: Tensor,
    *,
    blurred: Tensor | slice | None,
) -> None:
    """Draws V views of each image. This is the device part of rendering, as one graph of fixed shapes.

    No operation in it makes the host wait for the device.

    Args:
        images: (N, 3, H, W) uint8.
        numbers: (N, V, 26) float32, the packed parameters.
        tables: Resize weights of all boxes, down and across; None if they must be computed.
        out: (V, N, 3, S, S) float32 that receives the views, in any memory layout.
        blurred: Indices of the N * V views to blur, or `slice(None)` for all, including those with sigma 0.
    """
    count, _, rows, columns = images.shape
    views, size = numbers.shape[1], out.shape[3]
    total = count * views
    flat = numbers.view(total, _NUMBERS)
    down = _down_weights(flat, rows, size, tables[0])
    across = _across_weights(flat, columns, size, tables[1])
    # With the channels between rows and columns, each of the two products handles all channels and all views.
    lines = images.float().transpose(1, 2).reshape(count, rows, 3 * columns)
    lines = torch.bmm(down.view(count, views * size, rows), lines).view(total, size * 3, columns)
    lines = torch.bmm(lines, across).clamp_(0, 255).view(total, size, 3, size)
    pixels = lines.transpose(1, 2).reshape(total, 3, size * size)
    shift = _mapped(flat[:, _MEAN_MAP], pixels.mean(2, keepdim=True))
    drawn = _mapped(flat[:, _PIXEL_MAP], pixels).add_(shift).clamp_(0, 1).view(total, 3, size, size)
    if blurred is not None:
        drawn[blurred] = _blurred(drawn[blurred], flat[blurred, _SIGMA])
    out.copy_(drawn.view(count, views, 3, size, size).transpose(0, 1))


def _mapped(maps: Tensor, pixels: Tensor) -> Tensor:
    """Apply maps (N, 9), stored row by row, to (N, 3, P) colors."""
    maps = maps.reshape(-1, 3, 3)
    if not torch.compiler.is_compiling():
        return torch.bmm(maps, pixels)
    # torch.compile fuses this sum of three terms with the operations before and after it.
    return (maps[..., None] * pixels[:, None]).sum(2)


def _blurred(views: Tensor, sigma: Tensor) -> Tensor:
    """Blurs (N, 3, S, S) views by their sigma (N,)."""
    count, _, size, _ = views.shape
    kernels = blur_weights(sigma, size)
    lines = torch.bmm(views.reshape(count, 3 * size, size), kernels.transpose(1, 2)).view(count, 3, size, size)
    lines = torch.bmm(kernels, lines.transpose(1, 2).reshape(count, size, 3 * size))
    return lines.clamp_(0, 1).view(count, size, 3, size).transpose(1, 2)


def _down_weights(numbers: Tensor, in_size: int, out_size: int, table: Tensor | None) -> Tensor:
    """(N, out_size, in_size) weights that resize image rows to view rows."""
    if table is not None:
        return table.index_select(0, numbers[:, _PLACE_DOWN].long())
    return resize_weights(numbers[:, _TOP], numbers[:, _HEIGHT], in_size, out_size)


def _across_weights(numbers: Tensor, in_size: int, out_size: int, table: Tensor | None) -> Tensor:
    """(N, in_size, out_size) weights that resize image columns to view columns, reversed if flipped."""
    if table is not None:
        return table.index_select(0, numbers[:, _PLACE_ACROSS].long())
    weights = resize_weights(numbers[:, _LEFT], numbers[:, _WIDTH], in_size, out_size)
    return torch.where(numbers[:, _FLIP, None, None] > 0, weights.flip(1), weights).transpose(1, 2)


def _boxes(in_size: int) -> int:
    """Number of boxes that fit along an axis."""
    return in_size * (in_size + 1) // 2


def _place(start: NDArray[np.int64], size: NDArray[np.int64], in_size: int) -> NDArray[np.int64]:
    """Table indices of boxes, ordered by size (n of size 1, n - 1 of size 2, …), then by start."""
    return (size - 1) * (in_size + 1) - (size - 1) * size // 2 + start


def _tables(rows: int, columns: int, size: int, device: torch.device) -> tuple[Tensor | None, Tensor | None]:
    """The weight tables for `draw`."""
    return _down_table(rows, size, device), _across_table(columns, size, device)


@lru_cache(maxsize=8)
def _down_table(in_size: int, out_size: int, device: torch.device) -> Tensor | None:
    """(boxes, out_size, in_size) weights of every box that fits along an axis; None if there are too many."""
    if in_size > _TABLE_SIDE or 2 * _boxes(in_size) * out_size * in_size * 4 > _TABLE_BYTES:
        return None
    start, size = np.array([(start, size) for size in range(1, in_size + 1) for start in range(in_size - size + 1)]).T
    return resize_weights(to_device(start.copy(), device), to_device(size.copy(), device), in_size, out_size)


@lru_cache(maxsize=8)
def _across_table(in_size: int, out_size: int, device: torch.device) -> Tensor | None:
    """(2 * boxes, in_size, out_size) weights of the same boxes, followed by those of flipped views."""
    weights = _down_table(in_size, out_size, device)
    return None if weights is None else torch.cat([weights, weights.flip(1)]).transpose(1, 2).contiguous()


def resize_weights(start: Tensor, size: Tensor, in_size: int, out_size: int) -> Tensor:
    """Weights of the antialiased bicubic resize of boxes, along one axis.

    The cubic kernel (Keys, *Cubic convolution interpolation*, 1981, a = -0.5) is stretched by size / out_size if the
    box shrinks, cut at the border of the box and normalized to sum 1, as in Pillow and torch's `antialias=True`.

    Args:
        start: (N,) first pixel of each box, as whole numbers of any type.
        size: (N,) pixels of each box, likewise.
        in_size: Pixels of the image along the axis.
        out_size: Pixels of the view along the axis.

    Returns:
        (N, out_size, in_size) float32; rows sum to 1 and are zero outside the box.
    """
    step = size[:, None].double() / out_size
    center = (torch.arange(out_size, device=start.device) + 0.5) * step + start[:, None]
    pixel = torch.arange(in_size, device=start.device)
    distance = ((pixel + 0.5) - center[..., None]) / step.clamp(min=1)[..., None]
    x = distance.float().abs_()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = torch.where(x < 1, near, torch.where(x < 2, far, 0))
    inside = (pixel >= start[:, None]) & (pixel < (start + size)[:, None])
    weights *= inside[:, None]
    return weights / weights.sum(2, keepdim=True)


def blur_weights(sigma: Tensor, size: int) -> Tensor:
    """A Gaussian blur along one axis as a matrix, with reflected borders (the edge pixel is not repeated).

    The kernel extends `blur_radius` pixels to each side.

    Args:
        sigma: (N,) standard deviations in pixels; 0 = no blur.
        size: Pixels S along the axis.

    Returns:
        (N, S, S) float32; rows sum to 1.
    """
    distance = torch.arange(2 * size, device=sigma.device)
    kernel = torch.exp(-0.5 * (distance / sigma.clamp(min=1e-3)[:, None]) ** 2).float()
    kernel.masked_fill_(distance > blur_radius(sigma, size)[:, None], 0)
    kernel /= 2 * kernel.sum(1, keepdim=True) - kernel[:, :1]
    # A pixel contributes directly, mirrored at the first pixel (except that pixel itself), and mirrored at the last.
    weights = torch.cat([kernel[:, 1:size].flip(1), kernel[:, :size]], dim=1).unfold(1, size, 1).flip(1)
    mirrored = kernel.unfold(1, size, 1)[:, :size]
    weights[:, :, 1:] += mirrored[:, :, 1:]
    weights[:, :, :-1] += mirrored.flip(1, 2)[:, :, :-1]
    return weights


def blur_radius(sigma: Tensor, size: int) -> Tensor:
    """Radius of a blur in pixels: ceil(3 sigma), at least 1, at most size - 1, which a border can reflect."""
    return torch.ceil(3 * sigma).clamp(min=1).clamp(max=size - 1)


def color_maps(params: ViewParameters) -> tuple[Floats, Floats]:
    """The whole color chain of each view as one affine map: a pixel x becomes `pixel_map @ x + mean_map @ mean`.

    `mean` is the mean RGB of the view before the chain. Brightness, contrast, saturation and grayscale are those of
    torchvision (contrast blends with the mean gray of the view at that point of the chain, which is linear in `mean`).
    Hue is a rotation about the gray axis, see `hue_rotations`.

    Args:
        params: N views.

    Returns:
        `pixel_map` and `mean_map`, each (N, 3, 3), for RGB in any unit.
    """
    count = len(params)
    gray_of = np.broadcast_to(LUMA, (3, 3))
    brightness, contrast, saturation, hue = params.factors.T[:, :, None, None]
    # Each operation is a pair of matrices: its effect on a pixel and its effect on the mean of the view.
    steps = np.empty((count, 4, 2, 3, 3))
    steps[:, BRIGHTNESS] = (brightness * np.eye(3))[:, None]
    steps[:, CONTRAST, 0] = contrast * np.eye(3)
    steps[:, CONTRAST, 1] = contrast * np.eye(3) + (1 - contrast) * gray_of
    steps[:, SATURATION] = (saturation * np.eye(3) + (1 - saturation) * gray_of)[:, None]
    steps[:, HUE] = hue_rotations(hue[:, 0, 0])[:, None]
    samples = np.arange(count)
    chain = steps[samples, params.order[:, 0]]
    for place in range(1, 4):
        chain = steps[samples, params.order[:, place]] @ chain
    chain[params.gray] = gray_of @ chain[params.gray]
    return chain[:, 0], chain[:, 1] - chain[:, 0]


def hue_rotations(turns: Floats) -> Floats:
    """Hue shifts as (N, 3, 3) matrices: rotations of RGB about the gray axis.

    Gray stays gray, and each pixel keeps its mean and its distance from gray. A third of a turn maps red to green, as
    with HSV hue. Between thirds HSV moves along a hexagon, so the two differ. On CIFAR-10, for shifts within 0.1 turns,
    they differ by 2.8/255 on average and 20/255 at the 99th percentile; an image and its shifted copy differ by 3.4
    and 42. A rotation that keeps the luma instead is farther from HSV: 4.6 and 33.
    """
    gray = np.full((3, 3), 1 / 3)
    turned = np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / np.sqrt(3)
    angle = 2 * np.pi * turns[:, None, None]
    rotations: Floats = gray + np.cos(angle) * (np.eye(3) - gray) + np.sin(angle) * turned
    return rotations
