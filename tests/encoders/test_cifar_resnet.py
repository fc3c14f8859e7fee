"""The ResNets for CIFAR."""

import pytest
import timm
import torch
from torch import nn

from sdclr.encoders import (
    EncoderConfig,
    create_encoder,
)
from sdclr.errors import InputError


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
