"""Runs in so many minutes, by a clock that ticks when it is looked at."""

import itertools
import json
import math
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sdclr
from sdclr.data.sources import SubsetSource, digits
from sdclr.errors import InputError
from sdclr.progress import Listener, Stage, reporting_to
from sdclr.reporting.comparison import _epochs
from sdclr.time_budget import Budget
from sdclr.training import guidance
from sdclr.training import pretrain as pretrain_module
from sdclr.training.budget import MOST_EPOCHS, Length, Speed, affordable, measured
from sdclr.training.config import PretrainConfig
from sdclr.training.interrupts import Interrupted
from sdclr.training.norm import recalibrate
from sdclr.training.optim_config import OptimConfig
from sdclr.training.pretrain import Trainer, pretrain
from sdclr.training.run import Run
from sdclr.training.runtime import Runtime

Trained = Callable[..., Run]


class Lines(Listener):
    """Keeps what is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def begin(self, stage: Stage) -> None: ...

    def update(self, stage: Stage) -> None: ...

    def end(self, stage: Stage) -> None: ...

    def tell(self, text: str) -> None:
        self.lines.append(text)


def ticking(minutes: float, seconds: float = 0.5) -> Budget:
    """A budget whose clock moves by so many seconds at each look."""
    ticks = itertools.count()
    return Budget(minutes, clock=lambda: seconds * next(ticks))


@pytest.fixture
def trained(few_digits: SubsetSource, tiny: PretrainConfig, runtime: Runtime, tmp_path: Path) -> Trained:
    def train(folder: str, config: PretrainConfig = tiny, source: Any = few_digits, **how: Any) -> Run:
        return pretrain(source, config, run=tmp_path / folder, runtime=replace(runtime, progress=True), **how)

    return train


def same(first: Run, second: Run) -> bool:
    logged = [[(row["step"], row["loss"], row["lr"]) for row in run.metrics()] for run in (first, second)]
    encoders = [(run.path / "encoder.safetensors").read_bytes() for run in (first, second)]
    return logged[0] == logged[1] and encoders[0] == encoders[1]


costs = st.floats(0.001, 10)


@given(st.floats(-5, 2000), costs, st.floats(0, 20), st.floats(0, 20), st.integers(1, 40))
def test_a_length_is_the_longest_that_can_be_paid_for(
    left: float, step: float, epoch: float, start: float, per_epoch: int
) -> None:
    length = affordable(left, Speed(step, epoch, start), per_epoch)
    steps = length.steps or length.epochs * per_epoch

    def cost(steps: int) -> float:
        return start + steps * step + math.ceil(steps / per_epoch) * epoch

    assert (length.epochs - 1) * per_epoch < steps <= length.epochs * per_epoch
    assert length.epochs <= MOST_EPOCHS
    assert steps == 1 or cost(steps) <= left * (1 + 1e-9) + 1e-9
    longer = steps + (per_epoch if length.epochs >= 10 else 1)
    assert length.epochs == MOST_EPOCHS or cost(longer) >= left * (1 - 1e-9) - 1e-9


def test_costs_of_start_epoch_and_step_are_told_apart() -> None:
    now = 100.0

    def epoch(number: int) -> Iterator[float]:
        nonlocal now
        now += 2.0 + 5.0 * (number == 0)  # looks at the features; the first step compiles
        for _ in range(30):
            now += 0.25
            yield 0.0

    speed = measured(epoch, Budget(30, clock=lambda: now))
    assert speed == pytest.approx(Speed(step=0.25, epoch=2.0, start=5.0))
    assert 10 < now - 100 < 30  # the clock stops after ten seconds and one more opening


def test_what_a_rehearsal_leaves_out_counts_as_if_it_had_been_done() -> None:
    now = 0.0

    def epoch(number: int) -> Iterator[float]:
        nonlocal now
        del number
        now += 3.0 + 1.0  # an eighth of the looks at the images, and the first step
        yield 21.0
        for _ in range(20):
            now += 1.0
            yield 0.0

    assert measured(epoch, Budget(5, clock=lambda: now)) == Speed(step=1.0, epoch=24.0, start=0.0)
    assert now < 0.1 * 5 * 60


def test_measuring_takes_a_tenth_of_a_small_budget() -> None:
    now = 0.0

    def epoch(number: int) -> Iterator[float]:
        nonlocal now
        del number
        for _ in range(1000):
            now += 3.0
            yield 0.0

    assert measured(epoch, Budget(1, clock=lambda: now)).step == 3.0
    assert now == 6.0


def test_an_epoch_that_opens_slowly_is_not_taken_for_its_steps() -> None:
    now = 0.0

    def epoch(number: int) -> Iterator[float]:
        nonlocal now
        del number
        now += 45.0  # statistics of the pruned twin, on photographs
        for _ in range(20):
            now += 10.0
            yield 0.0

    assert measured(epoch, Budget(5, clock=lambda: now)) == Speed(step=10.0, epoch=45.0, start=0.0)


def test_epochs_of_one_step_are_measured() -> None:
    ticks = itertools.count()

    def epoch(number: int) -> Iterator[float]:
        del number
        yield 0.0

    assert measured(epoch, Budget(9, clock=lambda: next(ticks))).step == 1.0


def test_a_run_on_a_budget_is_the_run_of_that_length(trained: Trained, tiny: PretrainConfig) -> None:
    with reporting_to(told := Lines()):
        run = trained("budget", minutes=ticking(0.27))
    length = Length(run.config.epochs, run.config.steps)
    assert length == Length(5, 13)
    assert [row["step"] for row in run.metrics()][-1] == 13
    again = trained("again", replace(tiny, epochs=5, steps=13))
    assert same(run, again)
    assert again.config == run.config
    kept = json.loads(run.budget_file.read_text())
    assert (kept["minutes"], kept["epochs"], kept["steps"]) == (0.27, 5, 13)
    assert told.lines[-1] == "0.27 min: 4.3 epochs, about 6 s at 32 images/s"
    assert run.config.length == "13 steps"
    assert _epochs(run) == "4.3"


def test_it_is_resumed_with_the_length_that_was_chosen(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trained("whole", minutes=ticking(0.27))
    rehearsed = measured_steps(monkeypatch, interrupt_at=7)
    with pytest.raises(Interrupted, match="after step 7 of 13"):
        trained("cut", minutes=ticking(0.27))
    before = len(rehearsed)
    resumed = trained("cut", minutes=ticking(0.27, seconds=3.0))  # slower now: that changes nothing
    assert len(rehearsed) == before > 0
    assert same(whole, resumed)
    assert trained("cut", minutes=0.27).config == whole.config  # finished


def test_a_rehearsal_corrects_a_twin_by_one_batch_and_counts_all(
    trained: Trained, tiny: PretrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guidance, "SAMPLED_AT_ONCE", 16)  # of 50 images
    rehearse, corrected = Trainer.rehearse, recalibrate
    saved, used = list[float](), list[int]()

    def rehearsing(self: Trainer, epoch: int) -> Iterator[float]:
        for seconds in rehearse(self, epoch):
            saved.append(seconds)
            yield seconds

    def counted(competitor: Any, batches: Iterator[Any]) -> Any:
        taken = list(batches)
        used.append(len(taken))
        return corrected(competitor, taken)

    monkeypatch.setattr(Trainer, "rehearse", rehearsing)
    monkeypatch.setattr(pretrain_module, "recalibrate", counted)
    run = trained("budget", replace(tiny, norm_statistics="fixed"), minutes=ticking(0.27))
    openings = [seconds for seconds in saved if seconds]
    assert saved[0] == openings[0] > 0
    assert len(openings) < len(saved)
    assert used == [1] * len(openings) + [3] * run.config.epochs


def measured_steps(monkeypatch: pytest.MonkeyPatch, interrupt_at: int) -> list[int]:
    """The epochs that are rehearsed from now on. A signal comes after the first real step of this number."""
    rehearse, log = Trainer.rehearse, Trainer._log
    rehearsed, todo = list[int](), [signal.SIGTERM]

    def rehearsing(self: Trainer, epoch: int) -> Iterator[float]:
        rehearsed.append(epoch)
        return rehearse(self, epoch)

    def logging(self: Trainer, *args: Any) -> None:
        log(self, *args)
        if self.step == interrupt_at and todo:
            signal.raise_signal(todo.pop())

    monkeypatch.setattr(Trainer, "rehearse", rehearsing)
    monkeypatch.setattr(Trainer, "_log", logging)
    return rehearsed


def test_rebalancers_and_weights_are_as_if_nothing_was_measured(trained: Trained, tiny: PretrainConfig) -> None:
    damage = replace(tiny.damage, ratio="adaptive", independent_norm="statistics")
    config = replace(tiny, rebalance=("density", "temperature"), damage=damage, batch_size=64, epochs=7)
    how: dict[str, Any] = {"source": SubsetSource(digits(), np.arange(256)), "weights": np.linspace(1, 2, 256)}
    run = trained("budget", config, minutes=ticking(0.27), **how)
    length = {"epochs": run.config.epochs, "steps": run.config.steps}
    assert same(run, trained("again", replace(config, **length), **how))


def test_too_few_minutes_for_an_epoch_are_used_and_said(trained: Trained) -> None:
    with reporting_to(told := Lines()):
        run = trained("short", minutes=ticking(0.1))
    assert (run.config.epochs, run.config.steps) == (1, 1)
    assert "too few to see every image once: 33% of one epoch" in told.lines[-1]
    assert run.finished


def test_another_budget_is_refused(trained: Trained, tiny: PretrainConfig) -> None:
    trained("budget", minutes=ticking(0.27))
    with pytest.raises(InputError, match=r"begun with a budget of 0.27 min, not with 1 min"):
        trained("budget", minutes=1)
    trained("epochs", replace(tiny, epochs=1))
    with pytest.raises(InputError, match="begun with 1 epoch, not with 1 min"):
        trained("epochs", replace(tiny, epochs=1), minutes=1)
    for minutes in (0, -1, math.inf, math.nan):
        with pytest.raises(InputError, match="must be more than 0"):
            trained("none", minutes=float(minutes))


def test_without_a_folder_the_budget_is_in_its_name(
    few_digits: SubsetSource, tiny: PretrainConfig, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = pretrain(few_digits, tiny, runtime=runtime, minutes=ticking(0.27))
    assert run.path.name == f"few-{sdclr.config.digest(tiny)}-0.27min"


@pytest.mark.parametrize("epochs", [1, 2])
def test_any_number_of_epochs_works(trained: Trained, tiny: PretrainConfig, epochs: int) -> None:
    run = trained("short", replace(tiny, epochs=epochs, optim=OptimConfig(lr=0.1)))
    rates = [row["lr"] for row in run.metrics()]
    assert run.finished
    assert max(rates) <= 0.1
    assert rates[-1] < 0.1


def test_a_run_that_began_when_ten_epochs_were_the_default_goes_on_with_them(
    trained: Trained, tiny: PretrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = replace(tiny, epochs=11, optim=OptimConfig(lr=0.1, warmup_epochs=10))
    whole = trained("whole", short)
    measured_steps(monkeypatch, interrupt_at=30)
    with pytest.raises(Interrupted):
        trained("cut", short)
    resumed = trained("cut", replace(short, optim=OptimConfig(lr=0.1)))
    assert same(whole, resumed)


def test_a_run_in_steps_ends_its_schedule_with_them(trained: Trained, tiny: PretrainConfig) -> None:
    run = trained("steps", replace(tiny, epochs=50, steps=4, optim=OptimConfig(lr=0.1, final_lr=0.001)))
    rows = list(run.metrics())
    assert rows[-1]["step"] == 4
    warmup, last = 0.4, 3
    progress = (last - warmup) / (4 - warmup)
    assert rows[-1]["lr"] == pytest.approx(0.001 + 0.099 * (1 + math.cos(math.pi * progress)) / 2)
    with pytest.raises(InputError, match="longer than the run of 2"):
        trained("warm", replace(tiny, steps=4, optim=OptimConfig(lr=0.1, warmup_epochs=3)))
    with pytest.raises(InputError, match="1 or more steps, not 0"):
        replace(tiny, steps=0)
