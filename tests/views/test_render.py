import dataclasses

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.backends.registry import lookup_backend
from torchvision.transforms import InterpolationMode

from sdclr.data.sources import open_source
from sdclr.views import render as module
from sdclr.views.parameters import BRIGHTNESS, CONTRAST, HUE, SATURATION, ViewConfig, draw_views
from sdclr.views.render import (
    blur_radius,
    blur_weights,
    color_maps,
    hue_rotations,
    render,
    render_views,
    resize_weights,
)

CROPS_ONLY = ViewConfig(jitter=0.0, gray=0.0)
ADJUST = {BRIGHTNESS: F.adjust_brightness, CONTRAST: F.adjust_contrast, SATURATION: F.adjust_saturation}


def random_images(n, height, width, low=0, high=256):
    generator = torch.Generator().manual_seed(n + height)
    return torch.randint(low, high, (n, 3, height, width), dtype=torch.uint8, generator=generator)


def draw(config, n, height=32, width=32, seed=0):
    return draw_views(config, seed=seed, epoch=0, indices=np.arange(n), view=0, height=height, width=width)


def whole(n, side, **changes):
    """Views that show the whole image unchanged, but for `changes`."""
    same = draw(dataclasses.replace(CROPS_ONLY, flip=0.0, crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0)), n, side, side)
    return dataclasses.replace(same, **changes)


def resized_crop(image, params, index, size):
    """One sample's crop, resize and flip by torchvision, in doubles: its float32 weights are less exact than ours."""
    box = [int(field[index]) for field in (params.top, params.left, params.height, params.width)]
    view = F.resized_crop(image.double() / 255, *box, [size, size], InterpolationMode.BICUBIC, antialias=True)
    return (F.horizontal_flip(view) if params.flip[index] else view).float()


@pytest.mark.parametrize(
    ("height", "width", "size"), [(32, 32, 32), (32, 32, 16), (48, 48, 64), (300, 200, 224), (8, 8, 12), (33, 65, 20)]
)
def test_geometry_is_that_of_an_antialiased_bicubic_resized_crop(height, width, size):
    n = 40
    images = random_images(n, height, width)
    params = draw(CROPS_ONLY, n, height, width)
    assert 0 < params.flip.sum() < n
    views = render(images, params, size)
    for index in range(n):
        expected = resized_crop(images[index], params, index, size)
        torch.testing.assert_close(views[index], expected.clamp(0, 1), atol=1e-5, rtol=0)


@settings(max_examples=60, deadline=None)
@given(in_size=st.integers(1, 80), out_size=st.integers(1, 50), data=st.data())
def test_resize_weights_sum_to_one_inside_the_box_and_are_zero_outside(in_size, out_size, data):
    size = data.draw(st.integers(1, in_size))
    start = data.draw(st.integers(0, in_size - size))
    weights = resize_weights(torch.tensor([start]), torch.tensor([size]), in_size, out_size)[0]
    assert weights.shape == (out_size, in_size)
    torch.testing.assert_close(weights.sum(1), torch.ones(out_size))
    assert not weights[:, :start].any()
    assert not weights[:, start + size :].any()
    torch.testing.assert_close(weights[:, start : start + size], weights[:, start : start + size].flip(0, 1))


@pytest.mark.parametrize("in_size", [1, 5, 64])
def test_tabled_weights_are_the_computed_ones(in_size):
    boxes = np.array([(start, size) for size in range(1, in_size + 1) for start in range(in_size - size + 1)])
    start, size = boxes.T
    params = whole(len(boxes), 8, top=start, height=size, left=start[::-1], width=size[::-1])
    params = dataclasses.replace(params, flip=np.arange(len(boxes)) % 3 == 0)
    numbers = torch.from_numpy(module._packed([params], in_size, in_size))[:, 0]
    tables = module._tables(in_size, in_size, 7, torch.device("cpu"))
    for weights, table in zip((module._down_weights, module._across_weights), tables, strict=True):
        assert table is not None
        assert torch.equal(weights(numbers, in_size, 7, table), weights(numbers, in_size, 7, None))


def test_tables_stay_small():
    assert module._tables(65, 32, 8, torch.device("cpu"))[0] is None
    assert module._tables(64, 64, 224, torch.device("cpu"))[1] is None


@pytest.mark.parametrize("operation", [BRIGHTNESS, CONTRAST, SATURATION])
def test_each_color_operation_is_torchvisions(operation):
    n, images = 20, random_images(20, 24, 24, 100, 156)
    factors = np.tile([1.0, 1.0, 1.0, 0.0], (n, 1))
    factors[:, operation] = np.linspace(0.6, 1.4, n)
    views = render(images, whole(n, 24, factors=factors), 24)
    for index in range(n):
        expected = ADJUST[operation](images[index].float() / 255, float(factors[index, operation]))
        torch.testing.assert_close(views[index], expected, atol=1e-5, rtol=0)


def test_gray_is_torchvisions():
    images = random_images(5, 24, 24)
    views = render(images, whole(5, 24, gray=np.ones(5, dtype=bool)), 24)
    torch.testing.assert_close(views, F.rgb_to_grayscale(images.float() / 255, 3), atol=1e-5, rtol=0)


def test_the_whole_chain_in_its_drawn_order_is_torchvisions_where_nothing_clamps():
    n, images = 100, random_images(100, 32, 32, 110, 146)
    params = draw(ViewConfig(hue=0.0, jitter=0.9, gray=0.3, brightness=0.3), n)
    assert len(np.unique(params.order, axis=0)) > 15
    views = render(images, params, 32)
    for index in range(n):
        expected = resized_crop(images[index], params, index, 32)
        for operation in params.order[index]:
            if operation != HUE:
                expected = ADJUST[operation](expected, float(params.factors[index, operation]))
        if params.gray[index]:
            expected = F.rgb_to_grayscale(expected, 3)
        assert expected.min() > 0
        assert expected.max() < 1
        torch.testing.assert_close(views[index], expected, atol=1e-5, rtol=0)


def test_hue_is_a_rotation_about_the_gray_axis():
    turns = np.linspace(-0.5, 0.5, 13)
    rotations = hue_rotations(turns)
    np.testing.assert_allclose(rotations @ rotations.transpose(0, 2, 1), np.tile(np.eye(3), (13, 1, 1)), atol=1e-12)
    np.testing.assert_allclose(rotations @ np.ones(3), np.ones((13, 3)), atol=1e-12)
    np.testing.assert_allclose(np.trace(rotations, axis1=1, axis2=2), 1 + 2 * np.cos(2 * np.pi * turns), atol=1e-12)
    np.testing.assert_allclose(hue_rotations(np.array([1 / 3]))[0], np.roll(np.eye(3), 1, axis=0), atol=1e-12)
    red, green = torch.eye(3)[0].view(3, 1, 1), torch.eye(3)[1].view(3, 1, 1)
    torch.testing.assert_close(F.adjust_hue(red, 1 / 3), green, atol=1e-5, rtol=0)  # the same direction


def test_the_order_of_hue_in_the_chain_counts():
    factors = np.tile([1.2, 0.7, 1.3, 0.1], (2, 1))
    order = np.array([[HUE, BRIGHTNESS, SATURATION, CONTRAST], [CONTRAST, SATURATION, HUE, BRIGHTNESS]])
    pixel_map, mean_map = color_maps(whole(2, 8, factors=factors, order=order))
    assert np.abs(pixel_map[0] - pixel_map[1]).max() > 0.01
    pixel, mean, gray = np.array([0.4, 0.5, 0.45]), np.array([0.5, 0.4, 0.55]), np.array([0.2989, 0.587, 0.114])
    turn = hue_rotations(np.array([0.1]))[0]
    expected, center = (1.2 * (turn @ x) for x in (pixel, mean))
    expected, center = (1.3 * x - 0.3 * (gray @ x) for x in (expected, center))
    expected = 0.7 * expected + 0.3 * (gray @ center)
    np.testing.assert_allclose(pixel_map[0] @ pixel + mean_map[0] @ mean, expected, atol=1e-12)


@pytest.mark.parametrize("sigma", [0.1, 0.34, 0.8, 1.5, 2.0])
@pytest.mark.parametrize("side", [24, 32])
def test_blur_is_torchvisions_with_a_kernel_of_the_same_size(sigma, side):
    images = random_images(3, side, side)
    radius = int(blur_radius(torch.tensor(sigma), side))
    assert radius == max(1, int(np.ceil(3 * sigma)))
    views = render(images, whole(3, side, sigma=np.array([0.0, sigma, sigma])), side)
    expected = F.gaussian_blur(images.float() / 255, [2 * radius + 1] * 2, [sigma] * 2)
    torch.testing.assert_close(views[1:], expected[1:], atol=1e-5, rtol=0)
    torch.testing.assert_close(views[0], images[0].float() / 255, atol=1e-6, rtol=0)


def test_blur_comes_after_the_colors():
    n, images = 30, random_images(30, 32, 32, 110, 146)
    blurred = draw(ViewConfig(hue=0.0, brightness=0.2, blur=0.7), n)
    sharp = render(images, dataclasses.replace(blurred, sigma=np.zeros(n)), 32)
    views = render(images, blurred, 32)
    assert 10 < np.count_nonzero(blurred.sigma) < n
    for index in range(n):
        sigma = blurred.sigma[index]
        side = 2 * max(1, int(np.ceil(3 * sigma))) + 1
        expected = F.gaussian_blur(sharp[index], [side] * 2, [sigma] * 2) if sigma else sharp[index]
        torch.testing.assert_close(views[index], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_blur_of_tiny_views_reaches_no_farther_than_the_border_can_reflect(size):
    weights = blur_weights(torch.tensor([0.1, 2.0]), size)
    assert torch.equal(blur_weights(torch.zeros(1), size)[0], torch.eye(size))
    torch.testing.assert_close(weights.sum(2), torch.ones(2, size))
    line = torch.rand(2, 1, size, size)
    side = 2 * min(6, size - 1) + 1
    if side > 1:
        expected = F.gaussian_blur(line[1:], [side] * 2, [2.0] * 2)
        torch.testing.assert_close(weights[1] @ line[1, 0] @ weights[1].T, expected[0, 0], atol=1e-5, rtol=0)


def test_views_do_not_depend_on_their_batch_and_lie_in_the_unit_interval():
    n, images = 300, random_images(300, 32, 32)  # three chunks
    params = draw(ViewConfig(blur=0.5, brightness=0.9), n)
    views = render(images, params, 32)
    assert views.shape == (n, 3, 32, 32)
    assert views.dtype == torch.float32
    assert views.is_contiguous()
    assert views.min() == 0
    assert views.max() == 1
    chosen = np.array([299, 0, 150, 127, 128])
    torch.testing.assert_close(render(images[chosen], params.take(chosen), 32), views[chosen], atol=1e-6, rtol=0)
    assert render(images[:0], params.take(slice(0, 0)), 32).shape == (0, 3, 32, 32)


def test_a_pair_is_two_views():
    images = random_images(50, 32, 32)
    one, two = draw(ViewConfig(), 50, seed=1), draw(ViewConfig(), 50, seed=2)
    view1, view2 = render_views(images, [one, two], 32)
    assert torch.equal(view1, render(images, one, 32))
    assert torch.equal(view2, render(images, two, 32))
    assert not torch.equal(view1, view2)


@pytest.mark.parametrize("blur", [0.0, 0.5])
def test_views_come_in_the_memory_layout_that_was_asked_for(blur):
    images = random_images(90, 32, 32)
    pair = [draw(ViewConfig(blur=blur), 90, seed=seed) for seed in (1, 2)]
    for view, other in zip(
        render_views(images, pair, 32), render_views(images, pair, 32, channels_last=True), strict=True
    ):
        assert view.is_contiguous()
        assert other.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(view, other)


@pytest.fixture
def compiled_by(monkeypatch):
    """Lets `compile=True` compile by another backend and refuse graph breaks; counts the graphs."""

    def choose(backend):
        graphs = []

        def count(graph, inputs):
            graphs.append(graph)
            return lookup_backend(backend)(graph, inputs)

        torch._dynamo.reset()
        compiled = torch.compile(module.draw, backend=count, fullgraph=True, dynamic=False)
        monkeypatch.setattr(module, "_compiled", lambda: compiled)
        return graphs

    yield choose
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("shape", "size", "blur"), [((32, 32), 32, 0.0), ((32, 32), 32, 0.5), ((48, 40), 16, 0.5), ((80, 70), 24, 0.5)]
)
def test_rendering_is_one_graph_that_is_compiled_once(shape, size, blur, compiled_by, monkeypatch):
    monkeypatch.setattr(module, "_CACHE_BYTES", 2**30)  # one chunk, as on a GPU
    graphs = compiled_by("aot_eager")
    images = random_images(20, *shape)
    for seed in range(3):
        pair = [draw(ViewConfig(blur=blur), 20, *shape, seed=2 * seed + view) for view in (0, 1)]
        expected = render_views(images, pair, size)
        for view, other in zip(render_views(images, pair, size, compile=True), expected, strict=True):
            torch.testing.assert_close(view, other, atol=2e-6, rtol=0)
    assert len(graphs) == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch warns of itself when it loads its compiler
def test_compiled_views_are_the_same_views():
    torch._dynamo.reset()
    images, params = random_images(20, 16, 16), draw(ViewConfig(blur=0.5), 20, 16, 16)
    expected = render(images, params, 16)
    views = render(images, params, 16, compile=True, channels_last=True)
    torch.testing.assert_close(views, expected, atol=2e-6, rtol=0)
    assert views.is_contiguous(memory_format=torch.channels_last)
    torch._dynamo.reset()


def test_any_memory_layout_will_do():
    images = random_images(20, 32, 32)
    params = draw(ViewConfig(), 20)
    expected = render(images, params, 32)
    assert torch.equal(render(images.to(memory_format=torch.channels_last), params, 32), expected)
    assert torch.equal(
        render(images.clone().permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2), params, 32), expected
    )


def test_autocast_does_not_touch_the_views():
    images, params = random_images(20, 32, 32), draw(ViewConfig(), 20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = render(images, params, 32)
    assert torch.equal(inside, render(images, params, 32))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_draws_the_same_views():
    for height, width, size in ((32, 32, 32), (300, 200, 224)):
        images, params = random_images(40, height, width), draw(ViewConfig(blur=0.5), 40, height, width)
        views = render(images.cuda(), params, size)
        assert views.is_cuda
        compiled = render(images.cuda(), params, size, compile=True)
        torch.testing.assert_close(compiled, views, atol=1e-5, rtol=0)
        torch.testing.assert_close(views.cpu(), render(images, params, size), atol=1e-5, rtol=0)


def test_wrong_input_is_refused():
    images, params = random_images(4, 32, 32), draw(ViewConfig(), 4)
    with pytest.raises(ValueError, match="uint8"):
        render(images.float(), params, 32)
    with pytest.raises(ValueError, match="3, H, W"):
        render(images.permute(0, 2, 3, 1), params, 32)
    with pytest.raises(ValueError, match="4 images"):
        render(images, params.take(slice(0, 3)), 32)


def test_real_images_come_out_almost_as_from_torchvisions_clamped_steps(cifar10_dir):
    n, source = 200, open_source(cifar10_dir, split="test")
    images = torch.stack([torch.from_numpy(source.image(index)).permute(2, 0, 1) for index in range(n)])
    params = draw(ViewConfig(hue=0.0), n)
    views = render(images, params, 32)
    differences = []
    for index in range(n):
        expected = resized_crop(images[index], params, index, 32).clamp(0, 1)
        for operation in params.order[index]:
            if operation != HUE:
                expected = ADJUST[operation](expected, float(params.factors[index, operation]))
        if params.gray[index]:
            expected = F.rgb_to_grayscale(expected, 3)
        differences.append((views[index] - expected).abs().flatten())
    differences = torch.stack(differences) * 255
    assert differences.mean() < 2
    assert differences.flatten().quantile(0.99) < 14


def test_hue_is_nearer_to_the_hsv_shift_than_no_shift_is(cifar10_dir):
    n, source = 100, open_source(cifar10_dir, split="test")
    images = torch.stack([torch.from_numpy(source.image(index)).permute(2, 0, 1) for index in range(n)])
    factors = np.tile([1.0, 1.0, 1.0, 0.0], (n, 1))
    factors[:, HUE] = np.linspace(-0.1, 0.1, n)
    views = render(images, whole(n, 32, factors=factors), 32)
    plain = images.float() / 255
    expected = torch.stack([F.adjust_hue(image, turn) for image, turn in zip(plain, factors[:, HUE], strict=True)])
    ours, none = (views - expected).abs().flatten() * 255, (plain - expected).abs().flatten() * 255
    assert ours.mean() < min(4, none.mean())
    assert ours.quantile(0.99) < 0.6 * none.quantile(0.99)
