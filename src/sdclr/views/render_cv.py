"""Draws views of large images with 8-bit values, in the workers that decode images on the CPU.

The views equal those of `sdclr.views.render` up to rounding. This renderer keeps 8-bit values between its steps, as
image libraries do, and is therefore faster on a CPU (docs/results/speed.md).
"""

from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias

import cv2
import numpy as np
import torch
from cv2.typing import MatLike
from numpy.typing import NDArray

from sdclr.views.parameters import ViewParameters
from sdclr.views.render import blur_radius, color_maps

Image: TypeAlias = NDArray[np.uint8]

_SAME: Final = np.array([1.0, 1.0, 1.0, 0.0])
"""Factors that change no color."""


def render_cv(image: Image, params: ViewParameters, image_size: int) -> Image:
    """Draws one view of one image.

    Args:
        image: (H, W, 3) uint8, RGB.
        params: One view, with its box inside H x W.
        image_size: Side S of the view.

    Returns:
        (S, S, 3) uint8, RGB.

    Raises:
        ValueError: If `image` has the wrong type or shape, or there is not exactly one view.
    """
    view: Image = np.empty((image_size, image_size, 3), dtype=np.uint8)
    render_cv_batch([image], params, view[None])
    return view


def render_cv_batch(images: Sequence[Image], params: ViewParameters, out: Image) -> None:
    """Draws one view of each image, into existing memory.

    Args:
        images: N images of (H, W, 3) uint8, RGB, of any sizes.
        params: N views, each with its box inside its image.
        out: (N, S, S, 3) uint8 that receives the views, RGB. Each view is contiguous.

    Raises:
        ValueError: If an image or `out` has the wrong type or shape, or there is not one view for each image.
    """
    render_cv_views(images, [params], out[None])


def render_cv_views(images: Sequence[Image], views: Sequence[ViewParameters], out: Image) -> None:
    """Draws V views of each image, into existing memory: all views of one image while it is in the processor's cache.

    Args:
        images: N images of (H, W, 3) uint8, RGB, of any sizes.
        views: The parameters of V views, each for all N images, with each box inside its image.
        out: (V, N, S, S, 3) uint8 that receives the views, RGB. Each view is contiguous.

    Raises:
        ValueError: If an image or `out` has the wrong type or shape, or there is not one view for each image.
    """
    for image in images:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"images must be uint8 of shape (H, W, 3), not {image.dtype} of {image.shape}")
    for params in views:
        if len(params) != len(images):
            raise ValueError(f"give one view for each image, not {len(params)} for {len(images)}")
    size = out.shape[2]
    shape = (len(views), len(images), size, size, 3)
    if out.dtype != np.uint8 or out.shape != shape or not out[0, 0].flags.c_contiguous:
        raise ValueError(f"out must be uint8 of shape ({len(images)}, S, S, 3), not {out.dtype} of {out.shape[1:]}")
    plans = [_plan(params, size) for params in views]
    room = _Room(max(int(np.max(params.height * params.width)) for params in views), size)
    for number, image in enumerate(images):
        for plan, drawn in zip(plans, out, strict=True):
            _draw(image, plan, number, room, drawn[number])


class _Plan(NamedTuple):
    """Views of N images, in the form that the drawing steps use."""

    boxes: list[list[int]]
    flips: list[bool]
    changes: list[bool]
    """Whether colors change."""
    affine: NDArray[np.float64]
    """(N, 3, 4); the last column depends on the mean of the view."""
    mean_maps: NDArray[np.float64]
    kernels: list[MatLike | None]
    """The kernel of each blur along one axis; None without blur."""


def _plan(params: ViewParameters, size: int) -> _Plan:
    radii = blur_radius(torch.from_numpy(params.sigma), size).int().tolist()
    pixel_maps, mean_maps = color_maps(params)
    return _Plan(
        boxes=np.stack([params.top, params.left, params.height, params.width], axis=1).tolist(),
        flips=params.flip.tolist(),
        changes=(params.gray | (params.factors != _SAME).any(axis=1)).tolist(),
        affine=np.concatenate([pixel_maps, np.empty((len(params), 3, 1))], axis=2),
        mean_maps=mean_maps,
        kernels=[
            cv2.getGaussianKernel(2 * radius + 1, sigma) if sigma > 0 else None
            for radius, sigma in zip(radii, params.sigma.tolist(), strict=True)
        ],
    )


class _Room:
    """Buffers for the drawing steps: allocating memory takes as long as computing a step."""

    def __init__(self, pixels: int, size: int) -> None:
        self.crop = np.empty(3 * pixels, dtype=np.uint8)
        self.resized, self.flipped, self.colored = (np.empty((size, size, 3), dtype=np.uint8) for _ in range(3))


def _draw(image: Image, plan: _Plan, number: int, room: _Room, out: Image) -> None:
    """Draws one view. The last step writes to `out`."""
    top, left, height, width = plan.boxes[number]
    flips, changes, kernel = plan.flips[number], plan.changes[number], plan.kernels[number]
    crop = room.crop[: 3 * height * width].reshape(height, width, 3)
    np.copyto(crop, image[top : top + height, left : left + width])
    resized = room.resized if flips or changes or kernel is not None else out
    _resize(crop, resized)
    view: MatLike = resized
    if flips:
        view = cv2.flip(view, 1, dst=room.flipped if changes or kernel is not None else out)
    if changes:
        affine = plan.affine[number]
        affine[:, 3] = plan.mean_maps[number] @ cv2.mean(view)[:3]
        view = cv2.transform(view, affine, dst=room.colored if kernel is not None else out)
    if kernel is not None:
        # With 8 bits, `GaussianBlur` takes twice the time and rounds less accurately.
        cv2.sepFilter2D(view, -1, kernel, kernel, dst=out, borderType=cv2.BORDER_REFLECT_101)


def _resize(crop: Image, out: Image) -> None:
    """Antialiased bicubic resize of torch, which equals Pillow's up to rounding.

    OpenCV's bicubic resize skips pixels if an image shrinks. Its area mean takes more time than this, and is blurred.

    Args:
        crop: (H, W, 3), contiguous.
        out: (S, S, 3), contiguous, that receives the view.
    """
    # `interpolate(antialias=True)` calls this function but has no `out`. The added axis is first in memory, too.
    # Otherwise torch does not detect `channels_last` and transposes.
    torch.ops.aten._upsample_bicubic2d_aa.out(  # noqa: SLF001
        torch.from_numpy(crop)[None].permute(0, 3, 1, 2),
        list(out.shape[:2]),
        align_corners=False,
        out=torch.from_numpy(out)[None].permute(0, 3, 1, 2),
    )
