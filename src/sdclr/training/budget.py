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
from sdclr.visible import counted

if TYPE_CHECKING:
    from sdclr.training.pretrain import Trainer

MOST_EPOCHS: Final = 2000
"""Maximum number of epochs in a budget: the length of the paper's longest runs."""
WHOLE_EPOCHS: Final = 10
"""A run of at least this many epochs ends with a whole epoch. A shorter run ends at the step that the budget allows."""

_TIMED_STEPS: Final = (5, 200)
"""Minimum and maximum number of timed steps."""
_TIMED_SECONDS: Final = (2.0, 10.0)
"""Minimum and maximum duration of the measurement in seconds; between them it takes 3% of the budget."""
_TIMED_SHARE: Final = 0.1
"""Share of the budget after which the measurement stops, even before the minimum number of steps."""


class Speed(NamedTuple):
    """Costs of training, in seconds."""

    step: float
    """Cost of one step."""
    epoch: float
    """Additional cost of an epoch: features for rebalancers, new masks, start of workers."""
    start: float
    """Additional cost of the first step."""


class Length(NamedTuple):
    """Length of a run."""

    epochs: int
    steps: int | None
    """None if it ends with a whole epoch."""


def affordable(left: float, speed: Speed, steps_per_epoch: int) -> Length:
    """The longest run that fits into a time: at least one step, at most 2,000 epochs.

    Args:
        left: The time in seconds.
        speed: Costs of training.
        steps_per_epoch: Steps of a whole epoch.

    Examples:
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
    """Measure the costs over at least two epochs, or until a tenth of the budget is used.

    Args:
        epoch: Begins an epoch and takes its steps. After each step it yields by how many seconds the step was shorter
            than in the run; they are added to the measured time. Its changes are discarded.
        budget: Limits the time of the measurement, and provides the clock.
        agree: Gives all processes the largest of their flags, so that they stop together.
    """
    openings: list[float] = []  # seconds of the first step of each epoch, with the start of the epoch
    steps: list[float] = []  # seconds of each other step
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
    raise AssertionError  # for mypy: the loop above only ends by a return


_GO_ON, _NEXT, _STOP = range(3)


def _verdict(openings: int, steps: int, gone: float, seconds: float) -> int:
    """Whether to take another step, to begin another epoch, or to stop."""
    fewest, most = _TIMED_STEPS
    if gone >= _TIMED_SHARE * seconds and (steps or openings > 1):  # one opening does not give the cost of a step
        return _STOP
    patience = min(max(0.03 * seconds, _TIMED_SECONDS[0]), _TIMED_SECONDS[1])
    if openings + steps < most and (openings + steps < fewest or gone < patience):
        return _GO_ON
    return _STOP if openings > 1 else _NEXT


def _speed(openings: Sequence[float], steps: Sequence[float]) -> Speed:
    """Costs of step, epoch and start. The first step after an opening is left out, because it still warms up."""
    typical = steps[1:] or steps or openings[1:] or openings
    step = max(sum(typical) / len(typical), 1e-9)
    # With a single opening, every epoch is assumed to cost as much: the run may be too short but not too long.
    epoch = max(0.0, min(openings[1:] or openings) - step)
    return Speed(step, epoch, max(0.0, openings[0] - step - epoch))


def choose_length(trainer: "Trainer", config: PretrainConfig, budget: Budget) -> PretrainConfig:
    """Measure a run's speed and choose its length. All processes call this together; the first one decides.

    Args:
        trainer: A trainer of a run that has not begun. Afterwards only its feed can be used.
        config: The run's settings.
        budget: Time budget of the whole run.

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
    """Write the measured speed and the chosen length."""
    write_json(file, {"minutes": budget.minutes, **length._asdict(), "seconds": speed._asdict()})


def _sentence(budget: Budget, length: Length, speed: Speed, steps_per_epoch: int, batch: int) -> str:
    """The choice in one line, for the user."""
    steps = length.steps or length.epochs * steps_per_epoch
    rate = f"{batch / speed.step:,.0f} images/s"
    seconds = speed.start + steps * speed.step + length.epochs * speed.epoch
    takes = f"about {duration(seconds)} at {rate}"
    if steps < steps_per_epoch:
        share = f"{steps / steps_per_epoch:.0%} of one epoch"
        return f"{budget.minutes:g} min are too few to see every image once: {share}, {takes}"
    epochs = counted(length.epochs, "epoch") if length.steps is None else f"{steps / steps_per_epoch:.1f} epochs"
    return f"{budget.minutes:g} min: {epochs}, {takes}"


def as_begun(run: Run, config: PretrainConfig, budget: Budget | None) -> PretrainConfig:
    """The caller's settings, with those of an existing run where the caller leaves them open.

    Args:
        run: A run with a `config.json`.
        config: The caller's settings.
        budget: The caller's time budget, which must equal the run's.

    Raises:
        InputError: If the run was started with another budget, or with a number of epochs.
    """
    old = run.config
    if config.optim.warmup_epochs is None and old.optim.warmup_epochs is not None:
        # Earlier versions stored a number: 10 epochs, or 1 from trained weights.
        config = replace(config, optim=replace(config.optim, warmup_epochs=old.optim.warmup_epochs))
    if budget is None:
        return config
    check_minutes(run.budget_file, budget, begun=counted(old.epochs, "epoch"), option="--run")
    return replace(config, epochs=old.epochs, steps=old.steps)


def check_minutes(file: Path, budget: Budget, *, begun: str, option: str) -> None:
    """Check that a folder's training was started with the same time budget.

    Args:
        file: The folder's `budget.json`, which is absent if there was no budget.
        budget: The caller's time budget.
        begun: Length for the error message if there was no budget, such as "200 epochs".
        option: The option that names another folder.

    Raises:
        InputError: If it was started with another budget, or none.
    """
    minutes = read_json(file, keys={"minutes": (int, float)})["minutes"] if file.is_file() else None
    if minutes == budget.minutes:
        return
    begun = begun if minutes is None else f"a budget of {minutes:g} min"
    raise InputError(
        f"{file.parent} was begun with {begun}, not with {budget.minutes:g} min: give it the same, or name another "
        f"folder with {option}"
    )
