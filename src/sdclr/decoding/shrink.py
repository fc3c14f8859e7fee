"""Shrinks large images before views are drawn, to slightly more pixels than the crops need."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

DETAIL: Final = 2
"""Short side of a shrunk image divided by the side of its views.

Views of crops of 0.08 to 1.0 of the area then differ from those cut from the original photo by 0.9 to 2.7 of 255 steps
on average, depending on the size of the photo; bilinear instead of bicubic resizing changes 1.4 to 2.4. At a ratio of
1.5 the difference is 1.8 to 5.4, at 1.15 (256 px for views of 224) 3.4 to 6.6. Measured by
`benchmarks/speed/cache_error.py` on the clothing photos. At 2, photos for views of 224 px take about 0.8 MB each.
"""

_SLACK: Final = 1.25
"""Images up to this factor larger stay unchanged: resizing them would cost more than the space is worth."""


def short_side(image_size: int) -> int:
    """The short side to which images are shrunk for views of S x S pixels.

    Args:
        image_size: Side S of the views.

    Returns:
        Pixels.
    """
    return DETAIL * image_size


def shrink(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Shrink an image whose short side is much longer than needed; a pure function of its arguments.

    Uses antialiased bicubic resizing, as `render_cv` does for crops. Images are never enlarged, and images with a short
    side of up to 1.25 `side` stay unchanged, so shrinking twice changes nothing.

    Args:
        image: (H, W, 3) uint8.
        side: The sufficient short side, in pixels.

    Returns:
        (H', W', 3) uint8 with the same aspect ratio to within a pixel; `image` itself if it is unchanged.

    Example:
        >>> shrink(np.zeros((300, 400, 3), dtype=np.uint8), side=64).shape
        (64, 85, 3)
    """
    height, width = image.shape[:2]
    short = min(height, width)
    if short <= _SLACK * side:
        return image
    import torch  # noqa: PLC0415  # listing images needs no torch

    rows, columns = (max(side, round(size * side / short)) for size in (height, width))
    # The added axis is first in memory, too. Otherwise torch does not detect `channels_last` and transposes.
    pixels = torch.from_numpy(np.ascontiguousarray(image))[None].permute(0, 3, 1, 2)
    shrunk = torch.ops.aten._upsample_bicubic2d_aa(pixels, [rows, columns], align_corners=False)  # noqa: SLF001
    return np.asarray(shrunk[0].permute(1, 2, 0).numpy(), dtype=np.uint8)
