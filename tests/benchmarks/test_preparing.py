"""The ways to adapt an encoder that the experiment tries."""

import importlib
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cosine_similarity

from sdclr.data.sources import digits
from sdclr.encoders import EncoderConfig
from sdclr.recipes import digits_demo
from sdclr.training.config import DamageConfig
from sdclr.training.pretrain import pretrain
from sdclr.training.run import Run, create_objective
from sdclr.training.runtime import Runtime

RUNTIME = Runtime(device="cpu", workers=0, amp="none", progress=False)


@pytest.fixture
def preparing():
    return importlib.import_module("preparing")


@pytest.fixture
def config():
    made = digits_demo()
    return replace(made, encoder=EncoderConfig(name="resnet18", width=4), damage=DamageConfig(kind="none"), steps=4)


def test_the_distance_to_the_frozen_features_is_added(preparing, config):
    objective = create_objective(config).eval()
    encoder = objective.network.encoder
    views = torch.rand(2, 6, 3, 8, 8)
    with torch.no_grad():
        before = [encoder(view) for view in views]
    preparing.distilled(3.0)(objective)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    framework = objective.framework
    losses = framework(objective.network, objective.network, *views)
    plain = framework.framework(objective.network, objective.network, *views)
    distance = sum(1 - cosine_similarity(encoder(view), old) for view, old in zip(views, before, strict=True)) / 2
    assert distance.mean() > 1e-4
    torch.testing.assert_close(losses, plain + 3 * distance)
    losses.mean().backward()
    assert all(parameter.grad is None for parameter in framework.teacher.parameters())


def test_only_the_head_is_trained_before_the_encoder(preparing, config, tmp_path):
    torch.manual_seed(config.seed)
    start = create_objective(config).network
    prepare = preparing.head_first(digits("train"), config, tmp_path / "head", RUNTIME)
    objective = create_objective(config)
    prepare(objective)
    trained = Run(tmp_path / "head").objective().network
    for name, value in trained.encoder.named_parameters():
        torch.testing.assert_close(value, start.encoder.get_parameter(name))
    head = trained.head.state_dict()
    assert not torch.equal(head["0.weight"], start.head.state_dict()["0.weight"])
    torch.testing.assert_close(objective.network.head.state_dict(), head)


def test_training_ends_nearer_to_the_frozen_features_if_it_is_distilled(preparing, config, tmp_path):
    images = digits("train")
    start = pretrain(images, replace(config, steps=60), run=tmp_path / "start", runtime=RUNTIME).encoder()
    later = replace(config, start=str(tmp_path / "start"), steps=20, optim=replace(config.optim, lr=0.002))
    ends = []
    for weight in (0.0, 100.0):
        with preparing.prepared(preparing.distilled(weight)):
            ends.append(pretrain(images, later, run=tmp_path / f"{weight}", runtime=RUNTIME).encoder())
    view = torch.stack([torch.from_numpy(images.image(index)) for index in range(50)]).permute(0, 3, 1, 2)
    with torch.no_grad():
        free, kept = (cosine_similarity(one(view), start(view)).mean() for one in ends)
    assert kept > free


def test_halfway_is_the_mean_of_both_weights(preparing, config):
    one, other = (create_objective(config).network.encoder for _ in range(2))
    between = preparing.halfway(one, other)
    for name, value in between.named_parameters():
        torch.testing.assert_close(value, (one.get_parameter(name) + other.get_parameter(name)) / 2)
