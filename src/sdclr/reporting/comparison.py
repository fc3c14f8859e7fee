"""Several runs beside each other: what they are called, how far they got, in what they differ, what was diagnosed."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, NamedTuple

from sdclr.config import differences, to_json
from sdclr.errors import InputError
from sdclr.files import read_json
from sdclr.files.reading import Keys
from sdclr.reporting.figures import loss_curve
from sdclr.reporting.tables import Table
from sdclr.training.config import PretrainConfig
from sdclr.training.run import Run
from sdclr.training.start import start_of

UNKNOWN: Final = "\u2013"

Json = Mapping[str, Any]
Runs = Mapping[str, Sequence[Run]]


def name_runs(runs: Sequence[Run]) -> dict[str, Run]:
    """Each run by its folder's name, with as many of the folders above as it takes to tell all of them apart.

    Args:
        runs: The runs, each given once.

    Returns:
        The runs by name, in the order given.

    Raises:
        InputError: If there is no run, or one is given twice.
    """
    if not runs:
        raise InputError("no runs to report on: name the folder of at least one")
    paths = [run.path.resolve() for run in runs]
    for number, path in enumerate(paths):
        if path in paths[:number]:
            raise InputError(f"{runs[number].path} is given twice: name each run once")
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(paths):
        depth += 1
    return {"/".join(path.parts[-depth:]): run for path, run in zip(paths, runs, strict=True)}


def overview(runs: Runs) -> Table | None:
    """What each method is, and how far it was trained; what differs between its runs is listed.

    Args:
        runs: The runs of each method.

    Returns:
        One row a method; None for fewer than two.
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
    """The settings that are not the same in every method.

    Args:
        runs: The runs of each method.

    Returns:
        One row a setting, one column a method; None where all settings are the same.
    """
    configs = {label: [run.config for run in found] for label, found in runs.items() if found}
    flat = [config for found in configs.values() for config in found]
    changed = [line.partition(": ")[0] for config in flat[1:] for line in differences(flat[0], config)]
    rows = []
    for field in dict.fromkeys(changed):
        texts = tuple(_listed(_setting(config, field) for config in found) for found in configs.values())
        if len(set(texts)) > 1:  # else it differs between the splits of each method alone
            rows.append((field, *texts))
    if not rows:
        return None
    note = "All other settings are the same."
    return Table("In what their settings differ", ("Setting", *configs), tuple(rows), note)


def settings_as_json(runs: Runs) -> list[tuple[str, str]]:
    """Each method's configuration as JSON; of equal ones of a method, one."""
    settings = []
    for label, found in runs.items():
        texts = dict.fromkeys(json.dumps(to_json(run.config), indent=2, ensure_ascii=False) for run in found)
        settings += [(label, text) for text in texts]
    return settings


def start_weights(runs: Runs) -> list[tuple[str, str]]:
    """The weights that each method's runs started from, with license and labels in words; [] if all are random."""
    starts = []
    for label, found in runs.items():
        words = dict.fromkeys(start.words for run in found if (start := start_of(run)) is not None)
        starts += [(label, text) for text in words]
    return starts


class Diagnosis(NamedTuple):
    """What `sdclr diagnose` found, of several runs."""

    summaries: dict[str, list[str]]
    """The sentences of each run."""
    indices: Table | None
    """What the sentences rely on: one row an index, one column a run."""
    context: Table | None
    """The other indices."""


def diagnosis(runs: Runs) -> Diagnosis | None:
    """What was diagnosed without labels: of each method, its first run that holds `results/diagnosis.json`.

    Args:
        runs: The runs of each method.

    Returns:
        Sentences and indices; None where nothing was diagnosed.

    Raises:
        InputError: If a diagnosis cannot be read.
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
    """Different texts once each; of many, the first and how many more."""
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
    """At least three digits; null, which stands for what is unknown, as a dash."""
    if value is None:
        return UNKNOWN
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:.3g}"
