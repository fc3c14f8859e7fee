"""RandAugment against torchvision on 8-bit images, image by image; what it draws; that it depends on keys alone."""

import math

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ImageDraw
from scipy import stats

from sdclr.errors import InputError
from sdclr.views.parameters import ViewConfig, draw_views
from sdclr.views.randaugment import (
    NONE,
    RANGES,
    SCALE,
    Operation,
    Operations,
    RandAugmentConfig,
    apply_operations,
    draw_operations,
    randaugment,
)

SIDE, COUNT = 24, 12
BCL_D = RandAugmentConfig(operations=2, low=5, scatter=True)


def images(n: int = COUNT, side: int = SIDE, seed: int = 0) -> torch.Tensor:
    """(n, 3, side, side) uint8 with structure, of which the first is flat and the second has two levels."""
    random = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, 5, 5, generator=random)
    fine = torch.nn.functional.interpolate(coarse, size=side, mode="bilinear")
    noisy = (0.2 + 0.6 * fine + 0.1 * torch.randn(n, 3, side, side, generator=random)).clamp(0, 1)
    drawn = (noisy * 255).round().to(torch.uint8)
    drawn[0] = 77
    drawn[1] = torch.where(drawn[1] > 128, 200, 40)
    return drawn


def done(kind: Operation, drawn: torch.Tensor, value: np.ndarray, x: float = 0.5, y: float = 0.5) -> torch.Tensor:
    """One operation on all images, as 8-bit levels that are not rounded."""
    column = np.ones((len(drawn), 1))
    plan = Operations(
        kind=np.full((len(drawn), 1), kind),
        value=np.broadcast_to(value, len(drawn))[:, None].astype(float),
        x=x * column,
        y=y * column,
    )
    return apply_operations(drawn / 255, plan) * 255


def values(kind: Operation, n: int = COUNT) -> np.ndarray:
    low, high = RANGES[kind]
    sign = np.where(np.arange(n) % 2, -1, 1) if kind <= Operation.ROTATE else 1
    return sign * (low + (high - low) * np.random.default_rng(kind).random(n))


THEIRS = {
    Operation.AUTO_CONTRAST: lambda image, _: F.autocontrast(image),
    Operation.INVERT: lambda image, _: F.invert(image),
    Operation.EQUALIZE: lambda image, _: F.equalize(image),
    Operation.SOLARIZE: F.solarize,
    Operation.POSTERIZE: lambda image, value: F.posterize(image, int(value)),
    Operation.CONTRAST: F.adjust_contrast,
    Operation.COLOR: F.adjust_saturation,
    Operation.BRIGHTNESS: F.adjust_brightness,
    Operation.SHARPNESS: F.adjust_sharpness,
}
# torchvision cuts off fractions of a level, in contrast, color and sharpness also those of what it blends with.
WITHIN = {Operation.CONTRAST: 2, Operation.COLOR: 2, Operation.SHARPNESS: 2}


@pytest.mark.parametrize("kind", list(THEIRS))
def test_colors_equal_torchvision_within_rounding(kind):
    drawn, amount = images(), values(kind)
    ours = done(kind, drawn, amount)
    theirs = torch.stack([THEIRS[kind](image, value) for image, value in zip(drawn, amount, strict=True)]).float()
    exact = kind in (Operation.INVERT, Operation.EQUALIZE, Operation.SOLARIZE, Operation.POSTERIZE)
    assert (ours - theirs).abs().max() < (1e-3 if exact else WITHIN.get(kind, 1) + 1e-3)
    if kind in (Operation.AUTO_CONTRAST, Operation.EQUALIZE):
        torch.testing.assert_close(ours[0], drawn[0].float())  # an image of one level has nothing to stretch


def affine(image: torch.Tensor, kind: Operation, value: float) -> torch.Tensor:
    """What torchvision's own RandAugment does for this, where places in the view are taken from places plus value."""
    if kind == Operation.ROTATE:
        return F.rotate(image, value)
    degrees = math.degrees(math.atan(value))
    how = {"angle": 0.0, "scale": 1.0, "translate": [0, 0], "shear": [0.0, 0.0]}
    if kind in (Operation.SHEAR_X, Operation.SHEAR_Y):
        how |= {"shear": [degrees, 0.0] if kind == Operation.SHEAR_X else [0.0, degrees], "center": [0, 0]}
    else:
        pixels = round(-value * SIDE)
        how |= {"translate": [pixels, 0] if kind == Operation.TRANSLATE_X else [0, pixels]}
    return F.affine(image, **how)


@pytest.mark.parametrize("kind", [kind for kind in Operation if kind <= Operation.ROTATE])
def test_geometry_equals_torchvision_but_for_pixels_on_an_edge(kind):
    drawn, amount = images(), values(kind)
    if kind in (Operation.TRANSLATE_X, Operation.TRANSLATE_Y):
        amount = np.round(amount * SIDE) / SIDE  # torchvision moves by whole pixels
    ours = done(kind, drawn, amount).round()
    theirs = torch.stack([affine(image, kind, value) for image, value in zip(drawn, amount, strict=True)]).float()
    other = (ours != theirs).float().mean()
    assert other < 0.003, other
    assert (ours != drawn).float().mean() > 0.3


def test_cutting_out_equals_pillow_s_rectangle():
    drawn = images()
    for x, y, value in ((0.5, 0.5, 0.25), (0.02, 0.97, 0.4), (0.999, 0.31, 0.1)):
        ours = done(Operation.CUTOUT, drawn, value, x, y)
        left, top = (int(max(0, (center - value / 2) * SIDE)) for center in (x, y))
        box = (left, top, min(SIDE, left + value * SIDE), min(SIDE, top + value * SIDE))
        for image, result in zip(drawn, ours, strict=True):
            pillow = F.to_pil_image(image)
            ImageDraw.Draw(pillow).rectangle(box, (125, 123, 114))
            assert torch.equal(result.round(), F.pil_to_tensor(pillow).float())


@settings(max_examples=40, deadline=None)
@given(kind=st.sampled_from(list(Operation)), side=st.integers(1, 40), at=st.floats(0, 1), seed=st.integers(0, 99))
def test_views_stay_within_0_and_1_at_any_size(kind, side, at, seed):
    low, high = RANGES[kind]
    result = done(kind, images(3, side, seed), np.array(low + (high - low) * at), x=at, y=1 - at)
    assert result.shape == (3, 3, side, side)
    assert result.isfinite().all()
    assert result.min() >= 0
    assert result.max() <= 255 + 1e-3


def test_all_kinds_at_once_equal_each_alone_and_turns_follow_each_other():
    drawn = images(2 * len(Operation))
    random = np.random.default_rng(0)
    kind = np.column_stack([random.permutation(np.repeat(list(Operation), 2)) for _ in range(2)])
    kind[:3, 1] = NONE
    value = np.array([[values(Operation(k), 1)[0] if k != NONE else 0.0 for k in row] for row in kind])
    x, y = random.random((2, *kind.shape))
    plan = Operations(kind=kind, value=value, x=x, y=y)
    together = apply_operations(drawn / 255, plan)
    for row in range(len(drawn)):
        alone = drawn[row : row + 1] / 255
        for turn in range(2):
            if kind[row, turn] != NONE:
                one = (slice(row, row + 1), slice(turn, turn + 1))
                alone = apply_operations(alone, Operations(kind=kind[one], value=value[one], x=x[one], y=y[one]))
        torch.testing.assert_close(together[row], alone[0], atol=1e-5, rtol=0)


def draw(config=None, *, n=6000, strength=0.5, seed=0, epoch=0, view=0):
    return draw_operations(
        config or RandAugmentConfig(), np.arange(n), np.full(n, strength), seed=seed, epoch=epoch, view=view
    )


def magnitudes(drawn: Operations) -> np.ndarray:
    """Back from values, of what is drawn first."""
    kind, value = drawn.kind[:, 0], np.abs(drawn.value[:, 0])
    low, high = np.array([RANGES[Operation(k)] for k in kind[kind != NONE]]).T
    return (value[kind != NONE] - low) / (high - low) * SCALE


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_each_turn_happens_with_the_sample_s_strength(strength):
    kind = draw(BCL_D, strength=strength).kind
    assert kind.shape == (6000, 2)
    happens = kind != NONE
    assert happens.mean(0) == pytest.approx([strength] * 2, abs=4.5 * math.sqrt(strength * (1 - strength) / 6000))
    assert happens.all(1).mean() == pytest.approx(strength**2, abs=0.03)  # turns are independent
    if strength:
        counts = np.unique(kind[happens], return_counts=True)[1]
        assert len(counts) == len(Operation) == 15
        assert stats.chisquare(counts).pvalue > 1e-3


def test_magnitudes_follow_the_strength():
    assert np.allclose(magnitudes(draw(strength=0.25)), 10 + 20 * 0.25)
    assert np.allclose(magnitudes(draw(strength=1.0)), 30)
    scattered = magnitudes(draw(BCL_D, strength=0.8))
    assert stats.kstest(scattered, "uniform", (5, 25 * 0.8)).pvalue > 1e-3


def test_both_views_of_an_image_share_what_scatters_magnitudes_and_nothing_else():
    one, two = (draw(BCL_D, strength=1.0, view=view) for view in (0, 1))
    for turn in range(2):
        same = one.kind[:, turn] == two.kind[:, turn]
        assert same.mean() == pytest.approx(1 / 15, abs=0.015)
        assert np.allclose(np.abs(one.value[same, turn]), np.abs(two.value[same, turn]))
        assert abs(stats.spearmanr(one.x[:, turn], two.x[:, turn]).statistic) < 0.05


def test_geometry_goes_both_ways_and_values_keep_their_range():
    drawn = draw(strength=1.0)
    for kind in Operation:
        value = drawn.value[drawn.kind == kind]
        low, high = RANGES[kind]
        assert np.all((np.abs(value) >= low - 1e-9) & (np.abs(value) <= high + 1e-9))
        assert (value < 0).mean() == pytest.approx(0.5 if kind <= Operation.ROTATE else 0, abs=0.13)


@pytest.mark.parametrize("other", [{"seed": 1}, {"epoch": 1}, {"view": 1}])
def test_draws_are_independent_of_other_keys_and_of_the_views_themselves(other):
    one, two = draw(strength=1.0), draw(strength=1.0, **other)
    config = ViewConfig(jitter=1.0, blur=1.0)
    views = [
        draw_views(config, seed=0, epoch=0, indices=np.arange(6000), view=view, height=32, width=32) for view in (0, 1)
    ]
    others = [two.kind[:, 0], two.x[:, 0], two.y[:, 0]]
    others += [column for view in views for column in (*view.factors.T, view.sigma, view.top, view.flip)]
    for mine in (one.kind[:, 0], one.x[:, 0], one.y[:, 0], one.value[:, 0]):
        for theirs in others:
            assert abs(stats.spearmanr(mine, theirs).statistic) < 0.055  # 4.3 standard deviations


def changed(views: torch.Tensor, keys: np.ndarray, strength: torch.Tensor | np.ndarray, **other) -> torch.Tensor:
    how = {"config": BCL_D, "seed": 3, "epoch": 5, "view": 1} | other
    return randaugment(views, keys, strength=strength, **how)


@settings(max_examples=25, deadline=None)
@given(data=st.data(), operations=st.integers(1, 3))
def test_a_view_does_not_depend_on_its_batch(data, operations):
    config = RandAugmentConfig(operations=operations)
    views, keys = images(20) / 255, np.arange(100, 120) * 2**33
    strength = np.linspace(0.2, 1, 20)
    chosen = np.array(data.draw(st.lists(st.sampled_from(range(20)), min_size=1, max_size=30)))
    whole = changed(views, keys, strength, config=config)
    part = changed(views[chosen], keys[chosen], strength[chosen], config=config)
    # A mean over a view may be summed in another order, and a level that it moves over an edge is one level off.
    torch.testing.assert_close(part, whole[chosen], atol=1e-5, rtol=0)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_layout_type_and_the_given_views_are_kept(layout, dtype):
    views = (images(40) / 255).to(dtype, memory_format=layout)
    before = views.clone()
    result = changed(views, np.arange(40), np.full(40, 0.9))
    assert torch.equal(views, before)
    assert result.dtype == dtype
    assert result.stride() == views.stride()
    expected = changed((images(40) / 255).to(dtype), np.arange(40), torch.full((40,), 0.9, dtype=torch.float64))
    torch.testing.assert_close(result, expected.to(result.dtype), atol=1e-5, rtol=0)


def test_strength_0_leaves_all_alone_and_1_changes_nearly_all():
    views = images(300) / 255
    strength = np.where(np.arange(300) % 2, 1.0, 0.0)
    assert changed(views, np.arange(300), np.zeros(300)) is views
    result = changed(views, np.arange(300), strength, config=RandAugmentConfig())
    differs = (result != views).flatten(1).any(1).numpy()
    assert not differs[strength == 0].any()
    assert 0.85 < differs[strength == 1].mean() < 1  # 8 bits of 8 stay with the strongest of Posterize


@pytest.mark.parametrize(
    ("settings_", "said"),
    [
        ({"operations": 0}, "operations is 0"),
        ({"low": -1.0}, r"low and high are -1\.0 and 30"),
        ({"low": 20.0, "high": 10.0}, "0 <= low <= high <= 30"),
        ({"high": 31.0}, "high are 10.0 and 31"),
        ({"low": math.nan}, "low and high are nan"),
    ],
)
def test_config_refuses_nonsense(settings_, said):
    with pytest.raises(InputError, match=said):
        RandAugmentConfig(**settings_)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="with 3 keys and 2 strengths"):
        changed(torch.rand(3, 3, 8, 8), np.arange(3), np.ones(2))
    with pytest.raises(ValueError, match=r"shape \(3, 1, 8, 8\)"):
        changed(torch.rand(3, 1, 8, 8), np.arange(3), np.ones(3))
