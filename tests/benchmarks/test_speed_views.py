"""The views that are compared: that recipes and results are alike."""

import importlib

import pytest
import torch


@pytest.fixture
def views():
    return importlib.import_module("speed_views")


@pytest.fixture
def config(views):
    return views.ViewConfig(image_size=16, crop_scale=(0.08, 1.0), blur=0.5)


def test_the_recipe_is_the_same_for_all(views, config):
    jitter = views.torchvision_view(config).transforms[2]
    lightly = views.lightly_view(config).transform.transforms
    assert lightly[0].scale == config.crop_scale
    assert lightly[4].p == jitter.p == config.jitter
    for name in ("brightness", "contrast", "saturation", "hue"):
        assert tuple(getattr(lightly[4].transforms[0], name)) == tuple(getattr(jitter.transforms[0], name))


def test_kornias_recipe_is_ours(views, config):
    crop, flip, jitter, gray, blur = views.kornia_views(config)
    generator = crop._param_generator
    assert (generator.scale, generator.ratio) == (config.crop_scale, config.crop_ratio)
    assert (flip.p, jitter.p, gray.p, blur.p) == (config.flip, config.jitter, config.gray, config.blur)
    for name in ("brightness", "contrast", "saturation", "hue"):
        assert getattr(jitter, name) == getattr(config, name)


def test_kornia_draws_for_each_image(views, config):
    torch.manual_seed(0)
    drawn = views.kornia_views(config)(torch.rand(1, 3, 16, 16).expand(8, -1, -1, -1))
    assert drawn.shape == (8, 3, 16, 16)
    assert len({view.sum().item() for view in drawn}) == 8


def test_lightlys_loop_normalizes_as_lightly_does_by_default(views, config):
    default = views.SimCLRTransform().transforms[0].transform.transforms[-1]
    ours = views.lightly_transform(config, normalize=True).transforms[0].transform.transforms[-1]
    assert (ours.mean, ours.std) == (default.mean, default.std)


def test_batches_go_through_the_whole_set(views):
    images = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1)
    seen = []
    candidate = views.batched("name", lambda batch: seen.append((batch * 255).flatten().round().tolist()), images, 2)
    for _ in range(4):
        candidate.call()
    assert candidate.units == 4
    assert seen[::2] == seen[1::2] == [[0, 1], [2, 3], [4, 5], [0, 1]]  # two views of each


def test_all_draw_small_views(views):
    images = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8)
    effort = views.Effort(rounds=2, seconds=0)
    found = views.compare_small(images, views.small_views(batch=4, peer_batch=2), effort)
    assert list(found.samples) == [views.TORCH, views.TORCHVISION, views.LIGHTLY, views.KORNIA]
    assert all(len(values) == 2 and min(values) > 0 for values in found.samples.values())
