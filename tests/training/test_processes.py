"""Runs in processes of their own: killed and started again, stopped by a signal, two at a time.

The processes are forked from a server that has torch imported, which saves seconds for each.
"""

import dataclasses
import multiprocessing
import multiprocessing.context
import os
import random
import runpy
import signal
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sdclr.data.sources import ArraySource, SubsetSource, digits
from sdclr.encoders import EncoderConfig, HeadConfig
from sdclr.errors import InputError
from sdclr.files import claimed
from sdclr.method.frameworks import MoCoConfig
from sdclr.training.config import DamageConfig, PretrainConfig
from sdclr.training.optim import OptimConfig
from sdclr.training.pretrain import pretrain
from sdclr.training.run import Run, create_objective
from sdclr.training.runtime import Runtime

Child = multiprocessing.context.ForkServerProcess

# What a launched process does: join the others, train, and end as the command line would. `signal_at` is a step, and
# what the process then sends to itself or, with its worker processes, to its group.
SCRIPT = """
import multiprocessing, os, signal, subprocess, sys, torch
multiprocessing.set_start_method("fork", force=True)  # for its workers, as if it had not come from a server itself
os.environ.update(env)
if group: os.setpgid(0, 0)
torch.set_num_threads(1)
from sdclr.training import pretrain as loop
from sdclr.errors import InputError
from sdclr.training.interrupts import Interrupted
take_step = loop.Trainer._take_step
def stepped(self, batch):
    take_step(self, batch)
    if self.step == signal_at:
        # As `timeout` and batch systems do: torch's workers tell another sender from their parent.
        to = f"-{os.getpgrp()}" if group else str(os.getpid())
        subprocess.run(["kill", f"-{int(signum)}", "--", to], start_new_session=True, check=True)
loop.Trainer._take_step = stepped
if own_masks:  # drawn at random, by each process for itself
    rank = int(os.environ["RANK"])
    loop.Trainer._step_seed = lambda self, _: rank
limit = None
if minutes:  # a clock that ticks when it is looked at, slower for each further process
    from sdclr.time_budget import Budget
    ticks = iter(range(10**6))
    limit = Budget(minutes, clock=lambda: next(ticks) / 2 / (1 + int(os.environ.get("RANK", 0))))
try:
    loop.pretrain(source, config, run=run, runtime=runtime, minutes=limit)
except Interrupted as error:
    sys.exit(error.exit_code)
except InputError as error:
    run.with_name(f"said-{rank}").write_text(str(error))
    sys.exit(2)
"""

Launch = Callable[..., Child]


@pytest.fixture
def launch(runtime: Runtime, tmp_path: Path) -> Iterator[Launch]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sdclr.training.pretrain"])
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    started: list[Child] = []

    def start(source: Any, config: PretrainConfig, run: Path, **how: Any) -> Child:
        values = {
            "source": source,
            "config": config,
            "run": run,
            "env": how.pop("env", {}),
            "group": how.pop("group", False),
            "signal_at": how.pop("signal_at", None),
            "signum": how.pop("signum", None),
            "minutes": how.pop("minutes", None),
            "own_masks": how.pop("own_masks", False),
            "runtime": dataclasses.replace(runtime, **how),
        }
        child = context.Process(target=runpy.run_path, args=(str(script), values))
        child.start()
        started.append(child)
        return child

    yield start
    for child in started:
        child.kill()
        child.join()


def ended(child: Child) -> int | None:
    child.join(120)
    return child.exitcode


def losses(run: Path) -> list[tuple[int, float]]:
    return [(row["step"], row["loss"]) for row in Run(run).metrics()]


def assert_same_result(first: Path, second: Path) -> None:
    assert losses(first) == losses(second)
    one, two = (Run(path).objective().state_dict() for path in (first, second))
    assert one.keys() == two.keys()
    assert [key for key in one if not torch.equal(one[key], two[key])] == []
    assert (first / "encoder.safetensors").read_bytes() == (second / "encoder.safetensors").read_bytes()


def kill_at_a_random_moment(child: Child, run: Path, moments: random.Random) -> None:
    """Let it come some steps further, then kill it, perhaps while it writes."""
    before = newest_step(run)
    further = moments.randint(1, 4)
    while child.is_alive() and newest_step(run) < before + further:
        time.sleep(0.005)
    time.sleep(moments.uniform(0, 0.1))
    child.kill()
    child.join()


def newest_step(run: Path) -> int:
    return max((int(path.stem.removeprefix("step-")) for path in (run / "checkpoints").glob("*.pt")), default=0)


def enough(few_digits: SubsetSource, changes: dict[str, Any]) -> SubsetSource:
    """An adaptive ratio needs more images, to hold some out."""
    adaptive = changes.get("damage", DamageConfig()).ratio == "adaptive"
    return SubsetSource(digits(), np.arange(80), name="more") if adaptive else few_digits


SLOW = partial(pytest.param, marks=pytest.mark.slow)
FIXED = {"norm_statistics": "fixed", "optim": OptimConfig(lr=0.02, warmup_epochs=1)}
MOCO = {"framework": "moco", "moco": MoCoConfig(queue=40, momentum=0.9)}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        SLOW({"accumulate": 2, "damage": DamageConfig(ratio=0.3, refresh_steps=3)}),
        SLOW({"damage": DamageConfig(kind="dropout", ratio=0.3), "rebalance": ("focal",)}),
        SLOW({"damage": DamageConfig(kind="random", ratio=0.3), **MOCO}),
        SLOW({"damage": DamageConfig(ratio="adaptive", gain=5.0)}),
        SLOW({**FIXED, "damage": DamageConfig(ratio=0.3, refresh_steps=2)}),
    ],
    ids=["plain", "parts", "dropout", "moco", "adaptive", "fixed"],
)
def test_a_run_killed_again_and_again_ends_as_if_it_had_not_been(
    launch: Launch, tiny: PretrainConfig, few_digits: SubsetSource, tmp_path: Path, changes: dict[str, Any]
) -> None:
    config, source = dataclasses.replace(tiny, epochs=6, **changes), enough(few_digits, changes)
    whole = launch(source, config, tmp_path / "whole")
    moments, kills = random.Random(str(changes)), 0  # moments, not secrets
    while not Run(tmp_path / "killed").finished:
        child = launch(source, config, tmp_path / "killed", checkpoint_minutes=0)
        if kills < 5:
            kill_at_a_random_moment(child, tmp_path / "killed", moments)
            kills += 1
        else:
            assert ended(child) == 0
    assert ended(whole) == 0
    assert kills >= 3
    assert_same_result(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_run_and_its_decoding_processes_ends_it_in_order(
    launch: Launch, tiny: PretrainConfig, large_images: ArraySource, tmp_path: Path, signum: int
) -> None:
    config, run = dataclasses.replace(tiny, epochs=3), tmp_path / "run"
    child = launch(large_images, config, run, workers=2, group=True, signal_at=3, signum=signum)
    assert ended(child) == {signal.SIGINT: 130, signal.SIGTERM: 143}[signum]
    assert newest_step(run) == 3
    assert ended(launch(large_images, config, run)) == 0


def test_a_run_is_trained_by_one_job_at_a_time(
    tiny: PretrainConfig, few_digits: SubsetSource, runtime: Runtime, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with (
        claimed(run, ".training"),
        pytest.raises(InputError, match=rf"another process \(PID {os.getpid()}\) trains .*run: wait for it"),
    ):
        pretrain(few_digits, tiny, run=run, runtime=runtime)
    assert pretrain(few_digits, tiny, run=run, runtime=runtime).finished


def torchrun_env(rank: int, world: int, port: int) -> dict[str, str]:
    values = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_PORT": port}
    return {"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in values.items()}}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="session")
def without_batch_norm() -> PretrainConfig:
    """A run whose result may not depend on how a batch is shared."""
    return PretrainConfig(
        encoder=EncoderConfig(name="convnext_atto", stem="default", std=(1.0, 1.0, 1.0)),
        head=HeadConfig(dim=8, norm="none"),
        damage=DamageConfig(ratio=0.3),
        optim=OptimConfig(lr=0.05, warmup_epochs=1),
        epochs=3,
        batch_size=16,
    )


# So few steps without batch normalization leave all outputs nearly alike, damaged or not.
@pytest.mark.filterwarnings("ignore:the network has collapsed")
@pytest.mark.parametrize(
    "changes",
    [
        {},
        SLOW({"damage": DamageConfig(kind="random", ratio=0.3), **MOCO}),
        SLOW({"damage": DamageConfig(ratio="adaptive", gain=5.0)}),
    ],
    ids=["simclr", "moco", "adaptive"],
)
def test_two_processes_train_as_one_does(  # noqa: PLR0917  # fixtures
    launch: Launch,
    without_batch_norm: PretrainConfig,
    few_digits: SubsetSource,
    runtime: Runtime,
    tmp_path: Path,
    changes: dict[str, Any],
) -> None:
    config, run = dataclasses.replace(without_batch_norm, **changes), tmp_path / "two"
    few_digits = enough(few_digits, changes)
    port = free_port()
    # Only the second process is asked to stop: both do, after the same step.
    pair = [
        launch(
            few_digits,
            config,
            run,
            env=torchrun_env(rank, 2, port),
            signal_at=5 if rank else None,
            signum=signal.SIGTERM,
        )
        for rank in range(2)
    ]
    one = pretrain(few_digits, config, run=tmp_path / "one", runtime=runtime)
    assert [ended(child) for child in pair] == [143, 143]
    assert newest_step(run) == 5
    port = free_port()
    pair = [launch(few_digits, config, run, env=torchrun_env(rank, 2, port)) for rank in range(2)]
    assert [ended(child) for child in pair] == [0, 0]
    assert dict(losses(run)) == pytest.approx(dict(losses(one.path)), abs=1e-5)
    assert [step for step, _ in losses(run)] == [step for step, _ in losses(one.path)]  # one process logs
    weights, expected = Run(run).encoder().state_dict(), one.encoder().state_dict()
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-5)
    changed = torch.cat([(expected[name] - tensor).flatten() for name, tensor in initial(config).items()])
    assert changed.abs().max() > 1e-2  # else the comparison would say nothing


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the network has collapsed")
def test_a_run_goes_on_with_another_number_of_processes(
    launch: Launch, without_batch_norm: PretrainConfig, few_digits: SubsetSource, runtime: Runtime, tmp_path: Path
) -> None:
    config, run = dataclasses.replace(without_batch_norm, batch_size=18), tmp_path / "many"
    one = pretrain(few_digits, config, run=tmp_path / "one", runtime=runtime)
    # Each job is stopped within an epoch of two steps.
    for world, stop in ((3, 3), (2, 5), (1, None)):
        port, how = free_port(), {"signal_at": stop, "signum": signal.SIGTERM}
        jobs = [
            launch(few_digits, config, run, env=torchrun_env(rank, world, port) if world > 1 else {}, **how)
            for rank in range(world)
        ]
        assert [ended(child) for child in jobs] == [143 if stop else 0] * world
    assert dict(losses(run)) == pytest.approx(dict(losses(one.path)), abs=1e-5)
    expected = one.encoder().state_dict()
    for name, tensor in Run(run).encoder().state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-5)


def test_processes_with_different_masks_stop(
    launch: Launch, without_batch_norm: PretrainConfig, few_digits: SubsetSource, tmp_path: Path
) -> None:
    config, port = dataclasses.replace(without_batch_norm, damage=DamageConfig(kind="random", ratio=0.3)), free_port()
    pair = [
        launch(few_digits, config, tmp_path / "run", env=torchrun_env(rank, 2, port), own_masks=True)
        for rank in range(2)
    ]
    assert [ended(child) for child in pair] == [2, 2]
    for rank in range(2):
        said = (tmp_path / f"said-{rank}").read_text()
        assert said.startswith("the masks at ratio 0.3 differ between process 0 and process 1 of 2: ")


@pytest.mark.filterwarnings("ignore:the network has collapsed")
def test_two_processes_train_as_long_as_the_first_one_decides(
    launch: Launch, without_batch_norm: PretrainConfig, few_digits: SubsetSource, runtime: Runtime, tmp_path: Path
) -> None:
    port = free_port()
    how = {"minutes": 0.25}
    pair = [
        launch(few_digits, without_batch_norm, tmp_path / "two", env=torchrun_env(rank, 2, port), **how)
        for rank in range(2)
    ]
    assert [ended(child) for child in pair] == [0, 0]
    chosen = Run(tmp_path / "two").config
    assert (chosen.epochs, chosen.steps) != (without_batch_norm.epochs, None)
    one = pretrain(few_digits, chosen, run=tmp_path / "one", runtime=runtime)
    assert dict(losses(tmp_path / "two")) == pytest.approx(dict(losses(one.path)), abs=1e-5)


@pytest.mark.filterwarnings("ignore:the network has collapsed")  # a new head, and digits that are much alike
def test_two_processes_with_fixed_statistics_train_as_one_does(  # noqa: PLR0917  # fixtures
    launch: Launch, tiny: PretrainConfig, finished: Run, few_digits: SubsetSource, runtime: Runtime, tmp_path: Path
) -> None:
    """Dense statistics stay, and both processes measure the twin's on the same images: no batch has any of its own."""
    config = dataclasses.replace(
        tiny, start=str(finished.path), head=HeadConfig(dim=8, norm="none"), optim=OptimConfig(lr=0.2, warmup_epochs=1)
    )
    port = free_port()
    pair = [launch(few_digits, config, tmp_path / "two", env=torchrun_env(rank, 2, port)) for rank in range(2)]
    one = pretrain(few_digits, config, run=tmp_path / "one", runtime=runtime)
    assert [ended(child) for child in pair] == [0, 0]
    assert dict(losses(tmp_path / "two")) == pytest.approx(dict(losses(one.path)), abs=1e-4)
    found, expected = (Run(tmp_path / name).objective().state_dict() for name in ("two", "one"))
    before = finished.objective().state_dict()
    for name, value in expected.items():
        # Means of up to 30 in float32: rounding errors grow with the largest value, not with each.
        largest = max(1, float(value.abs().max())) if value.is_floating_point() else 1
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4 * largest)
        if name.endswith("running_var"):
            assert torch.equal(value, before[name]) == ("_norm" not in name)
    weights = Run(tmp_path / "one").encoder().state_dict()
    changed = torch.cat(
        [(weights[name] - tensor).flatten() for name, tensor in finished.encoder().state_dict().items()]
    )
    assert changed.abs().max() > 5e-3  # else the comparison would say nothing


def initial(config: PretrainConfig) -> dict[str, torch.Tensor]:
    torch.manual_seed(config.seed)
    return create_objective(config).network.encoder.state_dict()  # type: ignore[union-attr]  # a Network's
