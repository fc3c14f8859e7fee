"""Difference between views of shrunk images and views of the original photos. It determines the size of stored images.

    python benchmarks/speed/cache_error.py --data shared/data/clothing/train [--count 100]

The photos have a short side of 224 px, so that views of 16 to 80 px represent photos with 14 to 2.8 times the side of a
view. The reference is Pillow's bicubic resize of the same box of the original photo, with subpixel accuracy.
"""

import argparse
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from sdclr.data.sources import Source, open_source, shrunk_image
from sdclr.decoding import shrink as module
from sdclr.decoding.decode import decode_image
from sdclr.views.parameters import ViewConfig, draw_views
from sdclr.views.render_cv import render_cv
from speed_harness import Table, number

SIZES = (16, 28, 40, 64, 80)
RATIOS = (1.0, 1.15, 1.5, 1.75, 2.0, 2.5, 3.0)


def cut(photo: Image.Image, box: tuple[float, ...], size: int, how: Image.Resampling) -> NDArray[np.float64]:
    """A box of a photo, as a square."""
    return np.asarray(photo.resize((size, size), how, box=box)).astype(np.float64)


def errors(source: Source, indices: Sequence[int], size: int, ratio: float) -> list[float]:
    """For each image, the mean absolute difference (of 255) between a view of the shrunk image and of the photo."""
    side = round(ratio * size)
    with patch.object(module, "_SLACK", 1.0):
        return [
            float(np.abs(render_cv(shrunk, params, size) - cut(photo, box, size, Image.Resampling.BICUBIC)).mean())
            for shrunk, params, photo, box in _drawn(source, indices, size, side)
        ]


def yardsticks(source: Source, indices: Sequence[int], size: int) -> tuple[float, float]:
    """The same for views by bilinear resizing, and for photos saved again as JPEGs of quality 75."""
    bilinear, saved = [], []
    for _, _, photo, box in _drawn(source, indices, size, 2 * size):
        wanted = cut(photo, box, size, Image.Resampling.BICUBIC)
        bilinear.append(np.abs(cut(photo, box, size, Image.Resampling.BILINEAR) - wanted).mean())
        again = io.BytesIO()
        photo.save(again, "JPEG", quality=75)
        saved.append(np.abs(cut(Image.open(again), box, size, Image.Resampling.BICUBIC) - wanted).mean())
    return float(np.mean(bilinear)), float(np.mean(saved))


def _drawn(source: Source, indices: Sequence[int], size: int, side: int) -> Iterator[tuple[Any, ...]]:
    """The shrunk image, the drawn view, the photo, and the view's box in the photo."""
    config = ViewConfig(image_size=size, crop_scale=(0.08, 1.0), flip=0, jitter=0, gray=0, blur=0)
    for index in indices:
        shrunk = shrunk_image(source, index, side)
        height, width = shrunk.shape[:2]
        params = draw_views(config, seed=0, epoch=0, indices=np.array([index]), view=0, height=height, width=width)
        photo = Image.fromarray(decode_image(source.file(index), image_id=source.ids[index]))
        across, down = photo.width / width, photo.height / height
        left, top = params.left[0] * across, params.top[0] * down
        yield shrunk, params, photo, (left, top, left + params.width[0] * across, top + params.height[0] * down)


def table(source: Source, count: int) -> Table:
    """Mean and 90th percentile for each size of the views and each ratio, with the yardsticks."""
    indices = np.linspace(0, len(source) - 1, count).astype(int).tolist()
    rows = []
    for size in SIZES:
        found = [errors(source, indices, size, ratio) for ratio in RATIOS]
        cells = [f"{np.mean(values):.2f} ({np.percentile(values, 90):.2f})" for values in found]
        rows.append((f"{224 / size:.1f}", *cells, *(number(value) for value in yardsticks(source, indices, size))))
    return Table(
        title="Views of shrunk images",
        note=f"{count} photos; mean and 90th percentile over photos of the mean absolute difference, of 255.",
        heading=("photo / view", *(f"kept at {ratio:g}" for ratio in RATIOS), "bilinear", "JPEG 75"),
        rows=rows,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the photos")
    parser.add_argument("--count", type=int, default=100, help="number of photos")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    part = table(open_source(options.data), options.count)
    print(f"## {part.title}\n\n{part.note}\n\n{part.table()}")


if __name__ == "__main__":
    main()
