"""Encoders and heads with random weights."""

import pytest
import torch
from torch import nn

from sdclr.encoders import (
    Encoder,
    EncoderConfig,
    HeadConfig,
    Network,
    create_encoder,
    create_network,
    projection_head,
)
from sdclr.errors import InputError
from sdclr.method import SelfCompetitor


def small(name: str = "resnet18", width: int | None = 4, image_size: int = 16) -> Encoder:
    return create_encoder(EncoderConfig(name=name, width=width), image_size)


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


@pytest.mark.parametrize(
    ("name", "image_size"), [("vit_tiny_patch16_224", 32), ("convnext_atto", 32), ("mobilenetv3_small_050", 32)]
)
def test_any_timm_model_will_do(name: str, image_size: int) -> None:
    network = create_network(EncoderConfig(name=name), HeadConfig(dim=8), image_size)
    assert network(torch.rand(2, 3, image_size, image_size)).shape == (2, 8)
    assert network.encoder(torch.rand(2, 3, image_size, image_size)).shape == (2, network.encoder.num_features)


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


@pytest.mark.parametrize("layers", [2, 3])
@pytest.mark.parametrize("norm", ["batch", "none"])
def test_a_head_has_its_layers_with_normalization_after_each(layers: int, norm: str) -> None:
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
