"""Optimizers and the learning rate."""

import math
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.optim import param_groups_layer_decay
from torch import nn

from sdclr.config import digest
from sdclr.encoders import EncoderConfig, HeadConfig, create_network
from sdclr.errors import InputError
from sdclr.method import Objective, SelfCompetitor, SimCLR
from sdclr.recipes import RECIPES
from sdclr.training.config import PretrainConfig
from sdclr.training.optim import OptimConfig, create_optimizer, learning_rate, set_learning_rate

Name = Literal["sgd", "lars", "adamw"]


def objective() -> Objective:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 6, bias=False), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
    return Objective(SimCLR(), network, SelfCompetitor(network, 0.5))


@given(st.integers(1, 40), st.integers(2, 30), st.floats(0, 0.99), st.floats(0.01, 5), st.data())
def test_the_learning_rate_is_the_plain_formula(
    steps: int, epochs: int, warm_share: float, peak: float, data: st.DataObject
) -> None:
    final = data.draw(st.floats(0, 0.01))
    step = data.draw(st.integers(0, steps * epochs - 1))
    config = OptimConfig(lr=peak, final_lr=final, warmup_epochs=warm_share * epochs)
    total, warm = steps * epochs, warm_share * epochs * steps
    if step < warm:
        expected = min(peak, peak * (step + 1) / warm)
    else:
        cosine = math.cos(math.pi * (step - warm) / (total - warm))
        expected = final + (peak - final) * (1 + cosine) / 2
    got = learning_rate(step, steps_per_epoch=steps, epochs=epochs, config=config)
    assert got == pytest.approx(expected)


@given(st.integers(1, 20), st.integers(2, 20), st.floats(0, 0.9))
def test_it_rises_to_the_peak_and_falls_to_the_end(steps: int, epochs: int, warm_share: float) -> None:
    config = OptimConfig(lr=0.5, final_lr=1e-6, warmup_epochs=warm_share * epochs)
    rates = [learning_rate(s, steps_per_epoch=steps, epochs=epochs, config=config) for s in range(steps * epochs + 1)]
    warm = math.ceil(warm_share * epochs * steps)
    assert rates[:warm] == sorted(rates[:warm])
    assert rates[warm:] == sorted(rates[warm:], reverse=True)
    assert min(rates) > 0
    assert max(rates) <= 0.5
    assert rates[-1] == pytest.approx(1e-6)


def test_an_automatic_warm_up_is_a_tenth_of_the_run_and_ten_epochs_at_most() -> None:
    peaks = {}
    for epochs in (1, 20, 100, 500, 2000):
        rates = [learning_rate(s, steps_per_epoch=20, epochs=epochs, config=OptimConfig()) for s in range(20 * epochs)]
        peaks[epochs] = rates.index(max(rates)) + 1
    assert peaks == {1: 2, 20: 40, 100: 200, 500: 200, 2000: 200}


def test_a_warm_up_of_the_whole_run_is_a_ramp() -> None:
    config = PretrainConfig(epochs=3, optim=OptimConfig(lr=0.5, warmup_epochs=3))
    rates = [learning_rate(s, steps_per_epoch=2, epochs=3, config=config.optim) for s in range(6)]
    assert rates == pytest.approx([0.5 * (step + 1) / 6 for step in range(6)])
    with pytest.raises(InputError, match=r"a warm-up of 3.5 epochs is longer than the run of 3"):
        PretrainConfig(epochs=3, optim=OptimConfig(warmup_epochs=3.5))


def test_digests_are_those_of_the_version_with_a_warm_up_of_ten_epochs() -> None:
    digests = {name: digest(recipe()) for name, recipe in RECIPES.items()}
    assert digests == {
        "cifar_lt": "f18c507d",
        "imagenet100_lt": "76864e14",
        "imagenet_lt": "76864e14",
        "digits_demo": "d5338910",
    }
    explicit = PretrainConfig(epochs=200, optim=OptimConfig(warmup_epochs=10))
    assert explicit == PretrainConfig(epochs=200)
    assert PretrainConfig(epochs=50, optim=OptimConfig(warmup_epochs=10)) != PretrainConfig(epochs=50)


def test_two_cosines_join() -> None:
    config = OptimConfig(lr=0.5, joint=0.5, joint_lr=0.3, final_lr=1e-6, warmup_epochs=10)
    rates = {
        epoch: learning_rate(epoch * 7, steps_per_epoch=7, epochs=1000, config=config) for epoch in (10, 255, 500, 750)
    }
    assert rates == pytest.approx({10: 0.5, 255: 0.4, 500: 0.3, 750: 0.15}, abs=1e-6)
    last = learning_rate(6999, steps_per_epoch=7, epochs=1000, config=config)
    assert last == pytest.approx(1e-6, abs=1e-6)


@pytest.mark.parametrize("wrong", [{"joint": 1.0}, {"joint": 0.5, "joint_lr": 0.6}, {"joint": 0.5, "joint_lr": 0.0}])
def test_cosines_that_do_not_join_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match="two cosines join"):
        OptimConfig(**wrong)  # type: ignore[arg-type]  # floats all


@pytest.mark.parametrize("name", ["sgd", "lars", "adamw"])
def test_every_parameter_is_trained_once(name: Name) -> None:
    module = objective()
    optimizer = create_optimizer(module, OptimConfig(name=name))
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(held) == len({id(p) for p in held})
    assert {id(p) for p in held} == {id(p) for p in module.parameters()}
    assert module.competitor is not None
    assert {id(p) for p in module.competitor.parameters()} == {id(p) for p in held}


@pytest.mark.parametrize("name", ["sgd", "lars", "adamw"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_a_step_lowers_the_loss_at_the_rate_that_was_set(name: Name, weight_decay: float) -> None:
    module = objective()
    optimizer = create_optimizer(module, OptimConfig(name=name, lr=0.5, weight_decay=weight_decay))
    set_learning_rate(optimizer, 1e-3 if name != "lars" else 1.0)
    views = torch.rand(2, 16, 3, 2, 2)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = module(views[0], views[1]).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def _stepped(optimizer: torch.optim.Optimizer, gradients: list[list[torch.Tensor]]) -> list[torch.Tensor]:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for step in gradients:
        for parameter, gradient in zip(parameters, step, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
    return [p.detach().clone() for p in parameters]


def test_sgd_is_the_plain_formula() -> None:
    module = nn.Linear(3, 2)
    weights = [p.detach().clone() for p in module.parameters()]
    gradients = [[torch.randn_like(w) for w in weights] for _ in range(4)]
    got = _stepped(create_optimizer(module, OptimConfig(lr=0.1, momentum=0.9, weight_decay=0.01)), gradients)
    buffers = [torch.zeros_like(w) for w in weights]
    for step in gradients:
        for i, gradient in enumerate(step):
            buffers[i] = 0.9 * buffers[i] + gradient + 0.01 * weights[i]
            weights[i] = weights[i] - 0.1 * buffers[i]
    for ours, plain in zip(got, weights, strict=True):
        torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_lars_adapts_weights_and_leaves_biases_alone(weight_decay: float) -> None:
    module = nn.Linear(3, 2)
    weight, bias = (p.detach().clone() for p in module.parameters())
    gradients = [torch.randn_like(weight), torch.randn_like(bias)]
    config = OptimConfig(name="lars", lr=2.0, momentum=0.0, weight_decay=weight_decay)
    got = _stepped(create_optimizer(module, config), [gradients])
    # You et al. (2017), eq. 6 with trust 0.001.
    rate = 0.001 * weight.norm() / (gradients[0].norm() + weight_decay * weight.norm())
    torch.testing.assert_close(got[0], weight - 2.0 * rate * (gradients[0] + weight_decay * weight))
    torch.testing.assert_close(got[1], bias - 2.0 * gradients[1])


@pytest.mark.parametrize("name", ["sgd", "lars", "adamw"])
def test_a_first_step_skipped_for_overflow_leaves_no_trace(name: Name) -> None:
    start = torch.randn(64)
    results = []
    for overflows in (True, False):
        module = nn.Module()
        module.weight = nn.Parameter(start.clone())
        optimizer = create_optimizer(module, OptimConfig(name=name, lr=0.1))
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        for factor in ([math.inf] if overflows else []) + [1.0, 2.0]:
            optimizer.zero_grad()
            scaler.scale(module.weight.sum() * factor).backward()
            scaler.step(optimizer)
            scaler.update()
        results.append(module.weight.detach().clone())
    torch.testing.assert_close(results[0], results[1])


def with_encoder(name: str, size: int = 16) -> Objective:
    network = create_network(EncoderConfig(name=name), HeadConfig(dim=8), size)
    return Objective(SimCLR(), network, SelfCompetitor(network, 0.5))


@pytest.mark.parametrize("encoder", ["resnet18", "vit_tiny_patch16_224"])
@pytest.mark.parametrize("name", ["sgd", "lars", "adamw"])
def test_rates_decay_by_depth_as_timm_has_them(name: Name, encoder: str) -> None:
    module = with_encoder(encoder)
    backbone = module.network.encoder.backbone  # type: ignore[union-attr]  # a Network's
    expected = {
        parameter: group["lr_scale"]
        for group in param_groups_layer_decay(backbone, layer_decay=0.5)
        for parameter in group["params"]
    }
    assert 0 < min(expected.values()) < 0.1
    optimizer = create_optimizer(module, OptimConfig(name=name, layer_decay=0.5))
    set_learning_rate(optimizer, 0.2)
    rates = {parameter: group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    assert rates.keys() == set(module.parameters())
    assert {parameter: rates[parameter] for parameter in expected} == pytest.approx(
        {parameter: 0.2 * scale for parameter, scale in expected.items()}
    )
    head = module.network.head.parameters()  # type: ignore[union-attr]
    assert all(rates[parameter] == 0.2 for parameter in head)
    assert module.competitor is not None
    networks = dict(module.network.named_parameters())
    for key, own in module.competitor.normalization().items():
        if isinstance(own, nn.Parameter):
            assert rates[own] == rates[networks[key]]
    assert optimizer.param_groups[0]["lr"] == 0.2  # the one that is logged


def test_without_decay_there_is_one_group() -> None:
    assert len(create_optimizer(with_encoder("resnet18"), OptimConfig()).param_groups) == 1


def test_layers_without_an_order_are_refused() -> None:
    with pytest.raises(InputError, match=r"'resnet20' have no order: leave out --optim.layer-decay"):
        create_optimizer(with_encoder("resnet20"), OptimConfig(layer_decay=0.5))


@pytest.mark.parametrize(
    "values",
    [
        {"layer_decay": 0},
        {"layer_decay": 1.5},
        {"lr": 0},
        {"lr": -1},
        {"final_lr": 1.0},
        {"momentum": 1.0},
        {"warmup_epochs": -1},
        {"weight_decay": -1},
    ],
)
def test_nonsense_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(InputError):
        OptimConfig(**values)  # type: ignore[arg-type]  # parametrized
