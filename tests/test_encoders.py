"""Encoders and projection heads."""

import json
from typing import Any

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sdclr.config import from_json, to_json
from sdclr.encoders import (
    Encoder,
    EncoderConfig,
    HeadConfig,
    Network,
    create_encoder,
    create_network,
    projection_head,
    timm_options,
)
from sdclr.errors import InputError
from sdclr.method import SelfCompetitor


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


def test_no_residual_branch_starts_as_nothing() -> None:
    last_norms = [m.weight for name, m in small().named_modules() if name.endswith("bn2")]
    assert len(last_norms) == 8
    assert all(bool((weight == 1).all()) for weight in last_norms)


def test_the_seed_decides_the_weights() -> None:
    torch.manual_seed(1)
    first = small().state_dict()
    torch.manual_seed(1)
    again = small().state_dict()
    other = small().state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["backbone.layer1.0.conv1.weight"], other["backbone.layer1.0.conv1.weight"])


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**31))
def test_bytes_and_floats_give_equal_features(seed: int) -> None:
    encoder = small().eval()
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(encoder(images), encoder(images.float() / 255))


def test_the_input_is_normalised_inside() -> None:
    config = EncoderConfig(width=4, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))
    encoder = create_encoder(config, 16).eval()
    images = torch.rand(2, 3, 16, 16)
    by_hand = torch.stack([(images[:, c] - config.mean[c]) / config.std[c] for c in range(3)], dim=1)
    torch.testing.assert_close(encoder(images), encoder.backbone(by_hand))
    assert "mean" not in encoder.state_dict()


@pytest.mark.parametrize(
    ("name", "image_size"), [("vit_tiny_patch16_224", 32), ("convnext_atto", 32), ("mobilenetv3_small_050", 32)]
)
def test_any_timm_model_will_do(name: str, image_size: int) -> None:
    network = create_network(EncoderConfig(name=name), HeadConfig(dim=8), image_size)
    assert network(torch.rand(2, 3, image_size, image_size)).shape == (2, 8)
    assert network.encoder(torch.rand(2, 3, image_size, image_size)).shape == (2, network.encoder.num_features)


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


def test_encoders_described_before_there_were_patches_are_read() -> None:
    values = to_json(EncoderConfig(width=4))
    del values["patch"]
    assert from_json(EncoderConfig, values) == EncoderConfig(width=4)


@pytest.mark.parametrize(
    ("config", "image_size", "message"),
    [
        (EncoderConfig(name="resnt18"), 32, "did you mean .*resnet18"),
        (EncoderConfig(name="…"), 32, "list_models"),
        (EncoderConfig(name="resnet18.nonsense"), 32, "timm cannot make 'resnet18.nonsense'"),
        (EncoderConfig(name="mobilenetv3_small_050", width=8), 32, "for ResNets, .*out for 'mobilenetv3_small_050'"),
        (EncoderConfig(name="mobilenetv3_small_050", stem="small"), 32, "for ResNets"),
        (EncoderConfig(name="mobilenetv3_small_050", patch=4), 32, "for ResNets"),
        (EncoderConfig(patch=4), 32, "'resnet18' has no patches: leave out --encoder.patch"),
        (EncoderConfig(name="resnet20", patch=4), 32, "'resnet20' has no patches: leave out --encoder.patch"),
        (
            EncoderConfig(name="convnext_atto_ols"),
            32,
            "'convnext_atto_ols' has no patches: give .*stem default",
        ),
        (
            EncoderConfig(name="vit_tiny_patch16_224", patch=5),
            32,
            "5 px do not fill .* 32 px: .* 1, 2, 4, 8, 16, or",
        ),
        (EncoderConfig(name="vit_tiny_patch16_224"), 50, "4 px do not fill .* 50 px: .* of 1, 2, 5, 10, 25, or"),
        (EncoderConfig(name="vit_tiny_patch16_224", width=50), 32, "the width of 50 must be a multiple of its heads"),
        (EncoderConfig(name="resnet50d", stem="small"), 32, "one stem convolution: leave them out for 'resnet50d'"),
        (EncoderConfig(name="resnext50_32x4d", width=32), 32, "plain ResNets .*leave it out for 'resnext50_32x4d'"),
        (EncoderConfig(name="seresnet18", width=16), 32, "plain ResNets .*leave it out for 'seresnet18'"),
        (EncoderConfig(name="convnext_atto", patch=4), 8, "cannot take images of 8 px .*a smaller patch .*another"),
    ],
)
def test_what_cannot_be_built_is_refused_with_the_mend(config: EncoderConfig, image_size: int, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        create_encoder(config, image_size)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "values", [{"width": 0}, {"std": (1.0, 0.0, 1.0)}, {"patch": 0}, {"patch": 4, "stem": "small"}]
)
def test_nonsense_encoders_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(InputError):
        EncoderConfig(**values)  # type: ignore[arg-type]  # parametrized
    with pytest.raises(InputError):
        HeadConfig(dim=0)


@pytest.mark.parametrize("layers", [2, 3])
@pytest.mark.parametrize("norm", ["batch", "none"])
def test_a_head_has_its_layers_with_normalisation_after_each(layers: int, norm: str) -> None:
    head = projection_head(12, HeadConfig(layers=layers, dim=5, norm=norm))  # type: ignore[arg-type]  # parametrized
    linear = [m for m in head if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [(12, 12)] * (layers - 1) + [(12, 5)]
    assert all((m.bias is None) == (norm == "batch") for m in linear)
    kinds = [type(m) for m in head]
    block = [nn.Linear, nn.BatchNorm1d] if norm == "batch" else [nn.Linear]
    assert kinds == [*([*block, nn.ReLU] * (layers - 1)), *block]
    assert head(torch.rand(4, 12)).shape == (4, 5)


def test_every_convolution_of_the_encoder_is_prunable_and_the_head_is_not() -> None:
    network = Network(small(), projection_head(32, HeadConfig(dim=8)))
    convolutions = {f"{name}.weight" for name, m in network.named_modules() if isinstance(m, nn.Conv2d)}
    assert set(SelfCompetitor(network, 0.5).masks) == convolutions
    assert len(convolutions) == 20  # the stem, 16 in blocks, 3 shortcuts


@pytest.mark.parametrize(
    ("name", "convolutions", "millions"), [("resnet20", 19, 0.27), ("resnet32", 31, 0.46), ("resnet56", 55, 0.85)]
)
def test_the_resnets_for_cifar_have_the_size_that_their_paper_gives(
    name: str, convolutions: int, millions: float
) -> None:
    encoder = create_encoder(EncoderConfig(name=name), 32)
    found = [m for m in encoder.modules() if isinstance(m, nn.Conv2d)]
    assert len(found) == convolutions
    assert all(m.kernel_size == (3, 3) for m in found)  # shortcuts have no weights
    classifier = 64 * 10 + 10
    assert round((sum(p.numel() for p in encoder.parameters()) + classifier) / 1e6, 2) == millions
    assert encoder.num_features == 64


def test_a_resnet_for_cifar_halves_the_picture_twice_and_names_weights_as_timm_does() -> None:
    encoder = create_encoder(EncoderConfig(name="resnet20", width=4), 32).eval()
    sizes = []
    for stage in (encoder.backbone.layer1, encoder.backbone.layer2, encoder.backbone.layer3):
        stage.register_forward_hook(lambda _, __, out: sizes.append(tuple(out.shape[1:])))
    assert encoder(torch.rand(2, 3, 32, 32)).shape == (2, 16)
    assert sizes == [(4, 32, 32), (8, 16, 16), (16, 8, 8)]
    timms = timm.create_model("resnet18", num_classes=0).state_dict()
    assert {"conv1.weight", "layer1.0.bn2.bias", "layer2.1.conv2.weight"} <= set(timms) & set(
        encoder.backbone.state_dict()
    )


def test_the_shortcut_into_a_smaller_stage_keeps_what_it_passes() -> None:
    shortcut = create_encoder(EncoderConfig(name="resnet20", width=4), 32).backbone.layer2[0].downsample
    images = torch.rand(1, 4, 6, 6)
    passed = shortcut(images)
    assert torch.equal(passed[:, 2:6], images[:, :, ::2, ::2])
    assert not passed[:, :2].any()
    assert not passed[:, 6:].any()


def test_a_resnet_for_cifar_has_one_stem_only() -> None:
    with pytest.raises(InputError, match="'resnet32' has the small stem always"):
        create_encoder(EncoderConfig(name="resnet32", stem="default"), 32)
    with pytest.raises(InputError, match=r"did you mean .*resnet32"):
        create_encoder(EncoderConfig(name="resnet33"), 32)
