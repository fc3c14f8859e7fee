"""Action of `sdclr bench`."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console

from sdclr.cli.commands.bench import Bench
from sdclr.cli.ended import first_report, tell_failures
from sdclr.cli.plan import tell_queue
from sdclr.cli.talk import finish, note
from sdclr.errors import InputError
from sdclr.files import write_atomically, write_json
from sdclr.paper.bench import Matrix, crossed, matrix, parse_cell, widened
from sdclr.paper.experiments import DATA_NAMES, Setting, pretraining
from sdclr.paper.leaderboard import leaderboard, tables, to_csv, to_plain
from sdclr.paper.plan import State, look, plan_table
from sdclr.paper.results import collect, write_results
from sdclr.paper.runner import Data, Queue, failures, run_queue
from sdclr.training.config import PretrainConfig
from sdclr.training.runtime import Runtime
from sdclr.version import __version__
from sdclr.visible import counted


def run(command: Bench, console: Console) -> None:
    """Train the missing runs, and print and write the leaderboard.

    Raises:
        InputError: If a cell is invalid, or there are no images.
        Interrupted: On Ctrl-C or SIGTERM. The same command resumes.
        SystemExit: With 1 at the end, if a run failed.
    """
    asked = planned(command)
    baseline = asked.entries[0] if command.baseline is None else asked.find(command.baseline)
    for cell, why in asked.left_out.items():
        console.print(f"left out: {cell}: {why}", markup=False)
    runtime = Runtime(device=command.device, workers=command.workers, amp=command.amp)
    data = Data(root=command.data, lists=command.lists)
    queue = Queue(folder=command.folder, data=data, runtime=runtime, jobs=command.jobs)
    states = look(queue, asked.tasks)
    plan = plan_table(states).markdown()
    if command.dry_run:
        console.print(plan, markup=False)
    else:
        note(console, plan)
    tell_queue(console, runtime, command.folder, jobs=command.jobs)
    possible = [state.job for state in states if state.status != "no data"]
    if not possible:
        raise InputError(f"there are no images to train on ({'; '.join(dict.fromkeys(s.reason for s in states))})")
    if command.dry_run:
        return
    ended = run_queue(queue, possible, lambda text: note(console, text))
    failed = failures(ended, command.folder)
    rows = collect(command.folder)
    lines = leaderboard(asked.entries, rows, baseline, sort=command.sort)
    title = f"{DATA_NAMES[command.dataset]}, scale {command.scale}"
    head = _head(command, asked, data)
    text = "\n".join(
        [
            f"# Leaderboard: {title}\n\n{_header(head, states)}\n",
            *(table.markdown() for table in tables(lines, baseline, sort=command.sort, title=title)),
            *_remarks(asked, failed),
        ]
    )
    console.print(text, markup=False)
    out = command.out or command.folder / "results"
    file = out / f"leaderboard-{command.dataset}-{command.scale}"
    write_atomically(file.with_suffix(".md"), text.encode())
    write_atomically(file.with_suffix(".csv"), to_csv(lines))
    told = {"baseline": baseline.label, "sort": command.sort, "left_out": dict(asked.left_out), "failed": failed}
    write_json(file.with_suffix(".json"), head | told | {"rows": to_plain(lines)})
    for written in (*(file.with_suffix(suffix) for suffix in (".md", ".csv", ".json")), *write_results(rows, out)):
        console.print(f"results: {written}", markup=False)
    tell_failures(ended, command.folder)
    finish(console, first_report(queue, possible))


def planned(command: Bench) -> Matrix:
    """The matrix of runs that a command compares.

    Raises:
        InputError: If a cell is invalid.
    """
    if command.matrix:
        cells = [parse_cell(text) for text in command.matrix]
    else:
        kinds = command.damage or ("none", "prune")
        cells = crossed(command.frameworks or ("simclr",), kinds, command.rebalance or ("none",))
    widths = widened(cells, command.widths)
    return matrix(widths, command.dataset, _setting(command), ratio=command.ratio, lenient=not command.matrix)


def _setting(command: Bench) -> Setting:
    lists = command.lists is not None
    return Setting(scale=command.scale, splits=command.splits, lists=lists, epochs=command.epochs)


def _head(command: Bench, asked: Matrix, data: Data) -> dict[str, Any]:
    """Settings that describe the leaderboard and allow to create it again."""
    scale = pretraining(command.dataset, "long_tail", "simclr", _setting(command), 1)
    configs = [entry.config for entry in asked.entries]

    def usual(get: Callable[[PretrainConfig], Any]) -> Any:
        """The common value of all rows; otherwise the scale's, and rows state different values."""
        values = {get(config) for config in configs}
        return values.pop() if len(values) == 1 else get(scale)

    return {
        "dataset": command.dataset,
        "data": data.copy(command.dataset),
        "scale": command.scale,
        "splits": len(asked.entries[0].tasks),
        "drawn": "as published (the first) and drawn" if command.lists is not None else "drawn",
        "encoder": usual(lambda config: config.encoder.name),
        "width": usual(lambda config: config.encoder.width),
        "image_size": usual(lambda config: config.views.image_size),
        "epochs": usual(lambda config: config.epochs),
        "batch_size": usual(lambda config: config.batch_size),
        "sdclr": __version__,
        "command": _spelled(command),
    }


def _header(head: Mapping[str, Any], states: Sequence[State]) -> str:
    width = "" if head["width"] is None else f" of width {head['width']}"
    size = (
        f"{head['encoder']}{width} at {head['image_size']} px, {counted(head['epochs'], 'epoch')}, "
        f"batches of {head['batch_size']}"
    )
    small = " SMALL: a direction only." if head["scale"] == "cpu" else ""
    lacking = dict.fromkeys(state.reason for state in states if state.reason)
    lines = (
        f"Unless a row says otherwise: {size}.{small}",
        f"Data: {DATA_NAMES[head['dataset']]}: {head['data']}. Splits: {head['splits']}, {head['drawn']}.",
        *(f"No data: {reason}." for reason in lacking),
        f"Made by sdclr {head['sdclr']}: `{head['command']}`",
    )
    return "\n\n".join(lines)


def _remarks(asked: Matrix, failed: Mapping[str, str]) -> list[str]:
    """Lists of cells that were left out and runs that failed, with reasons."""
    lists = {
        "Left out": [f"- {cell}: {why}" for cell, why in asked.left_out.items()],
        "Failed": [f"- {name}: {why}" for name, why in failed.items()],
    }
    return ["\n".join([f"{title}:\n", *lines]) + "\n" for title, lines in lists.items() if lines]


def _spelled(command: Bench) -> str:
    """The command that creates the leaderboard again, with placeholders for paths of data."""
    several: dict[str, Sequence[Any]] = {
        "--matrix": command.matrix,
        "--frameworks": command.frameworks,
        "--damage": command.damage,
        "--rebalance": command.rebalance,
        "--widths": command.widths,
    }
    options = {name: values for name, values in several.items() if values}
    single = {
        "--ratio": command.ratio,
        "--dataset": command.dataset,
        "--scale": command.scale,
        "--splits": command.splits,
        "--epochs": command.epochs,
        "--baseline": command.baseline,
        "--sort": command.sort,
        "--amp": command.amp,
    }
    options |= {name: [value] for name, value in single.items() if value is not None}
    lists = [] if command.lists is None else ["--lists", "LISTS"]
    words = [word for name, values in options.items() for word in (name, *map(str, values))]
    return shlex.join(["sdclr", "bench", "--data", "DIR", *lists, *words])
