"""Stems, patches and widths that fit small images and small machines."""

import json
from typing import Any

import pytest
import timm
import torch
from torch import nn

from sdclr.encoders import (
    Encoder,
    EncoderConfig,
    create_encoder,
    timm_options,
)


def small(name: str = "resnet18", width: int | None = 4, image_size: int = 16) -> Encoder:
    return create_encoder(EncoderConfig(name=name, width=width), image_size)


@pytest.mark.parametrize(
    ("stem", "image_size", "kernel", "pooled"),
    [
        ("auto", 63, (3, 3), False),
        ("auto", 64, (7, 7), True),
        ("small", 64, (3, 3), False),
        ("default", 32, (7, 7), True),
    ],
)
def test_the_stem_fits_the_images(stem: str, image_size: int, kernel: tuple[int, int], *, pooled: bool) -> None:
    encoder = create_encoder(EncoderConfig(stem=stem, width=4), image_size)  # type: ignore[arg-type]  # parametrized
    assert encoder.backbone.conv1.kernel_size == kernel
    assert encoder.backbone.conv1.stride == ((2, 2) if pooled else (1, 1))
    assert isinstance(encoder.backbone.maxpool, nn.MaxPool2d) == pooled


@pytest.mark.parametrize(
    ("name", "width", "features"), [("resnet18", 4, 32), ("resnet18", 6, 48), ("resnet50", 4, 128)]
)
def test_the_width_narrows_every_stage(name: str, width: int, features: int) -> None:
    encoder = small(name, width)
    assert encoder.num_features == features
    assert [m.out_channels for m in (encoder.backbone.conv1, encoder.backbone.layer1[0].conv1)] == [width, width]
    assert encoder(torch.rand(2, 3, 16, 16)).shape == (2, features)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_at_width_64_a_narrowed_resnet_is_timms_own(name: str) -> None:
    built = create_encoder(EncoderConfig(name=name, width=64, stem="default"), 64).backbone
    own = timm.create_model(name, num_classes=0)
    shapes = [{key: value.shape for key, value in network.state_dict().items()} for network in (built, own)]
    assert shapes[0] == shapes[1]
    built.load_state_dict(own.state_dict())
    images = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(built.eval()(images), own.eval()(images))


VIT, CONVNEXT = "vit_tiny_patch16_224", "convnext_atto"


@pytest.mark.parametrize(
    ("name", "image_size", "options", "patch", "grid"),
    [
        (VIT, 32, {}, 4, 8),
        (VIT, 48, {}, 4, 12),
        (VIT, 16, {}, 2, 8),
        (VIT, 8, {}, 1, 8),
        (VIT, 64, {}, 16, 4),
        (VIT, 64, {"stem": "small"}, 4, 16),
        (VIT, 32, {"stem": "default"}, 16, 2),
        (VIT, 32, {"patch": 8}, 8, 4),
        (VIT, 96, {"patch": 8}, 8, 12),
        ("vit_small_patch32_224", 64, {}, 32, 2),
        (CONVNEXT, 32, {}, 1, 32),
        (CONVNEXT, 64, {}, 4, 16),
        (CONVNEXT, 64, {"stem": "small"}, 1, 64),
        (CONVNEXT, 32, {"stem": "default"}, 4, 8),
        (CONVNEXT, 32, {"patch": 2}, 2, 16),
    ],
)
def test_patches_fit_the_images(name: str, image_size: int, options: dict[str, Any], patch: int, grid: int) -> None:
    width = 4 if name == CONVNEXT else 12
    encoder = create_encoder(EncoderConfig(name=name, width=width, **options), image_size).eval()
    first = encoder.backbone.stem[0] if name == CONVNEXT else encoder.backbone.patch_embed.proj
    assert (first.kernel_size, first.stride) == ((patch, patch), (patch, patch))
    sizes = []
    first.register_forward_hook(lambda _, __, out: sizes.append(tuple(out.shape[1:])))
    assert encoder(torch.rand(2, 3, image_size, image_size)).shape == (2, encoder.num_features)
    assert sizes == [(width, grid, grid)]
    if name == CONVNEXT:
        assert encoder.num_features == 8 * width  # doubled before each of three stages
    else:
        assert encoder.num_features == width
        assert encoder.backbone.pos_embed.shape == (1, grid * grid + 1, width)  # and the class token


@pytest.mark.parametrize(("name", "width"), [(VIT, 192), (CONVNEXT, 40)])
def test_at_its_own_width_and_patch_a_network_is_timms_own(name: str, width: int) -> None:
    size = 32
    built = create_encoder(EncoderConfig(name=name, width=width, stem="default"), size).backbone
    own = timm.create_model(name, num_classes=0, **({"img_size": size} if name == VIT else {}))
    built.load_state_dict(own.state_dict())
    images = torch.rand(2, 3, size, size)
    torch.testing.assert_close(built.eval()(images), own.eval()(images))


@pytest.mark.parametrize("config", [EncoderConfig(name=VIT, width=12), EncoderConfig(name=CONVNEXT, width=4)])
def test_timm_alone_makes_what_the_options_say(config: EncoderConfig) -> None:
    encoder = create_encoder(config, 16).eval()
    options = json.loads(json.dumps(timm_options(config, 16)))
    own = timm.create_model(config.name, num_classes=0, **options).eval()
    own.load_state_dict(encoder.backbone.state_dict())
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(own((images - encoder.mean) / encoder.std), encoder(images))
