"""Draws views of large images, on 8-bit values: for the workers that decode images on the CPU.

The same picture as `sdclr.data.render` draws, within rounding: this renderer keeps 8-bit values between its steps, as
image libraries do, and takes less time for it on a CPU (docs/results/speed.md).
"""

from collections.abc import Sequence
from typing import TypeAlias

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from sdclr.data.render import blur_radius, colour_maps
from sdclr.data.views import ViewParameters

Image: TypeAlias = NDArray[np.uint8]


def render_cv(image: Image, params: ViewParameters, image_size: int) -> Image:
    """Draws one view of one image.

    Args:
        image: (H, W, 3) uint8, RGB.
        params: One view, with its box inside H x W.
        image_size: Side S of the view.

    Returns:
        (S, S, 3) uint8, RGB.

    Raises:
        ValueError: If `image` has another type or shape, or there is not exactly one view.
    """
    view: Image = np.empty((image_size, image_size, 3), dtype=np.uint8)
    render_cv_batch([image], params, view[None])
    return view


def render_cv_batch(images: Sequence[Image], params: ViewParameters, out: Image) -> None:
    """Draws one view of each image, into memory that is there.

    Args:
        images: N of (H, W, 3) uint8, RGB, each of its own size.
        params: N views, each with its box inside its image.
        out: (N, S, S, 3) uint8: gets the views, RGB. Each lies in one piece.

    Raises:
        ValueError: If an image or `out` has another type or shape, or there is not one view for each image.
    """
    for image in images:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"images must be uint8 of shape (H, W, 3), not {image.dtype} of {image.shape}")
    if len(params) != len(images):
        raise ValueError(f"give one view for each image, not {len(params)} for {len(images)}")
    size = out.shape[1]
    if out.dtype != np.uint8 or out.shape != (len(images), size, size, 3) or not out[0].flags.c_contiguous:
        raise ValueError(f"out must be uint8 of shape ({len(images)}, S, S, 3), not {out.dtype} of {out.shape}")
    boxes = np.stack([params.top, params.left, params.height, params.width], axis=1)
    radii = blur_radius(torch.from_numpy(params.sigma), size).int().numpy()
    pixel_maps, mean_maps = colour_maps(params)
    affine = np.concatenate([pixel_maps, np.empty((len(images), 3, 1))], axis=2)
    # Nothing is drawn into new memory, which takes as long to come by as a step to compute.
    crops = np.empty(3 * np.max(params.height * params.width), dtype=np.uint8)
    resized = np.empty((size, size, 3), dtype=np.uint8)
    flipped, coloured = np.empty_like(resized), np.empty_like(resized)
    for number, image in enumerate(images):
        top, left, height, width = boxes[number].tolist()
        crop = crops[: 3 * height * width].reshape(height, width, 3)
        np.copyto(crop, image[top : top + height, left : left + width])
        _resize(crop, resized)
        view = cv2.flip(resized, 1, dst=flipped) if params.flip[number] else resized
        affine[number, :, 3] = mean_maps[number] @ cv2.mean(view)[:3]
        sigma = float(params.sigma[number])
        cv2.transform(view, affine[number], dst=coloured if sigma > 0 else out[number])
        if sigma > 0:
            # On 8 bits, `GaussianBlur` takes twice the time and rounds less well.
            kernel = cv2.getGaussianKernel(2 * int(radii[number]) + 1, sigma)
            cv2.sepFilter2D(coloured, -1, kernel, kernel, dst=out[number], borderType=cv2.BORDER_REFLECT_101)


def _resize(crop: Image, out: Image) -> None:
    """Antialiased bicubic resize: torch's, which is Pillow's to a rounding.

    OpenCV's bicubic leaves out pixels where an image shrinks. Its area mean takes more time than this, and is blurred.

    Args:
        crop: (H, W, 3), in one piece.
        out: (S, S, 3), in one piece: gets the view.
    """
    # What `interpolate(antialias=True)` calls, which has no `out`. The added axis comes first in memory too: else torch
    # does not see `channels_last` and transposes.
    torch.ops.aten._upsample_bicubic2d_aa.out(  # noqa: SLF001
        torch.from_numpy(crop)[None].permute(0, 3, 1, 2),
        list(out.shape[:2]),
        align_corners=False,
        out=torch.from_numpy(out)[None].permute(0, 3, 1, 2),
    )
