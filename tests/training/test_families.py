"""Encoders of every kind that timm has: the automatic settings give a network that trains, is pruned, and is kept."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sdclr.data.sources import ArraySource
from sdclr.encoders import EncoderConfig, create_encoder, load_encoder, save_encoder
from sdclr.errors import InputError
from sdclr.training.config import PretrainConfig
from sdclr.training.defaults import default_config
from sdclr.training.norm import fix_statistics, recalibrate
from sdclr.training.optim import create_optimizer
from sdclr.training.run import create_objective

IMAGES = ArraySource(np.zeros((16, 32, 32, 3), dtype=np.uint8), name="small")

# The smallest of each family, and the size of images at which it is tried; None for the automatic one.
FAMILIES: dict[str, int | None] = {
    "resnet10t": 32,
    "regnetx_002": 32,
    "efficientnet_b0": 32,
    "tf_efficientnet_lite0": None,
    "mobilenetv3_small_050": None,
    "convnext_atto": 32,
    "convnextv2_atto": 32,
    "vit_tiny_patch16_224": 32,
    "swin_tiny_patch4_window7_224": 64,
    "mobilevit_xxs": 64,
    "mobileone_s0": 32,
    "dla46_c": 32,
    "repvgg_a0": 32,
    "edgenext_xx_small": None,
    "ghostnet_050": None,
    "mixer_s32_224": 64,
    "levit_128s": 64,
    "lcnet_035": None,
}


@pytest.mark.parametrize("start", [False, True], ids=["random", "trained"])
@pytest.mark.parametrize("name", [*FAMILIES, "vgg11_bn"])
def test_the_automatic_settings_can_be_made(name: str, *, start: bool) -> None:
    config = default_config(IMAGES, gpu=False, start=f"timm:{name}" if start else None, name=None if start else name)
    assert config.encoder.name == name
    assert config.views.image_size <= 256
    with torch.device("meta"):  # shapes alone: no family is too large for a test
        encoder = create_encoder(config.encoder, config.views.image_size)
        assert encoder(torch.zeros(2, 3, encoder.image_size, encoder.image_size)).shape == (2, encoder.num_features)


def settings(name: str, *, start: bool) -> PretrainConfig:
    spec = f"timm:{name}" if start else None
    config = default_config(IMAGES, gpu=False, start=spec, name=None if start else name)
    size = FAMILIES[name]
    return (
        config
        if size is None
        else dataclasses.replace(config, views=dataclasses.replace(config.views, image_size=size))
    )


def pair(size: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.rand(2, 4, 3, size, size, generator=generator)
    return first, second


@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_trains_is_pruned_and_comes_back(name: str, tmp_path: Path) -> None:
    config = settings(name, start=True)
    torch.manual_seed(0)
    objective = create_objective(config)
    competitor, size = objective.competitor, config.views.image_size
    assert competitor is not None
    assert competitor.pruned_fraction() == pytest.approx(0.3, abs=0.01)
    assert all(mask_name.startswith("encoder.") for mask_name in competitor.masks)
    layers = fix_statistics(objective)
    views = pair(size)
    encoder = objective.network.encoder
    recalibrate(competitor, views)
    optimizer = create_optimizer(objective, config.optim)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    loss = objective.train()(*views).mean()
    loss.backward()
    optimizer.step()
    after = encoder.state_dict()
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert bool(loss.isfinite())
    assert len(moved) > 10
    assert not any(key.endswith(("running_mean", "running_var", "num_batches_tracked")) for key in moved) or not layers
    save_encoder(tmp_path, encoder)
    loaded = load_encoder(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(loaded(views[0]), encoder.eval()(views[0]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "size", "said"),
    [
        ("inception_v3", 32, "'inception_v3' cannot take images of 32 px .*: give views of another size"),
        ("crossvit_tiny_240", 64, "'crossvit_tiny_240' cannot take images of 64 px .*: give views of another size"),
        ("efficientformer_l1", 64, "'efficientformer_l1' cannot take images of 64 px .*: give views of another size"),
        ("vgg11_bn", 16, "'vgg11_bn' cannot take images of 16 px .*: give views of another size"),
    ],
)
def test_what_timm_cannot_do_gives_one_line(name: str, size: int, said: str) -> None:
    with torch.device("meta"), pytest.raises(InputError, match=said) as caught:
        create_encoder(EncoderConfig(name=name, stem="default"), size)
    assert "\n" not in str(caught.value)
