"""Draws views as batches of tensors, on the CPU or a GPU.

Every step of a view is linear, which leaves little to compute. Crop, antialiased resize and flip are separable: two
matrix products with weights that depend on the box alone. The whole colour chain is one affine map of RGB. A blur is
two more products. Values are clamped to their range after the resize and at the end, not after each colour operation
nor rounded to 8 bits in between: on CIFAR-10, with the default strengths but no hue shift, views differ from those that
torchvision draws step by step on 8-bit values by 1.6/255 in the mean and 11/255 at the 99th percentile. Where nothing
clamps, they are the same.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdclr.data.views import BRIGHTNESS, CONTRAST, HUE, SATURATION, ViewParameters

Floats: TypeAlias = NDArray[np.float64]

LUMA: Final = np.array([0.2989, 0.587, 0.114])
"""Weights of the grey value (ITU-R BT.601, with the digits that torchvision uses)."""

_TABLE_SIDE: Final = 64
_TABLE_BYTES: Final = 64 * 2**20
_CACHE_BYTES: Final = 3 * 2**19


def render(images: Tensor, params: ViewParameters, image_size: int) -> Tensor:
    """Draws one view of each image.

    Args:
        images: (N, 3, H, W) uint8.
        params: The N views, with boxes inside H x W.
        image_size: Side S of the views.

    Returns:
        (N, 3, S, S) float32 in [0, 1], on the device of `images`.

    Raises:
        ValueError: If `images` has another type or shape, or the number of views is not N.
    """
    return _render_all(images, [params], image_size)[0]


def render_pair(
    images: Tensor, params1: ViewParameters, params2: ViewParameters, image_size: int
) -> tuple[Tensor, Tensor]:
    """Draws two views of each image, which share the conversion from uint8. See `render`."""
    view1, view2 = _render_all(images, [params1, params2], image_size)
    return view1, view2


@torch.no_grad()
def _render_all(images: Tensor, views: Sequence[ViewParameters], image_size: int) -> list[Tensor]:
    """`render` for several views of the same images."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must be uint8 of shape (N, 3, H, W), not {images.dtype} of {tuple(images.shape)}")
    if any(len(params) != len(images) for params in views):
        raise ValueError(f"{[len(params) for params in views]} views were drawn for {len(images)} images")
    device = images.device
    outs = [torch.empty(len(images), 3, image_size, image_size, device=device) for _ in views]
    maps = [_colour_tensors(params, device) for params in views]
    chunk = _chunk(images, image_size)
    with torch.autocast(device.type, enabled=False):
        for begin in range(0, len(images), chunk):
            part = slice(begin, begin + chunk)
            floats = images[part].to(torch.float32, memory_format=torch.contiguous_format)
            for out, params, colours in zip(outs, views, maps, strict=True):
                _render_part(floats, params.take(part), colours[:, part], out[part])
    return outs


def _chunk(images: Tensor, image_size: int) -> int:
    """Images to render at once: on a CPU, so many that each step's input and output stay in its cache."""
    if images.device.type != "cpu":
        return max(1, len(images))
    floats = 3 * max(images.shape[2] * images.shape[3], image_size**2)
    return max(1, _CACHE_BYTES // (4 * floats))


def _render_part(images: Tensor, params: ViewParameters, colours: Tensor, out: Tensor) -> None:
    """Renders into `out` what `_render_all` has checked and converted to floats."""
    count, channels, rows, columns = images.shape
    size, device = out.shape[3], images.device
    across = _axis_weights(params.left, params.width, params.flip, columns, size, device=device)
    down = _axis_weights(params.top, params.height, np.zeros_like(params.flip), rows, size, device=device)
    views = torch.bmm(images.view(count, channels * rows, columns), across.transpose(1, 2))
    views = torch.matmul(down[:, None], views.view(count, channels, rows, size))
    flat = views.view(count, channels, size * size).clamp_(0, 255)
    shift = torch.bmm(colours[1], flat.mean(2, keepdim=True))
    coloured = torch.bmm(colours[0], flat).add_(shift)
    torch.clamp(coloured, 0, 1, out=out.view(count, channels, size * size))
    blurred = np.flatnonzero(params.sigma)
    if len(blurred):
        which = torch.from_numpy(blurred).to(device)
        kernels = blur_weights(torch.from_numpy(params.sigma[blurred]).to(device), size)[:, None]
        out[which] = torch.matmul(torch.matmul(kernels, out[which]), kernels.transpose(2, 3)).clamp_(0, 1)


def _colour_tensors(params: ViewParameters, device: torch.device) -> Tensor:
    """(2, N, 3, 3) `colour_maps`, for pixels within 0 and 255 that become 0 to 1."""
    return torch.from_numpy(np.stack(colour_maps(params)).astype(np.float32) / np.float32(255)).to(device)


def _axis_weights(
    start: NDArray[np.int64],
    size: NDArray[np.int64],
    flip: NDArray[np.bool_],
    in_size: int,
    out_size: int,
    *,
    device: torch.device,
) -> Tensor:
    """(N, out_size, in_size) resize weights of each box along one axis, reversed where flipped."""
    boxes = in_size * (in_size + 1) // 2
    if in_size <= _TABLE_SIDE and 2 * boxes * out_size * in_size * 4 <= _TABLE_BYTES:
        # Boxes in order of their size: n of size 1, n - 1 of size 2, ...
        key = (size - 1) * (in_size + 1) - (size - 1) * size // 2 + start + boxes * flip
        return _weight_table(in_size, out_size, device).index_select(0, torch.from_numpy(key).to(device))
    weights = resize_weights(torch.from_numpy(start).to(device), torch.from_numpy(size).to(device), in_size, out_size)
    return torch.where(torch.from_numpy(flip).to(device)[:, None, None], weights.flip(1), weights)


@lru_cache(maxsize=8)
def _weight_table(in_size: int, out_size: int, device: torch.device) -> Tensor:
    """The weights of every box that fits along an axis, and after them the same flipped."""
    sizes = torch.arange(1, in_size + 1)
    size = sizes.repeat_interleave(in_size - sizes + 1)
    start = torch.cat([torch.arange(in_size - int(box) + 1) for box in sizes])
    weights = resize_weights(start, size, in_size, out_size)
    return torch.cat([weights, weights.flip(1)]).to(device)


def resize_weights(start: Tensor, size: Tensor, in_size: int, out_size: int) -> Tensor:
    """Weights with which pixels of a box make up the pixels of its antialiased bicubic resize, along one axis.

    The cubic kernel (Keys, *Cubic convolution interpolation*, 1981, a = -0.5) is stretched by size / out_size where
    the box shrinks, cut at the border of the box and normalised to sum 1, as by Pillow and torch's `antialias=True`.

    Args:
        start: (N,) first pixel of each box.
        size: (N,) pixels of each box.
        in_size: Pixels of the image along the axis.
        out_size: Pixels of the view along the axis.

    Returns:
        (N, out_size, in_size) float32; rows sum to 1 and are zero outside the box.
    """
    step = size[:, None].double() / out_size
    centre = (torch.arange(out_size, device=start.device) + 0.5) * step + start[:, None]
    pixel = torch.arange(in_size, device=start.device)
    distance = ((pixel + 0.5) - centre[..., None]) / step.clamp(min=1)[..., None]
    x = distance.float().abs_()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = torch.where(x < 1, near, torch.where(x < 2, far, 0))
    inside = (pixel >= start[:, None]) & (pixel < (start + size)[:, None])
    weights *= inside[:, None]
    return weights / weights.sum(2, keepdim=True)


def blur_weights(sigma: Tensor, size: int) -> Tensor:
    """A Gaussian blur along one axis as a matrix, with borders that reflect (the edge pixel is not repeated).

    The kernel reaches `blur_radius` pixels to either side.

    Args:
        sigma: (N,) standard deviations in pixels, above 0.
        size: Pixels S along the axis.

    Returns:
        (N, S, S) float32; rows sum to 1.
    """
    distance = torch.arange(2 * size, device=sigma.device)
    kernel = torch.exp(-0.5 * (distance / sigma[:, None]) ** 2).float()
    kernel.masked_fill_(distance > blur_radius(sigma, size)[:, None], 0)
    # A pixel is seen directly, mirrored at the first pixel (unless it is that one), and mirrored at the last.
    here, there = distance[:size, None], distance[None, :size]
    weights = kernel[:, (there - here).abs()]
    weights[:, :, 1:] += kernel[:, there[:, 1:] + here]
    weights[:, :, :-1] += kernel[:, 2 * (size - 1) - there[:, :-1] - here]
    return weights / weights.sum(2, keepdim=True)


def blur_radius(sigma: Tensor, size: int) -> Tensor:
    """Pixels that a blur reaches to either side: ceil(3 sigma), at least 1, at most what a border can reflect."""
    return torch.ceil(3 * sigma).clamp(min=1).clamp(max=size - 1)


def colour_maps(params: ViewParameters) -> tuple[Floats, Floats]:
    """The whole colour chain of each view as one affine map: a pixel x becomes `pixel_map @ x + mean_map @ mean`.

    `mean` is the mean RGB of the view before the chain. Brightness, contrast, saturation and greyscale are those of
    torchvision (contrast blends with the mean grey of the view at that point of the chain, which is linear in `mean`).
    Hue is a rotation about the grey axis, see `hue_rotations`.

    Args:
        params: N views.

    Returns:
        `pixel_map` and `mean_map`, each (N, 3, 3), for RGB in any unit.
    """
    count = len(params)
    grey_of = np.broadcast_to(LUMA, (3, 3))
    brightness, contrast, saturation, hue = params.factors.T[:, :, None, None]
    # Each operation as a pair: what it does to a pixel, and what it does to the mean of the view.
    steps = np.empty((count, 4, 2, 3, 3))
    steps[:, BRIGHTNESS] = (brightness * np.eye(3))[:, None]
    steps[:, CONTRAST, 0] = contrast * np.eye(3)
    steps[:, CONTRAST, 1] = contrast * np.eye(3) + (1 - contrast) * grey_of
    steps[:, SATURATION] = (saturation * np.eye(3) + (1 - saturation) * grey_of)[:, None]
    steps[:, HUE] = hue_rotations(hue[:, 0, 0])[:, None]
    samples = np.arange(count)
    chain = steps[samples, params.order[:, 0]]
    for place in range(1, 4):
        chain = steps[samples, params.order[:, place]] @ chain
    chain[params.grey] = grey_of @ chain[params.grey]
    return chain[:, 0], chain[:, 1] - chain[:, 0]


def hue_rotations(turns: Floats) -> Floats:
    """Hue shifts as (N, 3, 3) matrices: rotations of RGB about the grey axis.

    Grey stays grey, and each pixel keeps its mean and its distance from grey. A third of a turn takes red to green as
    that of HSV hue does; between thirds HSV moves along a hexagon, so that the two differ. On CIFAR-10 and for shifts
    within 0.1 turns they differ by 2.8/255 in the mean and 20/255 at the 99th percentile (an image from its shifted
    self: 3.4 and 42). The rotation that keeps the luma instead is farther from HSV: 4.6 and 33.
    """
    grey = np.full((3, 3), 1 / 3)
    turned = np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / np.sqrt(3)
    angle = 2 * np.pi * turns[:, None, None]
    rotations: Floats = grey + np.cos(angle) * (np.eye(3) - grey) + np.sin(angle) * turned
    return rotations
