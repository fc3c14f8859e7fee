"""A queue of runs: train and evaluate missing runs, continue after failures, and resume after interruptions."""

import contextlib
import multiprocessing
import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from sdclr.config import to_json
from sdclr.data.parquet import parquet_files
from sdclr.data.sources import Source
from sdclr.downstream.finetune import finetune
from sdclr.errors import DamagedFileError, InputError, StorageError
from sdclr.evaluation.config import LINEAR, EvaluateConfig
from sdclr.evaluation.evaluate import evaluate
from sdclr.files import claimed, open_table, parsing, read_text, remove, write_atomically, write_json
from sdclr.longtail.config import DatasetName
from sdclr.longtail.published import PaperSplit, paper_split
from sdclr.paper.results import FAILED_FILE, describe, evaluation_file
from sdclr.paper.tasks import Branch, Job, Task, Tuning
from sdclr.progress import stage, tell
from sdclr.training.config import Runtime
from sdclr.training.distributed import resolve_device
from sdclr.training.feed import default_workers
from sdclr.training.interrupts import TIME_IS_UP, Interrupted, listening, stopping_after
from sdclr.training.pretrain import pretrain
from sdclr.training.run import Run, read_evaluation

Outcome = Literal["finished", "failed", "busy", "left"]
Opener = Callable[[Job], PaperSplit]
Told = Callable[[str], None]

_EXIT_CODES: Final[dict[int, Outcome]] = {0: "finished", 3: "failed", 4: "busy"}
_REFUSED: Final = 5
"""Exit code of a job that ended because of a full disk or the like."""
_JPEG: Final = b"\xff\xd8"
_PATIENCE: Final = 0.5
"""Seconds between two checks for a stop request."""


@dataclass(frozen=True, kw_only=True)
class FinishedTask:
    """A finished run with its training and evaluation images."""

    task: Task
    run: Run
    split: PaperSplit


@dataclass(frozen=True, kw_only=True)
class Data:
    """Location of the datasets. Calling it with a job opens the images of the job.

    Args:
        root: A folder with one folder per dataset (cifar10, cifar100, imagenet, imagenet100), or one of these.
        lists: A folder of published lists.
    """

    root: Path
    lists: Path | None = None

    def __call__(self, job: Job) -> PaperSplit:
        """Open the images of a job.

        Raises:
            InputError: They do not exist, or are not the expected ones.
        """
        return _opened(job.dataset, job.split, self.place(job.dataset), self.lists if job.lists else None)

    def place(self, dataset: DatasetName) -> Path:
        """The folder of a dataset."""
        own = dataset.removesuffix("_exp").removesuffix("_lt")
        names = [own, "imagenet"] if own == "imagenet100" else [own]
        return next((self.root / name for name in names if (self.root / name).is_dir()), self.root)

    def copy(self, dataset: DatasetName) -> str:
        """Text on the copy of a dataset. JPEG copies have different pixels than the original."""
        if not self.place(dataset).is_dir():
            return "not there"
        tables = parquet_files(self.place(dataset))
        if not tables:
            return "files as published"
        with parsing(tables[0]), open_table(tables[0]) as table:
            first = next(table.iter_batches(batch_size=1)).to_pylist()[0]
        images = [value.get("bytes") if isinstance(value, dict) else value for value in first.values()]
        jpeg = any(isinstance(image, bytes) and image.startswith(_JPEG) for image in images)
        return "a JPEG copy in Parquet, not the original pixels" if jpeg else "a lossless copy in Parquet"


@lru_cache(maxsize=2)  # the images of a split can fill much memory
def _opened(dataset: DatasetName, split: int, place: Path, lists: Path | None) -> PaperSplit:
    return paper_split(dataset, place, split=split, lists=lists)


@dataclass(frozen=True, kw_only=True)
class Queue:
    """Settings for running jobs.

    Args:
        folder: Parent of the jobs' folders, which have the names of the jobs.
        data: Opens the images of a job.
        runtime: Settings of pre-training; other steps use its device and precision.
        jobs: Number of parallel processes.
    """

    folder: Path
    data: Opener
    runtime: Runtime = field(default_factory=Runtime)
    jobs: int = 1

    def place(self, job: Job) -> Path:
        """The folder of a job."""
        return self.folder / job.name

    def finished(self, job: Job) -> bool:
        """Whether a job is finished."""
        place = self.place(job)
        if isinstance(job, Tuning):
            return (place / "result.json").is_file()
        return Run(place).finished and all(self.evaluated(job, branch) is not None for branch in job.branches)

    def evaluated(self, task: Task, branch: Branch) -> dict[str, Any] | None:
        """Results of an evaluation; None if it is missing, or was done with other settings."""
        file = evaluation_file(self.place(task), branch)
        try:
            found = read_evaluation(file) if file.is_file() else {}
        except DamagedFileError as error:
            tell(f"{error}; the run is evaluated again")
            return None
        return found if found.get("config") == to_json(evaluation(task, branch)) else None


def evaluation(task: Task, branch: Branch) -> EvaluateConfig:
    """Evaluation settings of a task's run (§4.2).

    At the paper's scale on CIFAR, images are cropped and flipped randomly in every epoch, as in the paper. Otherwise
    features are computed once: at the small scale for speed, and on ImageNet because views of all images exceed memory.
    """
    imagenet = task.dataset.startswith("imagenet")
    return EvaluateConfig(
        branch=branch,
        seed=task.split,
        groups="shots" if imagenet else "thirds",
        augment=task.scale == "paper" and not imagenet,
        linear=replace(LINEAR, batch_size=512) if imagenet else LINEAR,
    )


def trained_on(job: Job, split: PaperSplit) -> Source:
    """The training images of a job."""
    return split.balanced if job.subset == "balanced" else split.long_tail  # for full sets it is the whole set


def balancing_weights(source: Source) -> NDArray[np.float64]:
    """Sampling weights that draw every class equally often: 1 / the number of images in each image's class.

    Returns:
        `(N,)`, in the order of the source.

    Raises:
        InputError: An image has no label.
    """
    if source.labels is None or (np.asarray(source.labels) < 0).any():
        raise InputError(f"{source.name} has images without a label: the oracle needs a label for every image")
    labels = np.asarray(source.labels)
    weights: NDArray[np.float64] = 1 / np.bincount(labels)[labels]
    return weights


def run_queue(
    queue: Queue, jobs: Sequence[Job], told: Told = lambda _: None, *, seconds: float | None = None
) -> dict[str, Outcome]:
    """Run all unfinished jobs. If one fails, the others continue.

    Args:
        queue: Settings of the queue.
        jobs: The jobs; runs must come before the fine-tuning that starts from them.
        told: Called with a message when a job starts or ends.
        seconds: Time limit, after which progress is saved and the queue stops; no limit by default.

    Returns:
        The outcome of each job that was not finished before. "failed": the traceback is in `failed.txt`. "busy":
        another process works on it. "left": the time was up before it was finished.

    Raises:
        StorageError: The disk is full or the like; progress is saved.
        Interrupted: On Ctrl-C or SIGTERM; progress is saved.
    """
    missing = [job for job in jobs if not queue.finished(job)]
    ended: dict[str, Outcome] = {}
    try:
        with contextlib.nullcontext() if seconds is None else stopping_after(seconds):
            for kind in (Task, Tuning):
                batch = [job for job in missing if isinstance(job, kind) and _startable(queue, job, ended)]
                (_side_by_side if queue.jobs > 1 else _one_by_one)(queue, batch, told, ended)
    except Interrupted as stop:
        if stop.signum != TIME_IS_UP:
            raise
        left: dict[str, Outcome] = {job.name: "left" for job in missing if job.name not in ended}
        ended |= left
    return ended


def _startable(queue: Queue, job: Job, ended: dict[str, Outcome]) -> bool:
    """Whether the run that a job starts from is finished. If not, the job gets the outcome of that run."""
    if isinstance(job, Tuning) and job.init is not None and not Run(queue.place(job.init)).finished:
        ended[job.name] = ended.get(job.init.name, "failed")
        return False
    return True


def failures(ended: Mapping[str, Outcome], folder: Path) -> dict[str, str]:
    """Reasons of failed jobs by name: the last line of their traceback.

    Args:
        ended: The result of `run_queue`.
        folder: The folder of the queue.
    """
    traces = {name: folder / name / FAILED_FILE for name, outcome in ended.items() if outcome == "failed"}
    return {
        name: (read_text(trace).strip() or "?").splitlines()[-1] if trace.is_file() else "the run it starts from failed"
        for name, trace in traces.items()
    }


def perform(queue: Queue, job: Job) -> Outcome:
    """Run the missing steps of one job, unless another process works on it.

    Returns:
        The outcome; "failed" after any error, with the traceback in `failed.txt` in the job's folder.

    Raises:
        StorageError: The disk is full or the like, which would also end the other jobs.
        Interrupted: On Ctrl-C or SIGTERM.
    """
    place = queue.place(job)
    with claimed(place) as free:
        if not free:
            return "busy"
        try:
            describe(job, place)
            if isinstance(job, Tuning):
                _tune(queue, job)
            else:
                _train_and_evaluate(queue, job)
        except StorageError:
            raise
        except Exception:  # noqa: BLE001  # the other jobs continue after any error
            write_atomically(place / FAILED_FILE, traceback.format_exc().encode(errors="replace"))
            return "failed"
        remove(place / FAILED_FILE)
    return "finished"


def _train_and_evaluate(queue: Queue, task: Task) -> None:
    place, split = queue.place(task), queue.data(task)
    runtime = replace(queue.runtime, snapshot_epochs=task.snapshot_epochs, log_steps=10**6)  # log only at epoch ends
    source = trained_on(task, split)
    weights = balancing_weights(source) if task.oracle else None
    run = pretrain(source, task.config, run=place, runtime=runtime, weights=weights)
    for branch in task.branches:
        if queue.evaluated(task, branch) is not None:
            continue
        result = evaluate(
            split.full,
            split.test,
            evaluation(task, branch),
            encoder=run,
            class_counts=split.counts,
            validation=split.validation,
            few_shot=split.few_shot,
            device=resolve_device(runtime.device),
            workers=decoders(runtime),
        )
        write_json(evaluation_file(place, branch), result.to_json())


def _tune(queue: Queue, job: Tuning) -> None:
    split, runtime = queue.data(job), queue.runtime
    init = None if job.init is None else Run.open(queue.place(job.init))
    finetune(
        split.long_tail,
        split.test,
        replace(job.config, groups=split.rule),
        start=init or "scratch",
        out=queue.place(job),
        device=resolve_device(runtime.device),
        workers=decoders(runtime),
        amp=runtime.amp,
    )


def decoders(runtime: Runtime) -> int:
    """Number of decoding processes for the steps after training."""
    return default_workers() if runtime.workers is None else runtime.workers


def _one_by_one(queue: Queue, jobs: Sequence[Job], told: Told, ended: dict[str, Outcome]) -> None:
    with stage("runs", len(jobs), unit="runs") as update:
        for number, job in enumerate(jobs, start=1):
            told(f"{number} of {len(jobs)}: {job.name}")
            ended[job.name] = perform(queue, job)
            told(f"{ended[job.name]}: {job.name}")
            update(number)


def _side_by_side(queue: Queue, jobs: Sequence[Job], told: Told, ended: dict[str, Outcome]) -> None:
    """Run each job in a separate process, `queue.jobs` at a time."""
    alone = replace(queue, jobs=1, runtime=replace(queue.runtime, progress=False))
    threads = max(1, (os.cpu_count() or 1) // queue.jobs)
    before = len(ended)
    waiting = list(enumerate(jobs, start=1))
    active: dict[str, BaseProcess] = {}
    # Spawn instead of fork: a forked process would inherit the state of torch's threads.
    context = multiprocessing.get_context("spawn")
    refusals = context.SimpleQueue()
    with listening() as interrupts, stage("runs", len(jobs), unit="runs") as update:
        try:
            while waiting or active:
                update(len(ended) - before)
                while waiting and len(active) < queue.jobs:
                    number, job = waiting.pop(0)
                    told(f"{number} of {len(jobs)}: {job.name}")
                    active[job.name] = context.Process(target=_work, args=(alone, job, threads, refusals))
                    active[job.name].start()
                wait([process.sentinel for process in active.values()], timeout=_PATIENCE)
                if interrupts.signum:
                    raise Interrupted(interrupts.signum, f"stopped; what was trained is saved in {queue.folder}")
                for name in [name for name, process in active.items() if process.exitcode is not None]:
                    exitcode = active.pop(name).exitcode
                    if exitcode == _REFUSED:
                        raise StorageError(refusals.get())
                    ended[name] = _ended(queue.folder / name, exitcode)
                    told(f"{ended[name]}: {name}")
        finally:
            _end(list(active.values()))


def _ended(place: Path, exitcode: int | None) -> Outcome:
    """Outcome of a process from its exit code. If it was killed, write the reason to the failure file."""
    if exitcode in _EXIT_CODES:
        return _EXIT_CODES[exitcode]
    write_atomically(place / FAILED_FILE, f"the process ended with exit code {exitcode}\n".encode())
    return "failed"


def _end(processes: Sequence[BaseProcess]) -> None:
    """Terminate processes, and wait until they have saved."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.join()


def _work(queue: Queue, job: Job, threads: int, refusals: "SimpleQueue[str]") -> None:
    """Run one job in this process. If a file cannot be written, put the reason in `refusals`."""
    torch.set_num_threads(threads)
    codes = {outcome: code for code, outcome in _EXIT_CODES.items()}
    try:
        code = codes[perform(queue, job)]
    except StorageError as error:
        refusals.put(str(error))
        code = _REFUSED
    except Interrupted as stop:
        code = stop.exit_code
    except KeyboardInterrupt:
        code = 130
    raise SystemExit(code)
