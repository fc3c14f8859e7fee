"""Fixed batch-norm statistics: the dense ones never move, and the twin's are those of its pruned weights."""

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sdclr.config import digest, to_json
from sdclr.data.sources import ArraySource
from sdclr.encoders import EncoderConfig, HeadConfig, Network, create_network
from sdclr.errors import InputError
from sdclr.files import read_json, write_json
from sdclr.method import DropoutCompetitor, MomentumNetwork, SelfCompetitor, SelfCompetitors
from sdclr.method.frameworks import BYOLConfig, MoCoConfig, MoCoV3Config
from sdclr.training.config import DamageConfig, PretrainConfig
from sdclr.training.interrupts import Interrupted
from sdclr.training.norm import fix_statistics, recalibrate
from sdclr.training.optim import OptimConfig
from sdclr.training.pretrain import Trainer
from sdclr.training.run import Run

Train = Callable[..., Run]
FIXED: dict[str, Any] = {"norm_statistics": "fixed"}


def network(name: str = "resnet18", size: int = 8) -> Network:
    torch.manual_seed(1)
    width = 4 if name == "resnet18" else None
    made = create_network(EncoderConfig(name=name, width=width), HeadConfig(dim=8), size)
    for layer in batch_norms(made.encoder):  # no layer may pass for one that was never trained
        nn.init.uniform_(layer.running_mean, -0.2, 0.2)
        nn.init.uniform_(layer.running_var, 0.5, 1.5)
    return made


def batch_norms(module: nn.Module) -> list[Any]:
    return [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]


def batches(count: int = 3, size: int = 8) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(6, 3, size, size, generator=generator) for _ in range(count)]


def statistics(state: dict[str, Tensor], part: str = "") -> dict[str, Tensor]:
    ends = ("running_mean", "running_var", "num_batches_tracked")
    return {name: value.clone() for name, value in state.items() if name.endswith(ends) and part in name}


def assert_equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    assert one
    assert one.keys() == two.keys()
    assert [name for name in one if not torch.equal(one[name], two[name])] == []


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0"])  # timm fuses activations into the latter's
def test_fixed_layers_stay_in_evaluation_mode_whatever_is_called(name: str) -> None:
    into = network(name, 32)
    assert fix_statistics(into) == len(batch_norms(into.encoder)) > 10
    before = statistics(into.state_dict(), "encoder")
    for module in (into, into.encoder, into.encoder.backbone, batch_norms(into.encoder)[3], copy.deepcopy(into)):
        module.train()
        assert not any(layer.training for layer in batch_norms(into.encoder))
    copied = copy.deepcopy(into).train()
    assert not any(layer.training for layer in batch_norms(copied.encoder))
    assert all(layer.training for layer in batch_norms(copied.head))
    into(batches(1, 32)[0]).sum().backward()
    assert_equal(before, statistics(into.state_dict(), "encoder"))
    assert all(layer.weight.grad.abs().sum() > 0 for layer in batch_norms(into.encoder)[:3])


def test_what_follows_an_encoder_is_fixed_too() -> None:
    into = network()
    both = nn.ModuleList([into, MomentumNetwork(into, 0.9)])
    assert fix_statistics(both) == 2 * len(batch_norms(into.encoder))


def by_hand(into: Network, competitor: SelfCompetitor, parts: list[Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean over batches of each layer's mean and variance, from its inputs while the pruned twin runs by the batch."""
    pruned = copy.deepcopy(into)
    with torch.no_grad():
        for name, mask in competitor.masks.items():
            pruned.get_parameter(name).mul_(mask)
    seen: dict[str, list[Tensor]] = {}
    for name, layer in pruned.encoder.named_modules():
        if isinstance(layer, _BatchNorm):
            layer.train()
            layer.register_forward_pre_hook(lambda _, given, name=name: seen.setdefault(name, []).append(given[0]))
        elif not list(layer.children()):
            layer.eval()
    with torch.no_grad():
        for part in parts:
            pruned.encoder(part)
    found = {}
    for name, inputs in seen.items():
        means = [values.mean(dim=(0, 2, 3)) for values in inputs]
        variances = [values.transpose(0, 1).flatten(1).var(dim=1) for values in inputs]
        found[f"encoder.{name}"] = (torch.stack(means).mean(0), torch.stack(variances).mean(0))
    return found


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0"])
@pytest.mark.parametrize("norm", [True, "statistics"])
def test_recalibrated_statistics_are_those_of_a_plain_pass(name: str, norm: Any) -> None:
    into = network(name, 32)
    competitor = SelfCompetitor(into, 0.5, independent_norm=norm)
    parts = batches(3, 32)
    expected = by_hand(into, competitor, parts)
    fix_statistics(into.train())
    dense, head = statistics(into.state_dict()), statistics(dict(competitor.normalization()), "head")
    modes = [module.training for module in into.modules()]
    measured = recalibrate(competitor, parts)
    assert len(measured) == 2 * len(expected) == 2 * len(batch_norms(into.encoder))
    own = competitor.normalization()
    for layer, (mean, variance) in expected.items():
        torch.testing.assert_close(own[f"{layer}.running_mean"], mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(own[f"{layer}.running_var"], variance, rtol=1e-4, atol=1e-5)
    assert_equal(dense, statistics(into.state_dict()))
    assert_equal(head, statistics(dict(own), "head"))
    assert modes == [module.training for module in into.modules()]
    assert all(layer.momentum is not None for layer in batch_norms(into))
    first = [values.clone() for values in measured]  # what was measured before has no part in it
    assert all(torch.equal(one, two) for one, two in zip(first, recalibrate(competitor, parts), strict=True))


def test_without_statistics_of_its_own_there_is_nothing_to_measure() -> None:
    into = network()
    before = statistics(into.state_dict())
    assert recalibrate(SelfCompetitor(into, 0.5, independent_norm=False), batches()) == []
    assert_equal(before, statistics(into.state_dict()))


def test_several_twins_are_measured_each_for_itself() -> None:
    into, parts = network(), batches()
    several = SelfCompetitors(into, (0.3, 0.6))
    recalibrate(several, parts)
    for twin, ratio in zip((several, *several.others), (0.3, 0.6), strict=True):
        assert isinstance(twin, SelfCompetitor)
        alone = SelfCompetitor(into, ratio)
        recalibrate(alone, parts)
        assert_equal(statistics(dict(alone.normalization())), statistics(dict(twin.normalization())))


def test_a_twin_that_drops_activations_is_measured_while_it_drops_them() -> None:
    into = network().train()
    twin, whole = DropoutCompetitor(into, 0.5), SelfCompetitor(into, 0.0)
    for each in (twin, whole):
        recalibrate(each, batches())
    name = "encoder.backbone.bn1.running_var"
    assert twin.normalization()[name].mean() > 1.5 * whole.normalization()[name].mean()


def test_recalibration_mends_a_twin_with_half_its_weights() -> None:
    """Its activations have mean 0 and variance 1 again, before weight and bias."""
    into = network("tf_efficientnet_lite0", 64).eval()
    whole = SelfCompetitor(into, 0.0)
    recalibrate(whole, batches(2, 64))
    with torch.no_grad():  # as if trained: the dense statistics are those of its own activations
        for name, value in whole.normalization().items():
            if name.endswith(("running_mean", "running_var")):
                into.get_buffer(name).copy_(value)
    twin = SelfCompetitor(into, 0.5)
    before = spread(twin, batches(1, 64)[0])
    recalibrate(twin, batches(2, 64))
    assert before < 0.8
    assert spread(twin, batches(1, 64)[0]) == pytest.approx(1, abs=0.1)


@torch.no_grad()
def spread(twin: SelfCompetitor, images: Tensor) -> float:
    """Standard deviation of what the last batch-norm layer of the twin gives, before weight and bias."""
    seen: list[Tensor] = []
    last = twin.network.encoder.backbone.bn2  # type: ignore[union-attr]  # a Network of timm's EfficientNet
    handle = last.register_forward_pre_hook(lambda layer, given: seen.append(normalized(layer, given[0])))
    twin.part("encoder")(images)
    handle.remove()
    return float(seen[0].std())


def normalized(layer: Any, values: Tensor) -> Tensor:
    shape = (1, -1, 1, 1)
    return (values - layer.running_mean.view(shape)) / (layer.running_var.view(shape) + layer.eps).sqrt()


FRAMEWORKS: dict[str, dict[str, Any]] = {
    "simclr": {},
    "plain": {"damage": DamageConfig(kind="none")},
    "shared": {"damage": DamageConfig(ratio=0.3, independent_norm=False)},
    "several": {"damage": DamageConfig(ratio=0.3, also=(0.5,), refresh_steps=2)},
    "dropout": {"damage": DamageConfig(kind="dropout", ratio=0.3)},
    "layers": {"optim": OptimConfig(lr=0.01, warmup_epochs=1, layer_decay=0.7)},
    "density": {"rebalance": ("density",)},
    "memorization": {"rebalance": ("memorization",)},
    "moco": {"framework": "moco", "moco": MoCoConfig(queue=40, momentum=0.9)},
    "moco_v3": {"framework": "moco_v3", "moco_v3": MoCoV3Config(hidden=16, momentum=0.9)},
    "byol": {"framework": "byol", "byol": BYOLConfig(hidden=16, momentum=0.9)},
    "simsiam": {"framework": "simsiam"},
    "barlow_twins": {"framework": "barlow_twins"},
    "vicreg": {"framework": "vicreg"},
}


@pytest.mark.parametrize("kind", FRAMEWORKS)
def test_a_run_leaves_dense_statistics_alone_and_resumes_to_the_bit(
    train: Train, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    changes = {"optim": OptimConfig(lr=0.01, warmup_epochs=1), **FRAMEWORKS[kind], **FIXED, "epochs": 2}
    begun: dict[str, Tensor] = {}
    init = Trainer.__init__

    def watched(self: Trainer, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        begun.update({name: v for name, v in statistics(self.objective.state_dict()).items() if "_norm" not in name})

    monkeypatch.setattr(Trainer, "__init__", watched)
    whole = train(folder="whole", changes=changes)
    state = whole.objective().state_dict()
    dense = {name: value for name, value in begun.items() if ".encoder." in name and "competitor" not in name}
    assert kind not in {"moco", "byol"} or any(name.startswith("framework.target") for name in dense)
    assert_equal(dense, {name: state[name] for name in dense})
    head = {name: value for name, value in begun.items() if name.startswith("network.head")}
    assert not any(torch.equal(value, state[name]) for name, value in head.items())
    twins = statistics(state, "_norm.encoder/")
    assert bool(twins) == (changes.get("damage", DamageConfig()).kind != "none" and kind != "shared")
    means = [value for name, value in twins.items() if name.endswith("running_mean")]
    assert all(bool(value.abs().sum() > 0) for value in means)

    take_step = Trainer._take_step

    def stopped(self: Trainer, batch: Any) -> None:
        take_step(self, batch)
        if self.step == 4:
            self.save()
            raise Interrupted(15, "in the middle of the second epoch")

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_take_step", stopped)
        with pytest.raises(Interrupted):
            train(folder="stopped", changes=changes)
    assert_equal(state, train(folder="stopped", changes=changes).objective().state_dict())


def test_streamed_images_and_recomputed_activations_will_do(train: Train, large_images: ArraySource) -> None:
    changes = {**FIXED, "epochs": 2}
    plain = train(large_images, "plain", changes).objective().state_dict()
    again = train(large_images, "again", changes, workers=1, checkpoint_activations=True).objective().state_dict()
    assert_equal(statistics(plain), statistics(again))


def test_a_run_is_compiled_once_however_often_it_measures(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        del inputs
        graphs.append(graph)
        return graph.forward

    changes = {**FIXED, "epochs": 2, "damage": DamageConfig(ratio=0.3, refresh_steps=2)}
    plain = statistics(train(folder="plain", changes=changes).objective().state_dict(), "encoder")
    compile_in_place = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self: compile_in_place(self, backend=backend, fullgraph=True))
    torch._dynamo.reset()
    with torch._dynamo.config.patch(error_on_recompile=True):
        run = train(folder="compiled", changes=changes, compile=True)
    torch._dynamo.reset()
    assert len(graphs) == 1
    compiled = run.objective().state_dict()
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, rtol=1e-2, atol=1e-2)


def test_what_is_held_out_is_not_measured_on(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    from sdclr.training import guidance

    drawn: list[int] = []
    sampled = guidance.sampled_views

    def watched(images: Any, chosen: Any, *args: Any, **kwargs: Any) -> Any:
        drawn.extend(chosen.tolist())
        return sampled(images, chosen, *args, **kwargs)

    monkeypatch.setattr(guidance, "sampled_views", watched)
    weights = np.arange(50) % 2
    train(changes={**FIXED, "epochs": 2, "batch_size": 16}, weights=weights)
    assert len(drawn) == 2 * 25
    assert all(weights[index] for index in drawn)


def test_statistics_are_fixed_with_a_start_alone() -> None:
    assert not PretrainConfig().fixes_statistics
    assert PretrainConfig(start="runs/a").fixes_statistics
    assert not PretrainConfig(start="runs/a", norm_statistics="moving").fixes_statistics
    assert PretrainConfig(norm_statistics="fixed").fixes_statistics
    assert (digest(PretrainConfig()), digest(PretrainConfig(start="runs/a"))) == ("44136fa3", "c85ec602")  # as before


def test_a_run_begun_before_one_could_choose_does_not_change_its_ways(train: Train, tmp_path: Path) -> None:
    first = train(folder="first", changes={"epochs": 2})
    config = dataclasses.replace(first.config, start=str(first.path))
    values = to_json(config)
    del values["norm_statistics"]
    (tmp_path / "old").mkdir()
    write_json(tmp_path / "old" / "config.json", values)
    assert not Run(tmp_path / "old").config.fixes_statistics
    with pytest.raises(InputError, match="norm_statistics: moving → auto"):
        train(folder="old", changes={"epochs": 2, "start": str(first.path)})


def test_a_run_from_a_run_keeps_its_statistics(train: Train, finished: Run) -> None:
    run = train(changes={"start": str(finished.path), "epochs": 2})
    weights, before = (load_file(each.path / "encoder.safetensors") for each in (run, finished))
    assert_equal(statistics(before), statistics(weights))
    assert not torch.equal(before["conv1.weight"], weights["conv1.weight"])
    assert read_json(run.config_file)["norm_statistics"] == "auto"


def test_mixed_precision_measures_about_the_same() -> None:
    into = network()
    measured = []
    for enabled in (False, True):
        competitor = SelfCompetitor(into, 0.5)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            measured.append(recalibrate(competitor, batches()))
    for one, two in zip(*measured, strict=True):
        torch.testing.assert_close(one, two, rtol=0.05, atol=0.05)
