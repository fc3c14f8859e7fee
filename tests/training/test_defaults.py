"""Settings that follow from the images and the machine."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sdclr.data.sources import ArraySource, digits
from sdclr.encoders import DEFAULT, EncoderConfig, create_encoder, save_encoder
from sdclr.errors import InputError
from sdclr.recipes import with_framework
from sdclr.training.config import DamageConfig, PretrainConfig
from sdclr.training.defaults import default_config, hint_on_start, starting_line
from sdclr.training.optim import OptimConfig
from sdclr.training.pretrain import Trainer, pretrain


def test_small_images_keep_their_size():
    config = default_config(digits(), gpu=False)
    assert (config.views.image_size, config.batch_size, config.encoder.width) == (8, 256, 16)
    assert default_config(digits(), gpu=True).encoder.width is None


def test_large_images_and_machines():
    source = ArraySource(np.zeros((40, 120, 160, 3), dtype=np.uint8))
    on_cpu, on_gpu = default_config(source, gpu=False), default_config(source, gpu=True)
    assert (on_cpu.views.image_size, on_cpu.encoder.name, on_cpu.encoder.width) == (128, "resnet18", 16)
    assert (on_gpu.views.image_size, on_gpu.encoder.name, on_gpu.encoder.width) == (224, "resnet50", None)
    assert on_cpu.batch_size == 8  # a quarter of the images at most


def test_the_ratio_adapts_where_there_are_images_to_hold_out():
    images = np.zeros((250, 8, 8, 3), dtype=np.uint8)
    assert default_config(ArraySource(images)).damage == DamageConfig(ratio="adaptive", independent_norm="statistics")
    light = DamageConfig(ratio=0.2, independent_norm="statistics")
    assert default_config(ArraySource(images), adapt=False).damage == light
    assert default_config(ArraySource(images[:249])).damage == light


def test_too_few_images_are_an_error():
    with pytest.raises(InputError, match="has 7 images"):
        default_config(ArraySource(np.zeros((7, 8, 8, 3), dtype=np.uint8)))


def test_a_run_without_settings_has_them(tmp_path, monkeypatch):
    source = ArraySource(np.random.default_rng(0).integers(256, size=(40, 16, 16, 3), dtype=np.uint8))
    monkeypatch.setattr(Trainer, "train", lambda *_: None)
    assert pretrain(source, run=tmp_path / "run").config == default_config(source)


def images(side: int = 48, count: int = 600) -> ArraySource:
    return ArraySource(np.zeros((count, side, side, 3), dtype=np.uint8), name="images")


def test_photographs_and_minutes_on_a_cpu_start_from_weights_that_are_at_hand(monkeypatch):
    monkeypatch.setattr("sdclr.training.defaults.packaged_weights", lambda: Path("weights.pth"))
    photos = images(side=150, count=40)
    adapted, plain = default_config(photos, gpu=False, start=DEFAULT), default_config(photos, gpu=False)
    assert default_config(photos, gpu=False, minutes=30) == adapted
    assert plain.start is None
    assert default_config(photos, gpu=True, minutes=30) == default_config(photos, gpu=True)
    assert default_config(photos, gpu=False, minutes=30, start="scratch") == plain
    assert default_config(images(), gpu=False, minutes=30) == default_config(
        images(), gpu=False
    )  # small: not measured enough
    assert "--start scratch" in (hint_on_start(adapted, gpu=False, minutes=30) or "")
    assert f"--start {DEFAULT}" in (hint_on_start(plain, gpu=False) or "")
    assert hint_on_start(plain, gpu=True) is None
    small = dataclasses.replace(plain, views=dataclasses.replace(plain.views, image_size=32))
    assert "sdclr embed" in (hint_on_start(small, gpu=False, minutes=5) or "")
    tiny = dataclasses.replace(plain, views=dataclasses.replace(plain.views, image_size=8))
    assert "sdclr embed" not in (hint_on_start(tiny, gpu=False, minutes=5) or "")


def test_scratch_is_no_start():
    assert PretrainConfig(start="scratch") == PretrainConfig()


def test_trained_weights_bring_their_encoder_and_a_gentle_run():
    config = default_config(images(), gpu=False, start="timm:tf_efficientnet_lite0")
    half = (0.5, 0.5, 0.5)
    assert config.encoder == EncoderConfig(name="tf_efficientnet_lite0", stem="default", mean=half, std=half)
    assert (config.start, config.fixes_statistics) == ("timm:tf_efficientnet_lite0", True)
    assert config.optim == OptimConfig(lr=0.0005)
    assert config.damage == DamageConfig(ratio=0.3, independent_norm="statistics")
    assert (config.epochs, config.batch_size, config.views.image_size) == (8, 128, 96)
    assert default_config(images(count=40), gpu=False, start="timm:resnet18").batch_size == 8
    for gpu, size in ((False, 128), (True, 224)):
        assert default_config(images(120), gpu=gpu, start="timm:resnet18").views.image_size == size


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet18", 96),
        ("inception_v3", 96),
        ("vit_tiny_patch16_224", 224),
        ("vit_small_patch14_dinov2", 224),  # of 518, with its position embeddings resampled
        ("maxvit_rmlp_pico_rw_256", 224),
        ("crossvit_tiny_240", 240),  # has several position embeddings
    ],
)
def test_networks_of_a_fixed_size_have_their_own(name, size):
    config = default_config(images(), gpu=False, start=f"timm:{name}")
    assert config.views.image_size == size
    assert create_encoder(config.encoder, size).image_size == size


@pytest.mark.parametrize(
    ("name", "side", "size", "width"),
    [
        ("resnet34", 48, 48, 16),
        ("resnet20", 48, 48, 16),
        ("resnet18d", 48, 96, None),  # whose stem cannot be made small
        ("resnet18d", 120, 128, None),
        ("tf_efficientnet_lite0", 48, 96, None),
        ("vit_tiny_patch16_224", 48, 48, None),
        ("convnext_atto", 48, 48, None),
        ("crossvit_tiny_240", 48, 240, None),
    ],
)
def test_any_encoder_gets_a_size_that_it_can_take(name, side, size, width):
    config = default_config(images(side), gpu=False, name=name)
    assert (config.encoder.name, config.encoder.width) == (name, width)
    assert config.views.image_size == size
    create_encoder(config.encoder, size)
    assert default_config(images(side), gpu=True, name=name).encoder.width is None


def test_a_run_brings_its_encoder_and_its_image_size(tmp_path):
    encoder = EncoderConfig(name="resnet34", width=4, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.2))
    save_encoder(tmp_path, create_encoder(encoder, 24))
    config = default_config(images(), gpu=False, start=str(tmp_path))
    assert (config.encoder, config.views.image_size, config.start) == (encoder, 24, str(tmp_path))


def test_a_file_of_weights_is_of_the_encoder_that_is_named(tmp_path):
    file = tmp_path / "lite0.safetensors"
    save_file({"x": torch.zeros(1)}, file)
    config = default_config(images(), gpu=False, start=str(file), name="tf_efficientnet_lite0")
    assert (config.encoder.name, config.encoder.width) == ("tf_efficientnet_lite0", None)
    assert config.encoder.mean == (0.5, 0.5, 0.5)
    assert default_config(images(), gpu=False, start=str(file)).encoder == EncoderConfig(name="resnet18")


def test_another_framework_keeps_the_gentle_rate():
    config = default_config(images(), gpu=False, start="timm:resnet10t")
    assert with_framework(config, "byol").optim == config.optim
    assert with_framework(dataclasses.replace(config, start=None), "byol").optim.lr == 0.06


def test_one_line_says_what_was_decided():
    config = default_config(images(), gpu=False, start="timm:tf_efficientnet_lite0")
    assert starting_line(config) == (
        "starting from timm:tf_efficientnet_lite0 (license apache-2.0, trained with labels): tf_efficientnet_lite0 at "
        "96 px, 8 epochs in batches of 128, sgd at a rate of 0.0005, 30% of the weights damaged, batch-norm statistics "
        "fixed"
    )
    assert starting_line(default_config(digits(), gpu=False)).startswith(
        "starting from random weights: resnet18 at 8 px"
    )


def test_a_name_that_timm_does_not_know_is_an_error():
    with pytest.raises(InputError, match=r"timm has no model called 'resnett18'; did you mean timm:resnet18"):
        default_config(images(), start="timm:resnett18")
    with pytest.raises(InputError, match=r"timm has no weights 'resnet18\.in3k': choose from timm:resnet18"):
        default_config(images(), start="timm:resnet18.in3k")
    with pytest.raises(InputError, match="timm has no model called 'resnett18'; did you mean"):
        default_config(images(), name="resnett18")
