"""What a run computes with: told, kept, or the fastest."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ranks import results_of_two
from sdclr import fastest
from sdclr.encoders import EncoderConfig
from sdclr.errors import InputError
from sdclr.training import machine
from sdclr.training.config import PretrainConfig
from sdclr.training.distributed import Processes
from sdclr.training.machine import Choice, Settled, possible_dtypes, settle
from sdclr.training.run import Run, create_objective
from sdclr.training.runtime import Runtime
from sdclr.views.parameters import ViewConfig

CPU = torch.device("cpu")
ALONE = Processes(0, 1, CPU)


@pytest.fixture(autouse=True)
def _nothing_remembered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fastest, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(fastest, "_remembered", {})


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine of two cores on which nobody chose a number of threads."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def noted(folder: Path, *sessions: dict[str, Any]) -> Run:
    (folder / "sessions.jsonl").write_text("".join(json.dumps(session) + "\n" for session in sessions))
    return Run(folder)


def test_a_run_of_an_earlier_version_is_read_and_continued(tmp_path: Path) -> None:
    run = noted(tmp_path, {"precision": "float32", "threads": 2})
    run.sessions_file.rename(tmp_path / "sittings.jsonl")
    assert run.sessions() == [{"precision": "float32", "threads": 2}]
    assert run.sessions_file.name == "sittings.jsonl"


def test_what_is_told_comes_first(tiny: PretrainConfig, tmp_path: Path) -> None:
    run = noted(tmp_path, {"precision": "float32", "threads": 1})
    settled = settle(create_objective(tiny), tiny, Runtime(amp="bf16", threads=3), ALONE, run)
    assert settled == Settled(torch.bfloat16, 3)
    assert settled.precision == "bfloat16"


@pytest.mark.usefixtures("two_threads")
def test_a_run_goes_on_as_it_began_on_the_same_kind_of_device(tiny: PretrainConfig, tmp_path: Path) -> None:
    run = noted(
        tmp_path,
        {"precision": "float32", "threads": 2, "device_type": "cpu"},
        {"precision": "bfloat16", "threads": 1, "device_type": "cpu"},
        {"precision": "float16", "threads": 8, "device_type": "cuda"},
    )
    with run.sessions_file.open("a") as file:
        file.write('{"precision": "flo')  # a crash
    assert settle(create_objective(tiny), tiny, Runtime(), ALONE, run) == Settled(torch.bfloat16, 1)


def settled_of_rank(rank: int, folder: Path) -> tuple[str, int]:
    """Every choice open, and nothing measured before."""
    config = PretrainConfig(
        encoder=EncoderConfig(width=4),
        views=ViewConfig(image_size=16),
        batch_size=8,
        rebalance=("temperature", "koleo"),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fastest, "cache_folder", lambda: folder / "cache")
        patch.setattr(machine, "worth_measuring", lambda _: True)
        patch.setattr(machine, "_threads", lambda *_: (2, 1))
        settled = settle(create_objective(config), config, Runtime(), Processes(rank, 2, CPU), Run(folder))
    return settled.precision, settled.threads


@pytest.mark.slow
def test_the_first_of_two_processes_measures_alone(tmp_path: Path) -> None:
    """A measured step that gathers the rows of all processes would wait for the others forever."""
    one, other = results_of_two(settled_of_rank, tmp_path)
    assert one == other


@pytest.mark.usefixtures("two_threads")
def test_the_threads_of_the_environment_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine._threads(None, None, CPU) == (2, 1)
    assert machine._threads(None, 1, CPU) == (1,)
    assert machine._threads(None, 64, CPU) == (2, 1)  # more than there are here
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert machine._threads(None, 1, CPU) == (2,)
    assert machine._threads(1, None, CPU) == (1,)
    monkeypatch.delenv("OMP_NUM_THREADS")
    torch.set_num_threads(3)  # as a caller may
    assert machine._threads(None, 1, CPU) == (3,)


@pytest.mark.parametrize(
    ("amp", "before", "can", "expected"),
    [
        ("none", "bfloat16", True, (None,)),
        ("auto", "bfloat16", False, (torch.bfloat16,)),
        ("auto", None, True, (None, torch.bfloat16)),
        ("auto", None, False, (None,)),
    ],
)
def test_types_to_choose_among(
    monkeypatch: pytest.MonkeyPatch, amp: Any, before: str | None, *, can: bool, expected: Any
) -> None:
    monkeypatch.setattr(machine, "worth_measuring", lambda _: can)
    monkeypatch.setattr(machine, "autocast_dtype", lambda amp, _: {"auto": None, "none": None}[amp])
    assert possible_dtypes(amp, before, CPU, image_size=16) == expected


def test_tiny_images_are_trained_in_float32_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "worth_measuring", lambda _: True)
    assert possible_dtypes("auto", None, CPU, image_size=15) == (None,)
    assert possible_dtypes("auto", "bfloat16", CPU, image_size=15) == (torch.bfloat16,)
    assert possible_dtypes("bf16", None, CPU, image_size=15) == (torch.bfloat16,)


@pytest.mark.usefixtures("two_threads")
def test_measuring_changes_nothing_and_happens_once(
    tiny: PretrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "worth_measuring", lambda _: True)
    monkeypatch.setattr(fastest, "_PATIENCE", 0.0)  # a round is enough
    objective = create_objective(tiny)
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    state = torch.get_rng_state()
    run = Run(tmp_path)
    settled = settle(objective, tiny, Runtime(), ALONE, run)
    assert settled.dtype in {None, torch.bfloat16}
    assert settled.threads in {1, 2}
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in objective.state_dict().items())
    assert all(parameter.grad is None for parameter in objective.parameters())
    assert torch.get_num_threads() == 2

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(fastest, "seconds_of", never)
    monkeypatch.setattr(machine, "seconds_of", never)
    assert settle(objective, tiny, Runtime(), ALONE, run) == settled


def test_the_faster_type_and_the_fewer_threads_win(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(fastest.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(fastest.time, "process_time", lambda: now[0])

    def step(speed: Callable[[], float]) -> Callable[[Tensor], None]:
        def take(_: Tensor) -> None:
            now[0] += speed()

        return take

    halves = Choice(dtypes=(None, torch.bfloat16), threads=(2, 1))
    shape = {"shape": (3, 4, 4), "batch": 4}
    fast = step(lambda: 0.01 / (1 + torch.is_autocast_enabled("cpu")) * torch.get_num_threads())
    assert halves.fastest(fast, about={"network": "waits"}, **shape) == Settled(torch.bfloat16, 1)  # type: ignore[arg-type]
    slow = step(lambda: 0.01 * (1 + torch.is_autocast_enabled("cpu")) / torch.get_num_threads())
    assert halves.fastest(slow, about={"network": "works"}, **shape) == Settled(None, 2)  # type: ignore[arg-type]


@pytest.mark.parametrize("framework", ["moco", "byol", "vicreg"])
def test_any_framework_can_be_timed(framework: Any, tiny: PretrainConfig) -> None:
    config = replace(tiny, framework=framework, moco=replace(tiny.moco, queue=32))
    choice = Choice(dtypes=(None, torch.bfloat16), threads=(1,))
    step = machine._step_of(create_objective(config), Runtime())
    assert choice.fastest(step, shape=(3, 8, 8), batch=16, about={"network": framework}).threads == 1


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    with Settled(None, 3).threads_in_force():
        assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == before


def test_no_threads_are_refused() -> None:
    with pytest.raises(InputError, match="--threads"):
        Runtime(threads=0)
