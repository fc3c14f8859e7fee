import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torchvision.transforms import ColorJitter, RandomResizedCrop

from sdclr.errors import InputError
from sdclr.views.parameters import ViewConfig, ViewParameters, draw_views

FIELDS = ("top", "left", "height", "width", "flip", "factors", "order", "gray", "sigma")


def draw(config=None, *, n=2000, seed=0, epoch=0, view=0, height=32, width=32, indices=None):
    indices = np.arange(n) if indices is None else indices
    return draw_views(
        config or ViewConfig(blur=0.5), seed=seed, epoch=epoch, indices=indices, view=view, height=height, width=width
    )


def same(a: ViewParameters, b: ViewParameters) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in FIELDS)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"image_size": 0}, "image_size is 0"),
        ({"flip": 1.5}, r"flip is 1\.5.*between 0 and 1"),
        ({"gray": -0.1}, "gray is -0.1"),
        ({"blur": float("nan")}, "blur is nan"),
        ({"contrast": -1.0}, "contrast is -1.0"),
        ({"hue": 0.6}, r"hue is 0\.6.*between 0 and 0\.5"),
        ({"crop_scale": (0.0, 1.0)}, "crop_scale is"),
        ({"crop_scale": (0.5, 1.1)}, "crop_scale is.*<= 1"),
        ({"crop_ratio": (2.0, 1.0)}, "crop_ratio is"),
        ({"blur_sigma": (0.1, math.inf)}, "blur_sigma is"),
    ],
)
def test_config_refuses_nonsense(values, said):
    with pytest.raises(InputError, match=said):
        ViewConfig(**values)


def test_streams_are_splitmix64_keyed_by_seed_epoch_view_and_index():
    word, golden = 2**64 - 1, 0x9E3779B97F4A7C15

    def mix(z):
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & word
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & word
        return z ^ (z >> 31)

    seed, epoch, view, index = 7, 3, 1, 41
    state = 0
    for key in (seed, epoch, view, index):
        state = mix(((state + golden) & word) ^ key)
    flip, jitter, gray, blur, sigma, brightness = (
        (mix((state + (draw + 1) * golden) & word) >> 11) / 2**53 for draw in range(6)
    )

    config = ViewConfig(jitter=1.0, blur=1.0)
    params = draw(config, seed=seed, epoch=epoch, view=view, indices=np.array([5, index]))
    assert params.flip[1] == (flip < 0.5)
    assert params.gray[1] == (gray < 0.2)
    assert params.sigma[1] == pytest.approx(0.1 + 1.9 * sigma, rel=1e-12)
    assert params.factors[1, 0] == pytest.approx(0.6 + 0.8 * brightness, rel=1e-12)
    assert 0 <= jitter < 1
    assert 0 <= blur < 1


@settings(max_examples=50, deadline=None)
@given(
    indices=st.lists(st.integers(0, 2**40), min_size=1, max_size=20),
    seed=st.integers(0, 2**32),
    epoch=st.integers(0, 5000),
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    data=st.data(),
)
def test_a_view_does_not_depend_on_its_batch(*, indices, seed, epoch, height, width, data):
    chosen = np.array(data.draw(st.lists(st.sampled_from(range(len(indices))), min_size=1)))
    whole = draw(seed=seed, epoch=epoch, height=height, width=width, indices=np.array(indices))
    part = draw(
        seed=seed,
        epoch=epoch,
        height=np.full(len(chosen), height),
        width=np.full(len(chosen), width),
        indices=np.array(indices)[chosen],
    )
    assert same(whole.take(chosen), part)
    assert len(part) == len(chosen)
    assert np.all((whole.top >= 0) & (whole.left >= 0) & (whole.height >= 1) & (whole.width >= 1))
    assert np.all(whole.top + whole.height <= height)
    assert np.all(whole.left + whole.width <= width)
    assert np.all(np.sort(whole.order, axis=1) == np.arange(4))


@pytest.mark.parametrize("other", [{"seed": 1}, {"epoch": 1}, {"view": 1}, {"indices": np.arange(1, 2001)}])
def test_every_part_of_the_key_gives_independent_draws(other):
    config = ViewConfig(jitter=1.0, blur=1.0)
    one, two = draw(config), draw(config, **other)
    columns = [np.column_stack([p.factors, p.sigma, p.top, p.left]) for p in (one, two)]
    for a, b in zip(columns[0].T, columns[1].T, strict=True):
        assert abs(stats.spearmanr(a, b).statistic) < 0.08  # 3.6 standard deviations of 2000 independent pairs


def test_draws_are_uniform_and_independent_of_each_other():
    config = ViewConfig(jitter=1.0, blur=1.0, gray=0.0)
    params = draw(config, n=20_000)
    low, span = np.array([0.6, 0.6, 0.6, -0.1]), np.array([0.8, 0.8, 0.8, 0.2])
    uniforms = np.column_stack([(params.factors - low) / span, (params.sigma - 0.1) / 1.9])
    assert uniforms.min() >= 0
    assert uniforms.max() < 1 + 1e-12
    for column in uniforms.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-3
        assert stats.kstest(np.sort(column[:100]), "uniform").pvalue > 1e-3
    for first in range(5):
        for second in range(first):
            cells = np.histogram2d(uniforms[:, first], uniforms[:, second], bins=8)[0]
            assert stats.chisquare(cells.ravel()).pvalue > 1e-4
    follow = np.histogram2d(uniforms[:-1, 0], uniforms[1:, 0], bins=8)[0]
    assert stats.chisquare(follow.ravel()).pvalue > 1e-4
    orders = np.unique(params.order, axis=0, return_counts=True)[1]
    assert len(orders) == 24
    assert stats.chisquare(orders).pvalue > 1e-3


@pytest.mark.parametrize(
    ("height", "width", "config"),
    [
        (32, 32, ViewConfig()),
        (48, 20, ViewConfig(crop_scale=(0.08, 1.0))),
        (60, 90, ViewConfig(crop_scale=(0.5, 0.9), crop_ratio=(0.5, 2.0))),
        (30, 10, ViewConfig(crop_scale=(0.9, 1.0))),  # mostly the central fallback
    ],
)
def test_crops_follow_random_resized_crop(height, width, config):
    n = 3000
    image = torch.empty(3, height, width)
    theirs = np.array(
        [RandomResizedCrop.get_params(image, list(config.crop_scale), list(config.crop_ratio)) for _ in range(n)]
    )
    ours = draw(config, n=n, height=height, width=width)
    for mine, other in zip((ours.top, ours.left, ours.height, ours.width), theirs.T, strict=True):
        assert stats.ks_2samp(mine, other).pvalue > 1e-3
        assert mine.mean() == pytest.approx(other.mean(), abs=4.5 * np.sqrt(2 / n) * other.std() + 1e-9)
    areas = [h * w / (height * width) for h, w in ((ours.height, ours.width), (theirs[:, 2], theirs[:, 3]))]
    assert stats.ks_2samp(*areas).pvalue > 1e-3


@pytest.mark.parametrize(("height", "width"), [(10, 400), (400, 10), (1, 1), (7, 50)])
def test_boxes_that_cannot_fit_fall_back_to_the_largest_central_one(height, width):
    config = ViewConfig(crop_scale=(1.0, 1.0), crop_ratio=(3 / 4, 4 / 3))
    expected = RandomResizedCrop.get_params(torch.empty(3, height, width), [1.0, 1.0], [3 / 4, 4 / 3])
    params = draw(config, n=20, height=height, width=width)
    boxes = np.column_stack([params.top, params.left, params.height, params.width])
    assert np.array_equal(boxes, np.tile(expected, (20, 1)))


def test_sizes_may_differ_from_sample_to_sample():
    heights, widths = np.array([8, 300, 40]), np.array([90, 20, 41])
    together = draw(indices=np.arange(3), height=heights, width=widths)
    for index in range(3):
        alone = draw(indices=np.array([index]), height=int(heights[index]), width=int(widths[index]))
        assert same(together.take(slice(index, index + 1)), alone)


def test_probabilities_are_kept():
    params = draw(ViewConfig(flip=0.5, gray=0.2, jitter=0.8, blur=0.3), n=20_000)
    still = np.all(params.factors == [1, 1, 1, 0], axis=1)
    for seen, wanted in ((params.flip, 0.5), (params.gray, 0.2), (~still, 0.8), (params.sigma > 0, 0.3)):
        assert seen.mean() == pytest.approx(wanted, abs=0.015)
    assert np.all(params.order[still] == np.arange(4))


def test_probabilities_of_zero_and_one_are_certain():
    never = draw(ViewConfig(flip=0, gray=0, jitter=0, blur=0, crop_scale=(1, 1), crop_ratio=(1, 1)))
    assert not never.flip.any()
    assert not never.gray.any()
    assert not never.sigma.any()
    assert np.all(never.factors == [1, 1, 1, 0])
    assert np.all(never.height * never.width == 32 * 32)
    always = draw(ViewConfig(flip=1, gray=1, jitter=1, blur=1))
    assert always.flip.all()
    assert always.gray.all()
    assert np.all(always.sigma >= 0.1)


def test_factors_have_the_range_of_color_jitter():
    jitter = ColorJitter(1.5, 0.4, 0.2, 0.1)
    params = draw(ViewConfig(brightness=1.5, contrast=0.4, saturation=0.2, hue=0.1, jitter=1.0), n=20_000)
    ranges = (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
    for factors, (low, high) in zip(params.factors.T, ranges, strict=True):
        assert low <= factors.min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < factors.max() <= high
