import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from sklearn.datasets import load_sample_image

from sdclr.views.parameters import ViewConfig, draw_views
from sdclr.views.render import render
from sdclr.views.render_cv import render_cv, render_cv_batch


def draw(config, n, image, seed=0):
    height, width = image.shape[:2]
    return draw_views(config, seed=seed, epoch=0, indices=np.arange(n), view=0, height=height, width=width)


def one(params, index):
    return params.take(slice(index, index + 1))


@pytest.fixture(scope="module", params=["china.jpg", "flower.jpg"])
def photo(request):
    return load_sample_image(request.param)  # (427, 640, 3) uint8


@pytest.mark.parametrize("source", [(256, 256), (500, 375), (1000, 750)])
@pytest.mark.parametrize("size", [224, 64])
def test_it_draws_what_the_torch_renderer_draws(photo, size, source):
    n, config = 40, ViewConfig(image_size=size, crop_scale=(0.08, 1.0), blur=0.5)
    image = np.array(Image.fromarray(photo).resize(source, Image.Resampling.BICUBIC))
    params = draw(config, n, image)
    assert params.flip.any()
    assert params.gray.any()
    assert params.sigma.any()
    expected = render(torch.from_numpy(image).permute(2, 0, 1).expand(n, -1, -1, -1), params, size)
    views = np.empty((n, size, size, 3), dtype=np.uint8)
    render_cv_batch([image] * n, params, views)
    difference = np.abs(views - expected.permute(0, 2, 3, 1).numpy() * 255).reshape(n, -1)
    assert difference.mean(1).max() < 1
    assert np.quantile(difference, 0.99, axis=1).max() < 3


@pytest.mark.parametrize("longest", [24, 150, 400])
def test_crop_and_resize_are_pillows(photo, longest):
    n = 15
    image = np.ascontiguousarray(photo[:longest, 50 : 50 + longest])
    params = draw(ViewConfig(jitter=0, gray=0), n, image)
    for index in range(n):
        top, left, height, width = (int(f[index]) for f in (params.top, params.left, params.height, params.width))
        crop = Image.fromarray(image[top : top + height, left : left + width])
        expected = np.asarray(crop.resize((96, 96), Image.Resampling.BICUBIC)).astype(int)
        if params.flip[index]:
            expected = expected[:, ::-1]
        # Two roundings of an overshoot, where one side shrinks and the other grows.
        assert np.abs(render_cv(image, one(params, index), 96) - expected).max() <= 4


def test_a_batch_of_images_of_several_sizes_is_drawn_as_one_by_one(photo):
    images = [photo, photo[:200, :130], photo[::-1, ::-1], photo[100:140, 30:70]] * 2
    n, size = len(images), 48
    sides = np.array([image.shape[:2] for image in images])
    config = ViewConfig(blur=0.5)
    params = draw_views(config, seed=1, epoch=2, indices=np.arange(n), view=1, height=sides[:, 0], width=sides[:, 1])
    # Every second place of what is there: the views need not lie beside each other.
    space = np.zeros((2 * n, size, size, 3), dtype=np.uint8)
    render_cv_batch(images, params, space[::2])
    for index, image in enumerate(images):
        alone = draw_views(
            config, seed=1, epoch=2, indices=np.array([index]), view=1, height=image.shape[0], width=image.shape[1]
        )
        assert np.array_equal(space[2 * index], render_cv(image, alone, size))
    assert not space[1::2].any()


@pytest.mark.parametrize("sigma", [0.1, 0.7, 1.3, 2.0])
def test_the_blur_is_gaussian(photo, sigma):
    whole = {"top": [0], "left": [0], "height": [96], "width": [96]}
    params = dataclasses.replace(
        draw(ViewConfig(flip=0, jitter=0, gray=0), 1, photo),
        **{name: np.array(value) for name, value in whole.items()},
        sigma=np.array([sigma]),
    )
    radius = max(1, int(np.ceil(3 * sigma)))
    expected = gaussian_filter(
        photo[:96, :96].astype(float), (sigma, sigma, 0), mode="mirror", radius=(radius, radius, 0)
    )
    assert np.abs(render_cv(photo, params, 96) - expected).max() < 0.51 + 0.05


@pytest.mark.parametrize("size", [32, 700])  # the crop shrinks, and grows
def test_any_memory_layout_will_do_and_the_image_is_left_alone(photo, size):
    params = one(draw(ViewConfig(blur=1.0), 3, photo), 2)
    expected = render_cv(photo, params, size)
    flipped_back = np.ascontiguousarray(photo[:, ::-1])[:, ::-1]
    columns_first = np.asfortranarray(photo)
    read_only = photo.copy()
    read_only.flags.writeable = False
    before = photo.copy()
    for image in (flipped_back, columns_first, read_only):
        assert np.array_equal(render_cv(image, params, size), expected)
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
    space = np.empty((2, 32, 32, 3), dtype=np.uint8)
    for out in (space[:1], space[:, :16], space.astype(np.float32), space.transpose(0, 2, 1, 3)):
        with pytest.raises(ValueError, match="out must be"):
            render_cv_batch([photo, photo], params, out)
