"""Time budgets: measure the speed of a run, then choose a length whose whole schedule ends in time.

The measured steps are discarded. The run then starts from its initial state with the chosen length in its
configuration, so it equals a run that was given this length, interrupted or not.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from sdclr.errors import InputError
from sdclr.files import read_json, write_json
from sdclr.progress import duration, stage, tell
from sdclr.time_budget import Budget
from sdclr.training.config import PretrainConfig
from sdclr.training.run import Run

if TYPE_CHECKING:
    from sdclr.training.pretrain import Trainer

MOST_EPOCHS: Final = 2000
"""Epochs that a budget buys at most: the paper's longest runs."""
WHOLE_EPOCHS: Final = 10
"""From so many epochs on a run ends with a whole one. A shorter one ends at the step that the budget allows."""

_TIMED_STEPS: Final = (5, 200)
"""Steps that are timed, at least and at most."""
_TIMED_SECONDS: Final = (2.0, 10.0)
"""Seconds that are timed, at least and at most; between them 3% of the budget."""
_TIMED_SHARE: Final = 0.1
"""Share of the budget after which even the fewest steps are not waited for."""


class Speed(NamedTuple):
    """What training costs, in seconds."""

    step: float
    """One step."""
    epoch: float
    """What an epoch costs beyond its steps: looks at the features, new masks, workers that start."""
    start: float
    """What the first step costs beyond the others."""


class Length(NamedTuple):
    """How long a run is."""

    epochs: int
    steps: int | None
    """None if it ends with a whole epoch."""


def affordable(left: float, speed: Speed, steps_per_epoch: int) -> Length:
    """The longest run that some seconds pay for: one step at least, 2,000 epochs at most.

    Args:
        left: Seconds.
        speed: What training costs.
        steps_per_epoch: Steps of a whole epoch.

    Example:
        >>> affordable(100.0, Speed(step=1.0, epoch=0.0, start=0.0), steps_per_epoch=4)
        Length(epochs=25, steps=None)
        >>> affordable(10.0, Speed(step=1.0, epoch=0.0, start=0.0), steps_per_epoch=4)
        Length(epochs=3, steps=10)
    """
    left -= speed.start
    one = steps_per_epoch * speed.step + speed.epoch
    whole = max(0, int(left / one))
    if whole >= WHOLE_EPOCHS:
        return Length(min(whole, MOST_EPOCHS), None)
    more = int((left - whole * one - speed.epoch) / speed.step)
    steps = max(1, whole * steps_per_epoch + max(0, min(more, steps_per_epoch - 1)))
    epochs = math.ceil(steps / steps_per_epoch)
    return Length(epochs, None if steps == epochs * steps_per_epoch else steps)


def measured(
    epoch: Callable[[int], Iterator[float]], budget: Budget, *, agree: Callable[[int], int] = lambda flag: flag
) -> Speed:
    """Measure what steps cost, over two epochs at least, or as far as a tenth of the budget reaches.

    Args:
        epoch: Begins an epoch and takes its steps. After each it yields the seconds by which it was shorter than a step
            of the run, which count as if they had gone by. What it changes is thrown away.
        budget: Bounds the time that this takes, and has the clock.
        agree: Gives several processes the largest of their flags, so that they stop together.
    """
    openings: list[float] = []  # seconds of the first step of each epoch, with what begins the epoch
    steps: list[float] = []  # of each other step
    begun = last = budget.clock()
    for number in itertools.count():
        first = True
        for saved in epoch(number):
            now = budget.clock()
            (openings if first else steps).append(now - last + saved)
            first, last = False, now
            verdict = agree(_verdict(len(openings), len(steps), now - begun, budget.seconds))
            if verdict == _STOP:
                return _speed(openings, steps)
            if verdict == _NEXT:
                break
    raise AssertionError  # for mypy: the loop above has no end of its own


_GO_ON, _NEXT, _STOP = range(3)


def _verdict(openings: int, steps: int, gone: float, seconds: float) -> int:
    """Whether to take another step, to begin another epoch, or to stop."""
    fewest, most = _TIMED_STEPS
    if gone >= _TIMED_SHARE * seconds and (steps or openings > 1):  # an opening alone does not tell what a step costs
        return _STOP
    patience = min(max(0.03 * seconds, _TIMED_SECONDS[0]), _TIMED_SECONDS[1])
    if openings + steps < most and (openings + steps < fewest or gone < patience):
        return _GO_ON
    return _STOP if openings > 1 else _NEXT


def _speed(openings: Sequence[float], steps: Sequence[float]) -> Speed:
    """Costs of step, epoch and start. The first step that opens no epoch is left out: it still warms up."""
    typical = steps[1:] or steps or openings[1:] or openings
    step = max(sum(typical) / len(typical), 1e-9)
    # Where there was time for one opening only, every epoch is taken to cost as much: rather too short than too long.
    epoch = max(0.0, min(openings[1:] or openings) - step)
    return Speed(step, epoch, max(0.0, openings[0] - step - epoch))


def choose_length(trainer: "Trainer", config: PretrainConfig, budget: Budget) -> PretrainConfig:
    """Measure a run's speed and choose its length. All processes call this together; the first one decides.

    Args:
        trainer: Of a run that has not begun; of no use afterwards, but for its feed.
        config: The run's settings.
        budget: What the whole run may take.

    Returns:
        The settings with this length.
    """
    loader, place, run = trainer.feed.loader, trainer.place, trainer.run
    weights = loader.weights
    with stage("measuring the speed", counted=False):
        speed = measured(trainer.rehearse, budget, agree=place.any)
    loader.weights = weights
    length = place.broadcast(affordable(budget.left, speed, trainer.steps_per_epoch))
    chosen = replace(config, epochs=length.epochs, steps=length.steps)
    if place.first:
        note_choice(run.budget_file, budget, length, speed)
        tell(_sentence(budget, length, speed, trainer.steps_per_epoch, config.batch_size))
    return chosen


def note_choice(file: Path, budget: Budget, length: Length, speed: Speed) -> None:
    """Write what was measured and chosen."""
    write_json(file, {"minutes": budget.minutes, **length._asdict(), "seconds": speed._asdict()})


def _sentence(budget: Budget, length: Length, speed: Speed, steps_per_epoch: int, batch: int) -> str:
    """What was decided, in one line."""
    steps = length.steps or length.epochs * steps_per_epoch
    rate = f"{batch / speed.step:,.0f} images/s"
    seconds = speed.start + steps * speed.step + length.epochs * speed.epoch
    takes = f"about {duration(seconds)} at {rate}"
    if steps < steps_per_epoch:
        share = f"{steps / steps_per_epoch:.0%} of one epoch"
        return f"{budget.minutes:g} min are too few to see every image once: {share}, {takes}"
    epochs = f"{length.epochs} epochs" if length.steps is None else f"{steps / steps_per_epoch:.1f} epochs"
    return f"{budget.minutes:g} min: {epochs}, {takes}"


def as_begun(run: Run, config: PretrainConfig, budget: Budget | None) -> PretrainConfig:
    """The settings of a run that was begun, where the caller leaves them to the run.

    Args:
        run: Whose `config.json` is there.
        config: What the caller asks for.
        budget: The caller's; the run must have been begun with as many minutes.

    Raises:
        InputError: If the run was begun with another budget, or with a number of epochs.
    """
    old = run.config
    if config.optim.warmup_epochs is None and old.optim.warmup_epochs is not None:
        # Before the warm-up followed the length of the run, it was a number: 10 epochs, or 1 from trained weights.
        config = replace(config, optim=replace(config.optim, warmup_epochs=old.optim.warmup_epochs))
    if budget is None:
        return config
    check_minutes(run.budget_file, budget, begun=f"{old.epochs} epochs", option="--run")
    return replace(config, epochs=old.epochs, steps=old.steps)


def check_minutes(file: Path, budget: Budget, *, begun: str, option: str) -> None:
    """Check that what lies in a folder was begun with as many minutes.

    Args:
        file: The folder's `budget.json`, which is absent if there was no budget.
        budget: The caller's.
        begun: What it was begun with otherwise, such as "200 epochs".
        option: What names another folder.

    Raises:
        InputError: If it was begun with another budget, or none.
    """
    minutes = read_json(file, keys={"minutes": (int, float)})["minutes"] if file.is_file() else None
    if minutes == budget.minutes:
        return
    begun = begun if minutes is None else f"a budget of {minutes:g} min"
    raise InputError(
        f"{file.parent} was begun with {begun}, not with {budget.minutes:g} min: give it the same, or name another "
        f"folder with {option}"
    )
