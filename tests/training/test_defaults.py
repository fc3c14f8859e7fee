"""Settings that follow from the images and the machine."""

import numpy as np
import pytest

from sdclr.data.sources import ArraySource, digits
from sdclr.errors import InputError
from sdclr.training.config import DamageConfig
from sdclr.training.defaults import for_images
from sdclr.training.pretrain import Trainer, pretrain


def test_small_images_keep_their_size():
    config = for_images(digits(), gpu=False)
    assert (config.views.image_size, config.batch_size, config.encoder.width) == (8, 256, 16)
    assert for_images(digits(), gpu=True).encoder.width is None


def test_large_images_and_machines():
    source = ArraySource(np.zeros((40, 120, 160, 3), dtype=np.uint8))
    on_cpu, on_gpu = for_images(source, gpu=False), for_images(source, gpu=True)
    assert (on_cpu.views.image_size, on_cpu.encoder.name, on_cpu.encoder.width) == (128, "resnet18", 16)
    assert (on_gpu.views.image_size, on_gpu.encoder.name, on_gpu.encoder.width) == (224, "resnet50", None)
    assert on_cpu.batch_size == 8  # a quarter of the images at most


def test_the_ratio_adapts_where_there_are_images_to_hold_out():
    images = np.zeros((250, 8, 8, 3), dtype=np.uint8)
    assert for_images(ArraySource(images)).damage == DamageConfig(ratio="adaptive", independent_norm="statistics")
    light = DamageConfig(ratio=0.2, independent_norm="statistics")
    assert for_images(ArraySource(images), adapt=False).damage == light
    assert for_images(ArraySource(images[:249])).damage == light


def test_too_few_images_are_an_error():
    with pytest.raises(InputError, match="has 7 images"):
        for_images(ArraySource(np.zeros((7, 8, 8, 3), dtype=np.uint8)))


def test_a_run_without_settings_has_them(tmp_path, monkeypatch):
    source = ArraySource(np.random.default_rng(0).integers(256, size=(40, 16, 16, 3), dtype=np.uint8))
    monkeypatch.setattr(Trainer, "train", lambda *_: None)
    assert pretrain(source, run=tmp_path / "run").config == for_images(source)
