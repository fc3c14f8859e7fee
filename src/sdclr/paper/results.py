"""Results of the paper's runs as one tidy table, with a row per run, branch and probe."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import pstdev
from typing import Any, Final, get_args

import pyarrow as pa
import pyarrow.csv as pa_csv

from sdclr.files import parquet_bytes, parsing, read_json, read_table, write_atomically, write_json
from sdclr.paper.numbers import Probe
from sdclr.paper.tasks import Branch, Job, Task
from sdclr.training.run import Run, read_evaluation

_TEXT, _NUMBER = pa.string(), pa.float64()
SCHEMA: Final = pa.schema(
    [
        ("task", _TEXT),
        ("dataset", _TEXT),
        ("split", pa.int64()),
        ("subset", _TEXT),
        ("method", _TEXT),
        ("ratio", _NUMBER),
        ("independent_norm", pa.bool_()),
        ("scale", _TEXT),
        ("branch", _TEXT),
        ("probe", _TEXT),
        *((name, _NUMBER) for name in ("many", "medium", "few", "std", "all", "std_classes")),
        ("seconds", _NUMBER),
        ("sdclr", _TEXT),
        ("status", _TEXT),
    ]
)
"""Columns of the tidy table. Accuracies are in percent, `seconds` is the training time. Unknown values are null, and so
is an adaptive ratio."""

TASK_FILE: Final = "task.json"
"""Describes the job of each folder."""
FAILED_FILE: Final = "failed.txt"
"""Traceback of the error that ended the last attempt."""
_AGAIN: Final = "remove it and run the same `sdclr reproduce` or `sdclr bench` again"

Row = dict[str, Any]


def evaluation_file(folder: Path, branch: Branch) -> Path:
    """File of a task's evaluation, which is not repeated while the file exists."""
    return folder / f"paper-{branch}.json"


def describe(job: Job, folder: Path) -> None:
    """Write the description of a folder's job, for `collect`."""
    damage = job.config.damage if isinstance(job, Task) else None
    prunes = damage is not None and damage.kind != "none"
    row = {
        "task": job.name,
        "dataset": job.dataset,
        "split": job.split,
        "subset": job.subset,
        "method": job.method,
        "ratio": damage.ratio if damage is not None and prunes and damage.ratio != "adaptive" else None,
        "independent_norm": damage.independent_norm is not False if damage is not None and prunes else None,
        "scale": job.scale,
    }
    branches = list(job.branches) if isinstance(job, Task) else []
    write_json(folder / TASK_FILE, {"row": row, "branches": branches})


def collect(folder: Path) -> list[Row]:
    """The tidy table of all tasks started in a folder.

    Args:
        folder: The folder of `sdclr reproduce`.

    Returns:
        Rows sorted by task, branch and probe, with "status" finished, unfinished or failed. Only finished rows have
        values.
    """
    rows = []
    for file in sorted(folder.glob(f"*/{TASK_FILE}")):
        task = read_json(file, _AGAIN, keys={"row": dict, "branches": list})
        found = _tuned(file.parent) if not task["branches"] else _evaluated(file.parent, task["branches"])
        rows += [dict.fromkeys(SCHEMA.names) | task["row"] | figures for figures in found]
    return rows


def write_results(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Write the tidy table as Parquet and CSV.

    Args:
        rows: The result of `collect`.
        folder: The folder to write to.

    Returns:
        The files.
    """
    table = pa.Table.from_pylist(list(rows), schema=SCHEMA)
    files = [folder / "results.parquet", folder / "results.csv"]
    sink = pa.BufferOutputStream()
    pa_csv.write_csv(table, sink)
    for file, data in zip(files, (parquet_bytes(table), sink.getvalue().to_pybytes()), strict=True):
        write_atomically(file, data)
    return files


def read_results(path: Path | str) -> list[Row]:
    """Read a tidy table.

    Args:
        path: A .parquet or .csv file that `write_results` wrote, or a folder with a `results.parquet`.

    Raises:
        InputError: The file does not exist.
        DamagedFileError: The file is not such a table.
    """
    file = Path(path)
    if file.is_dir():
        file /= "results.parquet"
    with parsing(file, _AGAIN):
        if file.suffix == ".csv":
            options = pa_csv.ConvertOptions(column_types=SCHEMA, strings_can_be_null=True)
            table = pa_csv.read_csv(file, convert_options=options)
        else:
            table = read_table(file, _AGAIN)
        rows: list[Row] = table.select(SCHEMA.names).cast(SCHEMA).to_pylist()
        return rows


def training_seconds(run: Run) -> float | None:
    """Training time of a run over all sessions, from its logged speed; None without a log."""
    spent = [(steps * run.config.batch_size) / speed for steps, speed in _speeds(run)]
    return sum(spent) if spent else None


def speed(run: Run) -> float | None:
    """Mean training speed of a run in images per second; None without a log."""
    taken, seconds = sum(steps for steps, _ in _speeds(run)), training_seconds(run)
    return taken * run.config.batch_size / seconds if seconds else None


def _speeds(run: Run) -> list[tuple[int, float]]:
    """Steps between consecutive lines of the log, and their speed in images per second."""
    lines = [line for line in run.metrics() if line.get("images_per_second")]
    steps = [0, *(int(line["step"]) for line in lines)]
    taken = [after - before for before, after in pairwise(steps)]
    return [(count, float(line["images_per_second"])) for count, line in zip(taken, lines, strict=True)]


def _evaluated(folder: Path, branches: Iterable[Branch]) -> list[Row]:
    """The rows of a run, one per branch and probe."""
    run, rows = Run(folder), []
    seconds = training_seconds(run) if run.finished else None
    for branch in branches:
        file = evaluation_file(folder, branch)
        result = read_evaluation(file) if file.is_file() else None
        for probe in get_args(Probe)[:3]:
            row = {"branch": branch, "probe": probe, "seconds": seconds}
            if result is None:
                rows.append(row | {"status": _unfinished(folder)})
                continue
            with parsing(file, _AGAIN):
                figures = result[probe]["balance"] | {"std_classes": result[probe]["std_classes"]}
                rows.append(row | figures | {"sdclr": result["sdclr"], "status": "finished"})
    return rows


def _tuned(folder: Path) -> list[Row]:
    """The row of a fine-tuned classifier."""
    row: Row = {"branch": "dense", "probe": "fine_tuned"}
    file = folder / "result.json"
    if not file.is_file():
        return [row | {"status": _unfinished(folder)}]
    result = read_json(file, _AGAIN, keys={"per_class": list, "balance": dict})
    with parsing(file, _AGAIN):
        known = [value for value in result["per_class"] if value is not None]
        told = {"seconds": result["seconds"], "sdclr": result["sdclr"], "status": "finished"}
        return [row | result["balance"] | {"std_classes": pstdev(known)} | told]


def _unfinished(folder: Path) -> str:
    return "failed" if (folder / FAILED_FILE).exists() else "unfinished"


def is_finished(row: Row) -> bool:
    """Whether a row is finished and has values."""
    return bool(row["status"] == "finished")
