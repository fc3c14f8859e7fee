import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from sdclr.data.render import render
from sdclr.data.render_cv import render_cv
from sdclr.data.views import ViewConfig, draw_views


def draw(config, n, image, seed=0):
    height, width = image.shape[:2]
    return draw_views(config, seed=seed, epoch=0, indices=np.arange(n), view=0, height=height, width=width)


def one(params, index):
    return params.take(slice(index, index + 1))


@pytest.fixture(scope="module", params=["china.jpg", "flower.jpg"])
def photo(request):
    return load_sample_image(request.param)  # (427, 640, 3) uint8


@pytest.mark.parametrize("size", [224, 64])
def test_it_draws_what_the_torch_renderer_draws(photo, size):
    n, config = 25, ViewConfig(image_size=size, crop_scale=(0.08, 1.0), blur=0.5)
    params = draw(config, n, photo)
    assert params.flip.any()
    assert params.grey.any()
    assert params.sigma.any()
    expected = render(torch.from_numpy(photo.copy()).permute(2, 0, 1).expand(n, -1, -1, -1), params, size)
    for index in range(n):
        view = render_cv(photo, one(params, index), size)
        assert view.shape == (size, size, 3)
        assert view.dtype == np.uint8
        difference = np.abs(view - expected[index].permute(1, 2, 0).numpy() * 255)
        assert difference.mean() < 2
        assert np.quantile(difference, 0.99) < 8


def test_crop_and_resize_are_pillows(photo):
    n = 15
    params = draw(ViewConfig(jitter=0, grey=0), n, photo)
    for index in range(n):
        top, left, height, width = (int(f[index]) for f in (params.top, params.left, params.height, params.width))
        crop = Image.fromarray(photo[top : top + height, left : left + width])
        expected = np.asarray(crop.resize((96, 96), Image.Resampling.BICUBIC)).astype(int)
        if params.flip[index]:
            expected = expected[:, ::-1]
        assert np.abs(render_cv(photo, one(params, index), 96) - expected).max() <= 2


def test_any_memory_layout_will_do_and_the_image_is_left_alone(photo):
    params = one(draw(ViewConfig(blur=1.0), 3, photo), 2)
    expected = render_cv(photo, params, 32)
    flipped_back = np.ascontiguousarray(photo[:, ::-1])[:, ::-1]
    columns_first = np.asfortranarray(photo)
    read_only = photo.copy()
    read_only.flags.writeable = False
    before = photo.copy()
    for image in (flipped_back, columns_first, read_only):
        assert np.array_equal(render_cv(image, params, 32), expected)
    assert np.array_equal(photo, before)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_tiny_images_and_views(size):
    image = np.random.default_rng(0).integers(0, 256, (3, 2, 3), dtype=np.uint8)
    params = dataclasses.replace(draw(ViewConfig(), 1, image), sigma=np.array([2.0]))
    assert render_cv(image, params, size).shape == (size, size, 3)


def test_wrong_input_is_refused(photo):
    params = draw(ViewConfig(), 2, photo)
    with pytest.raises(ValueError, match="one view"):
        render_cv(photo, params, 32)
    with pytest.raises(ValueError, match="uint8"):
        render_cv(photo.astype(np.float32), one(params, 0), 32)
    with pytest.raises(ValueError, match="H, W, 3"):
        render_cv(photo[..., 0], one(params, 0), 32)
