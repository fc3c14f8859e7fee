"""Fixed batch-norm statistics: the dense ones never move, and the twin's make up for what is pruned."""

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
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from sdclr.config import digest, to_json
from sdclr.data.sources import ArraySource
from sdclr.encoders import EncoderConfig, HeadConfig, Network, create_network
from sdclr.errors import InputError
from sdclr.files import read_json, write_json
from sdclr.method import DropoutCompetitor, MomentumNetwork, SelfCompetitor
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


def pruned_copy(competitor: SelfCompetitor) -> Any:
    """The twin's encoder as an ordinary network: its weights removed, its statistics put in their place."""
    pruned: Any = copy.deepcopy(competitor.network)
    with torch.no_grad():
        for name, mask in competitor.masks.items():
            pruned.get_parameter(name).mul_(mask)
        for name, value in statistics(dict(competitor.normalization())).items():
            pruned.get_buffer(name).copy_(value)
    return pruned.encoder.eval()


@torch.no_grad()
def normalized(encoder: nn.Module, images: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and deviation of each channel of what each batch-norm layer gives before its weight and bias."""
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def note(name: str, layer: Any, given: Any) -> None:
        values = F.batch_norm(given[0], layer.running_mean, layer.running_var, eps=layer.eps)
        found[name] = (values.mean(dim=(0, 2, 3)), values.std(dim=(0, 2, 3), correction=0))

    named = [(name, layer) for name, layer in encoder.named_modules() if isinstance(layer, _BatchNorm)]
    handles = [layer.register_forward_pre_hook(lambda m, given, n=name: note(n, m, given)) for name, layer in named]
    encoder(images)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0"])
@pytest.mark.parametrize("norm", [True, "statistics"])
def test_the_twins_layers_have_the_networks_means_and_variances(name: str, norm: Any) -> None:
    into = network(name, 64).eval()
    competitor = SelfCompetitor(into, 0.5, independent_norm=norm)
    (images,) = batches(1, 64)
    expected = normalized(into.encoder, images)
    before = normalized(pruned_copy(competitor), images)
    assert max(float((before[key][0] - mean).abs().max()) for key, (mean, _) in expected.items()) > 0.5
    fix_statistics(into.train())
    dense, head = statistics(into.state_dict()), statistics(dict(competitor.normalization()), "head")
    modes = [module.training for module in into.modules()]
    changed = recalibrate(competitor, [images])
    assert len(changed) == 2 * len(expected) == 2 * len(batch_norms(into.encoder))
    assert modes == [module.training for module in into.modules()]
    assert not any(layer._forward_pre_hooks for layer in batch_norms(into))
    found = normalized(pruned_copy(competitor), images)
    for key, (mean, deviation) in expected.items():
        # Where a channel hardly varies, the constant in the denominator counts; one without weights does not vary.
        varies = (deviation > 0.3) & (found[key][1] > 0)
        assert varies.sum() >= 0.9 * (deviation > 0.3).sum()
        torch.testing.assert_close(found[key][0][varies], mean[varies], rtol=0.02, atol=0.02)
        torch.testing.assert_close(found[key][1][varies], deviation[varies], rtol=0.02, atol=0.02)
    assert_equal(dense, statistics(into.state_dict()))
    assert_equal(head, statistics(dict(competitor.normalization()), "head"))
    first = [values.clone() for values in changed]  # what was settled before has no part in it
    assert all(torch.equal(one, two) for one, two in zip(first, recalibrate(competitor, [images]), strict=True))


def test_batches_are_averaged() -> None:
    competitor = SelfCompetitor(network(), 0.5)
    one, two, three = batches()
    alone = [[values.clone() for values in recalibrate(competitor, [each])] for each in (one, two, three)]
    for together, *each in zip(recalibrate(competitor, [one, two, three]), *alone, strict=True):
        torch.testing.assert_close(together, torch.stack(each).mean(dim=0))


def test_where_nothing_is_pruned_the_twin_stays_the_network() -> None:
    into = network()
    twin = SelfCompetitor(into, 0.0)
    recalibrate(twin, batches())
    for name, value in statistics(dict(twin.normalization())).items():
        torch.testing.assert_close(value, into.get_buffer(name))


def test_channels_that_lose_every_weight_stay_finite() -> None:
    into = network()
    twin = SelfCompetitor(into, 0.5)
    for mask in twin.masks.values():
        mask[0] = False
    recalibrate(twin, batches())
    assert all(bool(value.isfinite().all()) for value in twin.normalization().values())
    assert bool(twin.part("encoder")(batches(1)[0]).isfinite().all())


def test_without_statistics_of_its_own_there_is_nothing_to_correct() -> None:
    into = network()
    before = statistics(into.state_dict())
    assert recalibrate(SelfCompetitor(into, 0.5, independent_norm=False), batches()) == []
    assert_equal(before, statistics(into.state_dict()))


def test_a_twin_that_drops_activations_is_corrected_while_it_drops_them() -> None:
    into = network().train()
    twin = DropoutCompetitor(into, 0.5)
    recalibrate(twin, batches())
    name = "encoder.backbone.bn1.running_var"
    assert twin.normalization()[name].mean() > 1.5 * into.get_buffer(name).mean()


FRAMEWORKS: dict[str, dict[str, Any]] = {
    "simclr": {},
    "plain": {"damage": DamageConfig(kind="none")},
    "shared": {"damage": DamageConfig(ratio=0.3, independent_norm=False)},
    "refreshed": {"damage": DamageConfig(ratio=0.3, refresh_steps=2)},
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
    settled = []
    for enabled in (False, True):
        competitor = SelfCompetitor(into, 0.5)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            settled.append(recalibrate(competitor, batches()))
    for one, two in zip(*settled, strict=True):
        torch.testing.assert_close(one, two, rtol=0.05, atol=0.05)
