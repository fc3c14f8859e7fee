"""Action of `sdclr reproduce`."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from sdclr.cli.commands.reproduce import Reproduce
from sdclr.cli.ended import first_report, tell_failures
from sdclr.cli.plan import tell_queue
from sdclr.cli.talk import budget, finish, note
from sdclr.errors import InputError, StorageError
from sdclr.files import write_atomically
from sdclr.paper.experiments import DATA_NAMES, EXPERIMENTS, Experiment, Setting, experiment
from sdclr.paper.figures import draw
from sdclr.paper.plan import State, look, plan_table
from sdclr.paper.results import Row, collect, is_finished, write_results
from sdclr.paper.runner import Data, FinishedTask, Queue, decoders, run_queue
from sdclr.paper.tables import compared_table, contrast_table
from sdclr.paper.tasks import Job, Task, merged
from sdclr.training.distributed import resolve_device
from sdclr.training.run import Run
from sdclr.training.runtime import Runtime
from sdclr.version import __version__


def run(command: Reproduce, console: Console) -> None:
    """Train the missing runs, and print and write tables and figures.

    Raises:
        InputError: If there are no images for any run.
        Interrupted: On Ctrl-C or SIGTERM. The same command resumes.
        SystemExit: With 1 at the end, if a run failed.
    """
    limit = budget(command.minutes)
    setting = Setting(
        scale=command.scale,
        splits=command.splits,
        head=command.head,
        lists=command.lists is not None,
        epochs=command.epochs,
    )
    names = EXPERIMENTS if command.what == "all" else (command.what,)
    experiments = [experiment(name, setting) for name in names]
    runtime = Runtime(device=command.device, workers=command.workers, amp=command.amp)
    queue = Queue(
        folder=command.folder, data=Data(root=command.data, lists=command.lists), runtime=runtime, jobs=command.jobs
    )
    states = look(queue, merged(job for one in experiments for job in one.jobs))
    plan = plan_table(states).markdown()
    if command.dry_run:
        console.print(plan, markup=False)
    else:
        note(console, plan)
    tell_queue(console, runtime, command.folder, jobs=command.jobs)
    possible = [state for state in states if state.status != "no data"]
    if not possible:
        reasons = "; ".join(dict.fromkeys(state.reason for state in states))
        raise InputError(f"{command.what}: there are no images for any of its runs ({reasons})")
    if command.dry_run:
        return
    seconds = None if limit is None else limit.left
    ended = run_queue(queue, [state.job for state in possible], lambda text: note(console, text), seconds=seconds)
    rows = collect(command.folder)
    out = command.out or command.folder / "results"
    for file in write_results(rows, out):
        console.print(f"results: {file}", markup=False)
    for one in experiments:
        text = page(one, rows, states, command)
        console.print(text, markup=False)
        write_atomically(out / f"{one.name}-{command.scale}.md", text.encode())
        try:
            for file in _figures(one, queue, rows, out):
                console.print(f"figure: {file}", markup=False)
        except StorageError:
            raise
        except InputError as error:
            console.print(f"{one.name} cannot be drawn from the finished runs: {error}", markup=False)
    tell_failures(ended, command.folder)
    finish(console, first_report(queue, [state.job for state in possible]))


def page(one: Experiment, rows: Sequence[Row], states: Sequence[State], command: Reproduce) -> str:
    """A table of the paper next to our numbers, as Markdown, with a header that describes the runs."""
    missing = {state.job.name: "no data" for state in states if state.status == "no data"}  # the plan gives the reason
    tables = [compared_table(one, rows, missing), contrast_table(one, rows)]
    there = {state.job.name for state in states if state.status != "no data"}
    head = f"# {one.title}\n\n{_header([job for job in one.jobs if job.name in there], command)}\n"
    return "\n".join([head, *(table.markdown() for table in tables if table is not None)])


def _header(jobs: Sequence[Job], command: Reproduce) -> str:
    """Scale, data, version and command of the results."""
    data = Data(root=command.data, lists=command.lists)
    scale = {
        "cpu": "Scale cpu: SMALL. A quarter-width ResNet-18 at 16 px, a fiftieth of the paper's epochs, half its batch "
        "and half of the weights pruned. Beside the paper's numbers this shows a direction only.",
        "paper": "Scale paper: network, images, batch and length as in the paper.",
    }[command.scale]
    trial = f" A trial of {command.epochs} epochs." if command.epochs else ""
    sets = {job.dataset: DATA_NAMES[job.dataset] for job in jobs}
    copies = "; ".join(f"{name}: {data.copy(dataset)}" for dataset, name in sets.items()) or "none"
    splits = max((job.split for job in jobs), default=0)
    drawn = "as published (the first) and drawn" if command.lists is not None else "drawn"
    lines = (
        f"{scale}{trial}",
        f"Data: {copies}. Splits: {splits}, {drawn}. Projection heads: {command.head}.",
        f"Made by sdclr {__version__}: `{_spelled(command)}`",
    )
    return "\n\n".join(lines)


def _spelled(command: Reproduce) -> str:
    """The command that creates the table again, with a placeholder for the path of data."""
    options = {"--scale": command.scale, "--splits": command.splits, "--epochs": command.epochs}
    told = [f"{name} {value}" for name, value in options.items() if value is not None]
    head = [] if command.head == "matched" else [f"--head {command.head}"]
    return " ".join(("sdclr reproduce", command.what, "--data DIR", *told, *head))


def _figures(one: Experiment, queue: Queue, rows: Sequence[Row], out: Path) -> list[Path]:
    """Draw the figure of an experiment from its finished runs; a table has none."""
    if one.figure is None:
        return []
    tasks = [
        FinishedTask(task=job, run=Run(queue.place(job)), split=queue.data(job))
        for job in one.jobs
        if isinstance(job, Task) and queue.finished(job)
    ]
    if not tasks:
        return []
    finished = [row for row in rows if is_finished(row)]
    place = resolve_device(queue.runtime.device)
    return draw(one.figure, tasks, finished, out, device=place, workers=decoders(queue.runtime))
