"""The size at which large images are kept: what stays as it is, and that views of it are those of the original."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sdclr.data.sources import open_source, shrunk_image
from sdclr.decoding.decode import decode_image
from sdclr.decoding.shrink import short_side, shrink
from sdclr.views.parameters import ViewConfig, draw_views
from sdclr.views.render_cv import render_cv


def random_image(height: int, width: int) -> np.ndarray:
    coarse = np.random.default_rng(height).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return np.kron(coarse, np.ones((8, 8, 1), dtype=np.uint8))


@pytest.mark.parametrize(("height", "width"), [(80, 160), (40, 40), (160, 80), (8, 800)])
def test_images_that_are_hardly_larger_stay_as_they_are(height, width):
    image = random_image(height, width)
    assert shrink(image, 64) is image


@pytest.mark.parametrize(("height", "width"), [(88, 160), (160, 88), (640, 80 * 11), (200, 2000)])
def test_the_short_side_comes_to_what_is_asked_for(height, width):
    image = random_image(height, width)
    shrunk = shrink(image, 64)
    assert min(shrunk.shape[:2]) == 64
    assert shrunk.shape[0] * width == pytest.approx(shrunk.shape[1] * height, rel=0.01)
    assert shrink(shrunk, 64) is shrunk
    by_pillow = Image.fromarray(image).resize(shrunk.shape[1::-1], Image.Resampling.BICUBIC)
    assert np.abs(shrunk.astype(int) - np.asarray(by_pillow)).max() <= 2


@pytest.mark.parametrize("size", [28, 64])
def test_views_of_shrunk_photos_are_those_of_the_photos(shared_data: Path, size: int):
    """Pillow resizes the same box of the whole photo, by bicubic and, as a yardstick, by bilinear interpolation."""
    source = open_source(shared_data / "data" / "clothing" / "train")
    config = ViewConfig(image_size=size, crop_scale=(0.08, 1.0), flip=0, jitter=0, gray=0, blur=0)
    errors, yardstick, misplaced = [], [], []
    for index in range(0, len(source), len(source) // 40):
        shrunk = shrunk_image(source, index, short_side(size))
        height, width = shrunk.shape[:2]
        where = {"height": height - 1, "width": width - 1}
        params = draw_views(config, seed=0, epoch=0, indices=np.array([index]), view=0, **where)
        photo = Image.fromarray(decode_image(source.file(index), image_id=str(index)))
        across, down = photo.width / width, photo.height / height
        left, top = params.left[0] * across, params.top[0] * down
        box = (left, top, left + params.width[0] * across, top + params.height[0] * down)
        direct = np.asarray(photo.resize((size, size), Image.Resampling.BICUBIC, box=box)).astype(float)
        bilinear = np.asarray(photo.resize((size, size), Image.Resampling.BILINEAR, box=box))
        errors.append(np.abs(render_cv(shrunk, params, size) - direct).mean())
        yardstick.append(np.abs(bilinear - direct).mean())
        misplaced.append(np.abs(render_cv(shrunk[1:, 1:], params, size) - direct).mean())
    assert 0 < np.mean(errors) < 3.5
    assert np.percentile(errors, 90) < 6
    assert np.mean(errors) < 2 * np.mean(yardstick)
    assert np.mean(errors) < 0.6 * np.mean(misplaced)  # a crop that is one pixel off would be seen
