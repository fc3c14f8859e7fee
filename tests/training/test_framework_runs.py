"""Every framework in training: resumed, on two processes, and collapsed."""

import multiprocessing
import time
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sdclr.encoders import EncoderConfig, HeadConfig
from sdclr.method import SimSiam
from sdclr.method.frameworks import BYOLConfig, MoCoConfig, MoCoV3Config, SimSiamConfig, VICRegConfig
from sdclr.method.frameworks.byol import cosine
from sdclr.training.checkpoint import load_checkpoint
from sdclr.training.collapse import COLLAPSED
from sdclr.training.config import FRAMEWORK_NAMES, DamageConfig, PretrainConfig
from sdclr.training.interrupts import Interrupted
from sdclr.training.optim import OptimConfig, create_optimizer
from sdclr.training.pretrain import Trainer
from sdclr.training.run import Run, create_objective

Train = Callable[..., Run]

SETTINGS: dict[str, dict[str, Any]] = {
    "simclr": {"framework": "simclr"},
    "decoupled": {"framework": "simclr", "decoupled": True},
    "moco": {"framework": "moco", "moco": MoCoConfig(queue=40, momentum=0.9)},
    "moco_v3": {"framework": "moco_v3", "moco_v3": MoCoV3Config(hidden=16, momentum=0.9)},
    "byol": {"framework": "byol", "byol": BYOLConfig(hidden=16, momentum=0.9)},
    "simsiam": {"framework": "simsiam", "simsiam": SimSiamConfig(hidden=4)},
    "barlow_twins": {"framework": "barlow_twins"},
    "vicreg": {"framework": "vicreg"},
}
DAMAGES = {"plain": DamageConfig(kind="none"), "damaged": DamageConfig(ratio=0.3)}
CASES = [(name, damage) for name in SETTINGS for damage in DAMAGES]


def settings(framework: str, damage: str) -> dict[str, Any]:
    return {**SETTINGS[framework], "damage": DAMAGES[damage]}


def state(run: Run) -> dict[str, Any]:
    loaded = load_checkpoint(run.checkpoints)
    assert loaded is not None
    return loaded[0]


def assert_equal(one: Any, two: Any) -> None:
    """Bit for bit, in nested containers."""
    assert type(one) is type(two)
    if torch.is_tensor(one):
        assert torch.equal(one, two)
    elif isinstance(one, dict):
        assert one.keys() == two.keys()
        for key, value in one.items():
            assert_equal(value, two[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(two)
        for mine, other in zip(one, two, strict=True):
            assert_equal(mine, other)
    else:
        assert one == two


@pytest.mark.parametrize(("framework", "damage"), CASES)
def test_a_resumed_run_equals_an_uninterrupted_one(
    train: Train, monkeypatch: pytest.MonkeyPatch, framework: str, damage: str
) -> None:
    changes = {**settings(framework, damage), "epochs": 2}
    whole = train(folder="whole", changes=changes)
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
    begun = state(Run(whole.path.with_name("stopped")))
    assert begun["step"] == 4
    assert_equal(state(train(folder="stopped", changes=changes)), state(whole))
    # What a framework keeps is saved with the network, and its predictor's momentum with the optimizer's.
    expected = {"moco": ("target", "keys"), "moco_v3": ("target", "predictor"), "byol": ("target", "predictor")}
    for part in expected.get(framework, ("predictor",) if framework == "simsiam" else ()):
        assert any(name.startswith(f"framework.{part}") for name in begun["objective"])


def without_batch_statistics(objective: nn.Module) -> nn.Module:
    """Normalize by the running statistics alone: those of a batch depend on how it is shared."""
    for module in objective.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    return objective


def objective_of(framework: str, damage: str) -> Any:
    torch.manual_seed(0)
    config = PretrainConfig(
        encoder=EncoderConfig(name="resnet20", width=4),
        head=HeadConfig(dim=8, last="none"),
        optim=OptimConfig(lr=0.001, warmup_epochs=1),  # VICReg's losses, unnormalized here, bear no more
        **settings(framework, damage),
    )
    return without_batch_statistics(create_objective(config)), config.optim


def two_steps(framework: str, damage: str, share: slice, wrapped: Callable[[nn.Module], nn.Module]) -> dict[str, Any]:
    """Losses and gradients of the second of two steps on these images of a batch, and the state after it."""
    objective, optim = objective_of(framework, damage)
    optimizer = create_optimizer(objective, optim)
    model = wrapped(objective)
    generator = torch.Generator().manual_seed(1)
    losses = torch.empty(0)
    for step in range(2):
        view1, view2 = torch.rand(2, 12, 3, 8, 8, generator=generator)
        optimizer.zero_grad()
        losses = model(view1[share], view2[share])
        losses.mean().backward()
        optimizer.step()
        objective.after_step((step + 1) / 4)
    gradients = {name: weight.grad for name, weight in objective.named_parameters() if weight.grad is not None}
    return {"losses": losses.detach(), "gradients": gradients, "state": objective.state_dict()}


def one_of_two(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    share = slice(6 * rank, 6 * rank + 6)

    def wrapped(model: nn.Module) -> nn.Module:
        return DistributedDataParallel(model, broadcast_buffers=False)

    found = {f"{one} {other}": two_steps(one, other, share, wrapped) for one, other in CASES}
    torch.save(found, f"{folder}/rank{rank}.pt")
    time.sleep(0.5)  # gloo lets go of the last collective, as in `sdclr.training.distributed`
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found, in all frameworks."""
    folder = tmp_path_factory.mktemp("ranks")
    context = multiprocessing.get_context("forkserver")
    children = [context.Process(target=one_of_two, args=(rank, str(folder))) for rank in (0, 1)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0]
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize(("framework", "damage"), CASES)
def test_two_processes_take_the_step_of_one(ranks: list[dict[str, Any]], framework: str, damage: str) -> None:
    one = two_steps(framework, damage, slice(None), lambda model: model)
    first, second = (rank[f"{framework} {damage}"] for rank in ranks)
    # VICReg gives each process's samples the same batch terms, and Barlow Twins nothing else.
    torch.testing.assert_close(torch.cat([first["losses"], second["losses"]]), one["losses"], rtol=1e-4, atol=1e-5)
    assert first["gradients"].keys() == one["gradients"].keys()
    largest = max(float(gradient.abs().max()) for gradient in one["gradients"].values())
    assert largest > 1e-4  # else the comparison would say nothing
    for name, gradient in one["gradients"].items():
        torch.testing.assert_close(first["gradients"][name], gradient, rtol=1e-3, atol=1e-4 * largest)
    for name, tensor in one["state"].items():
        torch.testing.assert_close(first["state"][name], tensor, rtol=1e-4, atol=1e-5)
        assert torch.equal(first["state"][name], second["state"][name])


WIDE = {"damage": DAMAGES["plain"], "head": HeadConfig(dim=8, last="none"), "epochs": 30}
COLLAPSING: dict[str, dict[str, Any]] = {
    "vicreg": {
        **WIDE,
        "framework": "vicreg",
        "vicreg": VICRegConfig(variance=0.0, covariance=0.0),
        "optim": OptimConfig(lr=0.02, warmup_epochs=1),
        "epochs": 120,
    },
    "simsiam": {**WIDE, **SETTINGS["simsiam"], "optim": OptimConfig(lr=0.5, warmup_epochs=1)},
}


def without_stop_gradient(self: SimSiam, a: Any, b: Any, view1: Tensor, view2: Tensor) -> Tensor:
    """SimSiam's loss as it must not be (Chen and He, section 4.1)."""
    z1, z2 = a(view1), b(view2)
    return -(cosine(self.predictor(z1), z2) + cosine(self.predictor(z2), z1)) / 2


@pytest.mark.slow
@pytest.mark.parametrize("framework", COLLAPSING)
def test_a_network_that_collapses_in_training_is_told(
    train: Train, monkeypatch: pytest.MonkeyPatch, framework: str
) -> None:
    if framework == "simsiam":
        monkeypatch.setattr(SimSiam, "forward", without_stop_gradient)
    with pytest.warns(UserWarning, match="the network has collapsed"):
        run = train(changes=COLLAPSING[framework])
    spreads = [row["feature_std"] for row in run.metrics()]
    assert spreads[0] > 0.5
    assert min(spreads) < COLLAPSED


@pytest.mark.parametrize("framework", COLLAPSING)
def test_the_same_run_with_what_prevents_the_collapse_is_told_nothing(train: Train, framework: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = train(changes={**COLLAPSING[framework], "vicreg": VICRegConfig(), "epochs": WIDE["epochs"]})
    assert min(row["feature_std"] for row in run.metrics()) > 0.15  # 0.21 to 0.6, by the processor


def test_every_framework_is_among_the_cases() -> None:
    assert {settings["framework"] for settings in SETTINGS.values()} == set(FRAMEWORK_NAMES)
