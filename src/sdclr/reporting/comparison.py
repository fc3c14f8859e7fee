"""Comparison of several runs: names, progress, differing settings, diagnoses."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, NamedTuple

from sdclr.config import differences, to_json
from sdclr.errors import InputError, not_a_text
from sdclr.files import read_json
from sdclr.files.reading import Keys
from sdclr.reporting.figures import loss_curve
from sdclr.reporting.tables import UNKNOWN, Table
from sdclr.training.config import PretrainConfig
from sdclr.training.run import Run
from sdclr.training.start import start_of

Json = Mapping[str, Any]
Runs = Mapping[str, Sequence[Run]]


def name_runs(runs: Sequence[Run | str | Path]) -> dict[str, Run]:
    """Open runs, and name each by its folder, with as many parent folders as needed to make the names unique.

    Args:
        runs: The runs or their folders, each given once.

    Returns:
        The runs by name, in the order given.

    Raises:
        InputError: There is no run, or one is given twice.
    """
    not_a_text(runs, "runs", "runs")
    if not runs:
        raise InputError("no runs to report on: name the folder of at least one")
    opened = [run if isinstance(run, Run) else Run.open(run) for run in runs]
    paths = [run.path.resolve() for run in opened]
    for number, path in enumerate(paths):
        if path in paths[:number]:
            raise InputError(f"{opened[number].path} is given twice: name each run once")
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(paths):
        depth += 1
    return {"/".join(path.parts[-depth:]): run for path, run in zip(paths, opened, strict=True)}


def overview(runs: Runs) -> Table | None:
    """Table of each method's settings and progress. Values that differ between its runs are listed.

    Args:
        runs: The runs of each method.

    Returns:
        One row per method; None for fewer than two methods.
    """
    if len(runs) < 2:
        return None
    several = any(len(found) > 1 for found in runs.values())
    columns: dict[str, list[str]] = {"Run": list(runs)}
    if several:
        columns["Runs"] = [str(len(found)) for found in runs.values()]
    for name, told in _TOLD.items():
        columns[name] = [_listed(told(run) for run in found) for found in runs.values()]
    columns = {name: cells for name, cells in columns.items() if set(cells) != {UNKNOWN}}
    return Table("The runs", tuple(columns), tuple(zip(*columns.values(), strict=True)))


def differing_settings(runs: Runs) -> Table | None:
    """Table of the settings that differ between methods.

    Args:
        runs: The runs of each method.

    Returns:
        One row per setting, one column per method; None if all settings are equal.
    """
    configs = {label: [run.config for run in found] for label, found in runs.items() if found}
    flat = [config for found in configs.values() for config in found]
    changed = [line.partition(": ")[0] for config in flat[1:] for line in differences(flat[0], config)]
    rows = []
    for field in dict.fromkeys(changed):
        texts = tuple(_listed(_setting(config, field) for config in found) for found in configs.values())
        if len(set(texts)) > 1:  # otherwise it only differs between the splits of each method
            rows.append((field, *texts))
    if not rows:
        return None
    note = "All other settings are the same."
    return Table("Differing settings", ("Setting", *configs), tuple(rows), note)


def settings_as_json(runs: Runs) -> list[tuple[str, str]]:
    """Each method's different configurations as JSON."""
    settings = []
    for label, found in runs.items():
        texts = dict.fromkeys(json.dumps(to_json(run.config), indent=2, ensure_ascii=False) for run in found)
        settings += [(label, text) for text in texts]
    return settings


def start_weights(runs: Runs) -> list[tuple[str, str]]:
    """Text on the initial weights of each method's runs, with license and labels; [] if all are random."""
    starts = []
    for label, found in runs.items():
        words = dict.fromkeys(start.words for run in found if (start := start_of(run)) is not None)
        starts += [(label, text) for text in words]
    return starts


class Diagnosis(NamedTuple):
    """Results of `sdclr diagnose` for several runs."""

    summaries: dict[str, list[str]]
    """The summary sentences of each run."""
    indices: Table | None
    """The indices behind the summary: one row per index, one column per run."""
    context: Table | None
    """The other indices."""


def diagnosis(runs: Runs) -> Diagnosis | None:
    """Diagnoses without labels: for each method, of its first run with `results/diagnosis.json`.

    Args:
        runs: The runs of each method.

    Returns:
        Sentences and indices; None if there is no diagnosis.

    Raises:
        InputError: A diagnosis cannot be read.
    """
    found = {}
    for label, method in runs.items():
        files = [run.results / "diagnosis.json" for run in method]
        file = next((file for file in files if file.is_file()), None)
        if file is not None:
            found[label] = _diagnosis(file)
    if not found:
        return None
    return Diagnosis(
        {label: [str(sentence) for sentence in values["summary"]] for label, values in found.items()},
        _indices({label: values["indices"] for label, values in found.items()}, "Indices that need no labels"),
        _indices({label: values["context"] for label, values in found.items()}, "Further indices"),
    )


def _diagnosis(file: Path) -> Json:
    keys: Keys = {"summary": list, "indices": dict, "context": dict}
    return read_json(file, "run `sdclr diagnose` again, which writes it", keys=keys)


def _indices(values: Mapping[str, Json], title: str) -> Table | None:
    names = dict.fromkeys(name for found in values.values() for name in found)
    rows = tuple(
        (name.replace("_", " ").capitalize(), *(_number(found.get(name)) for found in values.values()))
        for name in names
    )
    return Table(title, ("Index", *values), rows) if rows else None


def _collection(run: Run) -> str:
    return str(run.source["name"]) if run.source_file.is_file() else UNKNOWN


def _images(run: Run) -> str:
    return f"{run.source['images'] - run.source.get('bad_images', 0):,}" if run.source_file.is_file() else UNKNOWN


def _epochs(run: Run) -> str:
    curve, asked = loss_curve(run), run.config.epochs
    if run.config.steps is not None and run.finished:  # it ends within an epoch
        return f"{curve[-1, 0]:.1f}"
    done = math.floor(curve[-1, 0] + 1e-9) if len(curve) else 0
    return f"{done:,}" if done == asked else f"{done:,} of {asked:,}"


def _speed(run: Run) -> str:
    speeds = sorted(row["images_per_second"] for row in run.metrics() if "images_per_second" in row)
    return f"{speeds[len(speeds) // 2]:,.0f}" if speeds else UNKNOWN


def _precision(run: Run) -> str:
    return _listed(session["precision"] for session in run.sessions()) or UNKNOWN


_TOLD: Final = {
    "Method": lambda run: run.config.method,
    "Collection": _collection,
    "Images": _images,
    "Epochs": _epochs,
    "Images/s": _speed,
    "Precision": _precision,
}


def _listed(texts: Iterator[str]) -> str:
    """The distinct texts in one line; of more than five, the first four and the number of others."""
    different = list(dict.fromkeys(texts))
    if len(different) > 5:
        different = [*different[:4], f"{len(different) - 4} more"]
    return ", ".join(different)


def _setting(config: PretrainConfig, field: str) -> str:
    if config.damage.kind == "none" and field.startswith("damage.") and field != "damage.kind":
        return UNKNOWN  # has no meaning without damage
    if (field.startswith("moco.") and config.framework != "moco") or (
        field.startswith("focal.") and "focal" not in config.rebalance
    ):
        return UNKNOWN
    value = attrgetter(field)(config)
    return value if isinstance(value, str) else json.dumps(value)


def _number(value: float | None) -> str:
    """A number with at least three digits; a dash for null, which means unknown."""
    if value is None:
        return UNKNOWN
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:.3g}"
