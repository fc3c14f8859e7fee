"""Only the chosen part of the encoder is trained: every other weight stays equal to the bit."""

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file

from sdclr.encoders import EncoderConfig, create_encoder
from sdclr.errors import InputError
from sdclr.training.config import DamageConfig, PretrainConfig
from sdclr.training.run import Run
from sdclr.training.trainable import freeze_all_but

Train = Callable[..., Run]


def trainable_names(name: str, part: Any, size: int = 32) -> tuple[set[str], set[str]]:
    """The parameters that stay trainable, and all."""
    encoder = create_encoder(EncoderConfig(name=name), size)
    count = freeze_all_but(encoder, part)
    parameters = dict(encoder.backbone.named_parameters())
    chosen = {key for key, parameter in parameters.items() if parameter.requires_grad}
    assert count == sum(parameters[key].numel() for key in chosen)
    return chosen, set(parameters)


@pytest.mark.parametrize(
    ("name", "size", "prefixes"),
    [
        ("resnet18", 32, ("layer4.",)),
        ("tf_efficientnet_lite0", 32, ("blocks.6.", "conv_head.", "bn2.")),
        ("vit_tiny_patch16_224", 224, ("blocks.11.", "norm.")),
    ],
)
def test_the_last_stage_is_the_deepest_group_of_timm(name: str, size: int, prefixes: tuple[str, ...]) -> None:
    chosen, all_names = trainable_names(name, "last-stage", size)
    assert chosen == {key for key in all_names if key.startswith(prefixes)}
    assert chosen


@pytest.mark.parametrize(("name", "size"), [("resnet18", 32), ("convnext_atto", 32), ("vit_tiny_patch16_224", 224)])
def test_norms_are_the_one_dimensional_weights_of_normalization(name: str, size: int) -> None:
    chosen, _ = trainable_names(name, "norms", size)
    model = timm.create_model(name, num_classes=0)
    kinds = ("BatchNorm", "LayerNorm")
    expected = {
        f"{prefix}.{each}"
        for prefix, module in model.named_modules()
        if any(kind in type(module).__name__ for kind in kinds)
        for each in ("weight", "bias")
    }
    assert chosen == expected


@pytest.mark.parametrize("part", ["last-stage", "norms"])
@pytest.mark.parametrize("kind", ["none", "prune"])
def test_the_rest_stays_equal(train: Train, finished: Run, part: str, kind: str) -> None:
    changes = {"start": str(finished.path), "trainable": part, "damage": DamageConfig(kind=kind, ratio=0.3)}
    run = train(changes=changes)
    before, after = (load_file(each.path / "encoder.safetensors") for each in (finished, run))
    encoder = run.encoder()
    freeze_all_but(encoder, part)
    chosen = {f"backbone.{key}" for key, each in encoder.backbone.named_parameters() if each.requires_grad}
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert {key.removeprefix("backbone.") for key in changed} == {key.removeprefix("backbone.") for key in chosen}


def test_random_weights_are_not_kept() -> None:
    with pytest.raises(InputError, match="would keep random weights: add --start"):
        PretrainConfig(trainable="norms")


def test_an_encoder_without_order_or_norms_is_named() -> None:
    encoder = create_encoder(EncoderConfig(name="resnet18", width=4), 8)
    encoder.backbone = torch.nn.Conv2d(3, 4, 1)
    with pytest.raises(InputError, match="have no order: give --trainable all"):
        freeze_all_but(encoder, "last-stage")
    with pytest.raises(InputError, match="no normalization layers to train"):
        freeze_all_but(encoder, "norms")
