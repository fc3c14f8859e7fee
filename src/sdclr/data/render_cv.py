"""Draws one view of one large image, on 8-bit values: for the workers that decode images on the CPU.

The same picture as `sdclr.data.render` draws, within rounding: this renderer keeps 8-bit values between its steps, as
image libraries do, and draws views of 224 px 3.4 times as fast on a CPU (docs/results/speed.md).
"""

from typing import TypeAlias

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from cv2.typing import MatLike
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
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"the image must be uint8 of shape (H, W, 3), not {image.dtype} of {image.shape}")
    if len(params) != 1:
        raise ValueError(f"one view must be given for one image, not {len(params)}")
    view: MatLike = _resized_crop(image, params, image_size)
    if params.flip[0]:
        view = cv2.flip(view, 1)
    pixel_map, mean_map = colour_maps(params)
    shift = mean_map[0] @ np.array(cv2.mean(view)[:3])
    view = cv2.transform(view, np.column_stack([pixel_map[0], shift]))
    sigma = float(params.sigma[0])
    if sigma > 0:
        side = 2 * int(blur_radius(torch.tensor(sigma), image_size)) + 1
        view = cv2.GaussianBlur(view, (side, side), sigma, borderType=cv2.BORDER_REFLECT_101)
    return np.asarray(view, dtype=np.uint8)


def _resized_crop(image: Image, params: ViewParameters, image_size: int) -> Image:
    """Crop, then antialiased bicubic resize: torch's, which is Pillow's to a rounding."""
    top, left = int(params.top[0]), int(params.left[0])
    crop = image[top : top + int(params.height[0]), left : left + int(params.width[0])].copy()
    resized = F.interpolate(
        torch.from_numpy(crop).permute(2, 0, 1)[None],
        size=(image_size, image_size),
        mode="bicubic",
        align_corners=False,
        antialias=True,
    )
    return np.ascontiguousarray(resized[0].permute(1, 2, 0).numpy())
