"""Remaining work for a table or figure, and its cost."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal

from sdclr.config import digest
from sdclr.errors import InputError
from sdclr.paper.experiments import DATA_NAMES
from sdclr.paper.results import FAILED_FILE, speed
from sdclr.paper.runner import Queue, trained_on
from sdclr.paper.tasks import Job, Task
from sdclr.reporting.tables import UNKNOWN, Table
from sdclr.training.config import PretrainConfig
from sdclr.training.run import Run

Status = Literal["finished", "in part", "failed", "to do", "no data"]


@dataclass(frozen=True, kw_only=True)
class State:
    """Progress of a job."""

    job: Job
    status: Status
    reason: str = ""
    """Reason why there is no data."""
    images: int = 0
    """Number of training images."""
    epochs_done: float = 0.0
    seconds: float | None = None
    """Estimated remaining training time of one process; None without a similar finished run."""

    @property
    def left(self) -> float:
        """Remaining images to train on: images times epochs, counting both views once."""
        return self.images * (self.job.config.epochs - self.epochs_done)


def look(queue: Queue, jobs: Sequence[Job]) -> list[State]:
    """Progress of some jobs.

    Args:
        queue: The queue of the jobs.
        jobs: The jobs.

    Returns:
        One state per job. Unusable data raises no error here; its jobs have the status "no data".
    """
    speeds = throughputs(queue.folder)
    return [_state(queue, job, speeds) for job in jobs]


def _state(queue: Queue, job: Job, speeds: dict[str, float]) -> State:
    if _too_large(job):
        return State(job=job, status="no data", reason="the small scale has CIFAR alone: take --scale paper")
    try:
        images = len(trained_on(job, queue.data(job)))
    except InputError as error:
        return State(job=job, status="no data", reason=str(error))
    place = queue.place(job)
    if queue.finished(job):
        return State(job=job, status="finished", images=images, epochs_done=job.config.epochs, seconds=0.0)
    done = _epochs_done(Run(place), images) if isinstance(job, Task) else 0.0
    status: Status = "failed" if (place / FAILED_FILE).exists() else "in part" if _begun(place) else "to do"
    rate = speeds.get(_likeness(job.config)) if isinstance(job, Task) else None
    seconds = None if rate is None else images * (job.config.epochs - done) / rate
    return State(job=job, status=status, images=images, epochs_done=done, seconds=seconds)


def _too_large(job: Job) -> bool:
    return job.scale == "cpu" and job.dataset.startswith("imagenet")


def _begun(place: Path) -> bool:
    return (place / "config.json").is_file()


def _epochs_done(run: Run, images: int) -> float:
    if not run.config_file.is_file():
        return 0.0
    steps = max((line["step"] for line in run.metrics()), default=0)
    return min(float(run.config.epochs), steps / max(1, images // run.config.batch_size))


def throughputs(folder: Path) -> dict[str, float]:
    """Median training speed of similar runs of a folder in images per second, by `_likeness`."""
    found: dict[str, list[float]] = {}
    for file in folder.glob("*/encoder.json"):
        run = Run(file.parent)
        rate = speed(run)
        if rate is not None:
            found.setdefault(_likeness(run.config), []).append(rate)
    return {likeness: median(rates) for likeness, rates in found.items()}


def _likeness(config: PretrainConfig | object) -> str:
    """Key that is equal for runs with equal expected time per image."""
    if not isinstance(config, PretrainConfig):
        return ""
    two_networks = config.damage.kind != "none" or config.framework != "simclr"
    return f"{digest(config.encoder)} {config.views.image_size} {two_networks}"


def plan_table(states: Sequence[State]) -> Table:
    """The runs with their state and cost.

    Args:
        states: The result of `look`.
    """
    rows = tuple(
        (
            state.job.name,
            state.status,
            f"{state.images:,}" if state.images else UNKNOWN,
            str(state.job.config.epochs),
            f"{state.left / 1e6:.2f}" if state.images else UNKNOWN,
            UNKNOWN if state.status == "no data" else duration(state.seconds),
        )
        for state in states
    )
    columns = ("Run", "State", "Images", "Epochs", "Million images left", "Time")
    return Table(title="The runs", columns=columns, rows=rows, note=_note(states))


def _note(states: Sequence[State]) -> str:
    todo = [state for state in states if state.status not in {"finished", "no data"}]
    reasons: dict[str, list[str]] = {}
    for state in states:
        if state.reason and DATA_NAMES[state.job.dataset] not in reasons.setdefault(state.reason, []):
            reasons[state.reason].append(DATA_NAMES[state.job.dataset])
    lacking = [f"No data for {', '.join(names)}: {reason}." for reason, names in reasons.items()]
    return " ".join([_cost(states, todo), *lacking])


def _cost(states: Sequence[State], todo: Sequence[State]) -> str:
    if not todo:
        return "Nothing is left to do."
    left = sum(state.left for state in todo) / 1e6
    known = [state.seconds for state in todo if state.seconds is not None]
    if len(known) == len(todo):
        time = f"about {duration(sum(known))} of one process at the speed of the finished runs here"
    else:
        time = "time unknown until a run like each of them is finished here"
    return f"{len(todo)} of {len(states)} left: {left:.2f} million images to train on, {time}, without evaluations."


def duration(seconds: float | None) -> str:
    """A duration as readable text.

    Examples:
        >>> duration(5400)
        '1.5 h'
    """
    if seconds is None:
        return "unknown"
    if seconds < 60:
        return f"{math.ceil(seconds)} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"
