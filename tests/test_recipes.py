"""Recipes: the paper's settings, and a start that fits the images at hand."""

from dataclasses import replace
from typing import get_args

import pytest
import torch

from sdclr.config import differences, from_json, to_json
from sdclr.encoders import HeadConfig
from sdclr.recipes import (
    RECIPES,
    Method,
    cifar_lt,
    digits_demo,
    imagenet100_lt,
    imagenet_lt,
    with_framework,
)
from sdclr.training.config import DamageConfig, FrameworkName, PretrainConfig
from sdclr.training.run import create_objective


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_survive_json(name):
    config = RECIPES[name]()
    assert from_json(PretrainConfig, to_json(config)) == config


def test_cifar_lt_is_the_papers():
    config = cifar_lt()
    assert (config.encoder.name, config.encoder.stem, config.damage.ratio) == ("resnet18", "small", 0.9)
    assert (config.batch_size, config.epochs, config.temperature, config.optim.lr) == (512, 2000, 0.2, 0.5)
    assert (config.optim.weight_decay, config.optim.warmup(config.epochs), config.optim.final_lr) == (1e-4, 10, 1e-6)
    views = config.views
    assert (views.image_size, views.crop_scale, views.flip, views.jitter, views.gray) == (32, (0.1, 1.0), 0.5, 0.8, 0.2)
    assert (views.brightness, views.contrast, views.saturation, views.hue, views.blur) == (0.4, 0.4, 0.4, 0.1, 0.0)


def test_imagenet100_lt_is_the_papers():
    config = imagenet100_lt()
    assert (config.encoder.name, config.damage.ratio, config.temperature) == ("resnet50", 0.3, 0.3)
    assert (config.batch_size, config.epochs, config.views.image_size) == (256, 500, 224)
    assert (config.views.crop_scale, config.views.blur, config.views.blur_sigma) == ((0.08, 1.0), 0.5, (0.1, 2.0))


def test_methods_differ_in_what_they_are_and_in_nothing_else():
    simclr, sdclr, moco = cifar_lt("simclr"), cifar_lt("sdclr"), cifar_lt("moco")
    assert differences(simclr, sdclr) == ["damage.kind: none → prune"]
    assert differences(simclr, cifar_lt("focal")) == ["rebalance: [] → ['focal']"]
    assert cifar_lt("dropout").damage.kind == "dropout"
    assert cifar_lt("random_pruning").damage.kind == "random"
    assert (moco.framework, moco.moco.queue, moco.moco.momentum, moco.temperature) == ("moco", 4096, 0.99, 0.1)


def test_heads_are_equal_unless_the_references_are_asked_for():
    assert {cifar_lt(method).head.layers for method in get_args(Method)} == {2}
    assert (cifar_lt("simclr", "reference").head.layers, cifar_lt("sdclr", "reference").head.layers) == (2, 3)
    assert imagenet100_lt("sdclr", "reference").head.layers == 3


def test_imagenet_has_its_own_temperature_for_each_method():
    assert (imagenet_lt("simclr").temperature, imagenet_lt("sdclr").temperature) == (0.2, 0.3)


@pytest.mark.parametrize("framework", get_args(FrameworkName))
@pytest.mark.parametrize("damage", ["none", "prune"])
def test_every_framework_fits_the_encoder(framework, damage):
    config = with_framework(replace(digits_demo(), damage=DamageConfig(kind=damage, ratio=0.5)), framework)
    objective = create_objective(config)
    view1, view2 = torch.rand(2, 8, 3, 8, 8)
    loss = objective(view1, view2)
    assert loss.shape == (8,)
    assert loss.isfinite().all()
    assert config.damage.kind == damage
    assert from_json(PretrainConfig, to_json(config)) == config


def test_heads_scale_with_the_features():
    base = cifar_lt("simclr")  # 512 features
    assert with_framework(base, "byol").head == HeadConfig(layers=2, hidden=1024, dim=256, last="none")
    assert with_framework(base, "simsiam").simsiam.hidden == 128
    large = replace(base, views=replace(base.views, image_size=224))
    assert [with_framework(config, "simsiam").head.layers for config in (base, large)] == [2, 3]
    assert [with_framework(config, "moco_v3").temperature for config in (base, large)] == [0.2, 1.0]
    lengths = [(base, 40), (base, 200), (base, 2000), (large, 300), (large, 1000)]
    momenta = [with_framework(replace(config, epochs=epochs), "byol").byol.momentum for config, epochs in lengths]
    assert momenta == [0.97, 0.99, 0.99, 0.99, 0.996]
    assert with_framework(base, "barlow_twins").head.dim == 2048
    assert with_framework(base, "moco").temperature == 0.1
    assert with_framework(base, "simclr") == base
