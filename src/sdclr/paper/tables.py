"""The paper's tables with our numbers, the paper's numbers, and their differences."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Final

from sdclr.paper.experiments import PROBE_NAMES, Experiment
from sdclr.paper.experiments import Row as ExperimentRow
from sdclr.paper.numbers import MEASURES, Measure, Probe, Reported
from sdclr.paper.results import Row, is_finished, read_results
from sdclr.paper.tasks import Branch, Job
from sdclr.reporting.tables import UNKNOWN, Table

MINUS: Final = "\u2212"
ROUNDING: Final = 1e-9
"""Tolerance for rounding errors, in percentage points."""

RULE: Final = (
    "Ours is mean ± sample standard deviation over splits. A difference is within both deviations if its absolute "
    f"value is at most our deviation and the paper's added; {UNKNOWN} where either is unknown, as of a single split."
)


@dataclass(frozen=True)
class Comparison:
    """One of our numbers and the paper's number."""

    ours: Reported | None
    paper: Reported | None

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's, in percentage points."""
        return None if self.ours is None or self.paper is None else self.ours.mean - self.paper.mean

    @property
    def within(self) -> bool | None:
        """Whether the difference is at most the sum of both deviations; None if one is unknown."""
        if self.ours is None or self.paper is None or self.ours.std is None or self.paper.std is None:
            return None
        return abs(self.ours.mean - self.paper.mean) <= self.ours.std + self.paper.std + ROUNDING


def over_splits(values: Sequence[float | None]) -> Reported | None:
    """Mean and sample standard deviation of the known values; a single value has no deviation."""
    known = [value for value in values if value is not None and not math.isnan(value)]
    if not known:
        return None
    return Reported(fmean(known), stdev(known) if len(known) > 1 else None)


def comparisons(row: ExperimentRow, results: Sequence[Row], measures: Sequence[Measure]) -> dict[Measure, Comparison]:
    """Our numbers and the paper's for one row of a table.

    Args:
        row: The row.
        results: The tidy table.
        measures: The columns.
    """
    found = _of(row, results)
    return {
        measure: Comparison(over_splits([result[measure] for result in found.values()]), row.paper.get(measure))
        for measure in measures
    }


def compared_table(experiment: Experiment, results: Sequence[Row], missing: Mapping[str, str] | None = None) -> Table:
    """A table of the paper with three lines per row: our numbers, the paper's, and the difference.

    Args:
        experiment: The rows and runs of the table.
        results: The tidy table.
        missing: Reasons for missing results, by job name.

    Returns:
        The table. Rows without numbers in the paper have only our line.
    """
    lines = []
    for row in experiment.rows:
        cells = comparisons(row, results, experiment.measures)
        name = f"{row.data}, {row.label}{_judged(experiment, row)}"
        done = len(_of(row, results))
        if done:
            ours = [figure_text(cell.ours) for cell in cells.values()]
            lines.append((f"{name}: ours, {_splits(done)}", *ours))
        else:
            why = next((missing[job.name] for job in row.jobs if missing and job.name in missing), "to do")
            lines.append((f"{name}: {why}", *(UNKNOWN for _ in cells)))
        if row.paper:
            lines.append((f"{name}: paper", *(figure_text(cell.paper) for cell in cells.values())))
        if row.paper and done:
            lines.append((f"{name}: difference", *(_difference(cell) for cell in cells.values())))
    columns = ("", *(MEASURES[measure] for measure in experiment.measures))
    note = " ".join(part for part in (experiment.note, f"In percent. {RULE}") if part)
    return Table(title=experiment.title, columns=columns, rows=tuple(lines), note=note)


def contrast_table(experiment: Experiment, results: Sequence[Row]) -> Table | None:
    """Differences of each method to the first method of the same data and probe, split by split.

    A small scale can show the sign of these differences, and variation between splits cancels out.

    Args:
        experiment: The rows and runs of the table.
        results: The tidy table.

    Returns:
        The table; None if nothing can be compared.
    """
    lines: list[tuple[str, ...]] = []
    first: dict[tuple[Any, ...], ExperimentRow] = {}
    for row in experiment.rows:
        base = first.setdefault((row.data, row.probe), row)
        here, there = _of(row, results), _of(base, results)
        both = sorted(set(here) & set(there))
        if base is row or not both:
            continue
        name = f"{row.data}, {row.label} {MINUS} {base.label}{_judged(experiment, row)}"
        gains = {
            measure: over_splits([minus(here[split][measure], there[split][measure]) for split in both])
            for measure in experiment.measures
        }
        lines.append((f"{name}: ours, {_splits(len(both))}", *(signed_text(gain) for gain in gains.values())))
        shared = {measure: (row.paper.get(measure), base.paper.get(measure)) for measure in experiment.measures}
        theirs = [Reported(ours.mean - other.mean) if ours and other else None for ours, other in shared.values()]
        if any(theirs):
            lines.append((f"{name}: paper", *(signed_text(gain) for gain in theirs)))
    if not lines:
        return None
    columns = ("", *(MEASURES[measure] for measure in experiment.measures))
    note = "In percentage points: ours the mean ± sample standard deviation of the differences within each split."
    return Table(title="Differences between methods", columns=columns, rows=tuple(lines), note=note)


def tidy_table(path: Path | str, *, probe: Probe = "linear") -> Table:
    """The tidy results of a folder as one table for reports, with a row per finished run and branch.

    Args:
        path: A .parquet or .csv file that `sdclr reproduce` wrote, or its folder.
        probe: The probe.

    Raises:
        InputError: It is not such a file.
    """
    measures: tuple[Measure, ...] = tuple(MEASURES)
    chosen = [row for row in read_results(path) if is_finished(row) and row["probe"] in {probe, "fine_tuned"}]
    return Table(
        title=f"Runs behind the paper's tables, {PROBE_NAMES[probe]}",
        columns=("Run", "Branch", *(MEASURES[measure] for measure in measures)),
        rows=tuple((row["task"], row["branch"], *(_plain(row[measure]) for measure in measures)) for row in chosen),
        note="Accuracy in percent.",
    )


def by_split(jobs: Sequence[Job], results: Sequence[Row], probe: Probe, branch: Branch = "dense") -> dict[int, Row]:
    """The finished results of some jobs, by split.

    Args:
        jobs: One per split.
        results: The tidy table.
        probe: The probe.
        branch: The branch.
    """
    names = {job.name for job in jobs}
    return {
        result["split"]: result
        for result in results
        if result["task"] in names and (result["branch"], result["probe"]) == (branch, probe) and is_finished(result)
    }


def _of(row: ExperimentRow, results: Sequence[Row]) -> dict[int, Row]:
    return by_split(row.jobs, results, row.probe, row.branch)


def _judged(experiment: Experiment, row: ExperimentRow) -> str:
    """The probe, if the table has several."""
    return f", {PROBE_NAMES[row.probe]}" if len({other.probe for other in experiment.rows}) > 1 else ""


def _splits(number: int) -> str:
    return f"{number} split{'s' if number > 1 else ''}"


def _plain(value: float | None) -> str:
    return UNKNOWN if value is None or math.isnan(value) else f"{value:.2f}"


def figure_text(number: Reported | None) -> str:
    """A mean with its deviation if known; a dash for an unknown mean."""
    if number is None:
        return UNKNOWN
    return f"{number.mean:.2f}" if number.std is None else f"{number.mean:.2f} ± {number.std:.2f}"


def signed_text(number: Reported | None) -> str:
    """A difference with its sign, in the format of `figure_text`."""
    if number is None:
        return UNKNOWN
    sign = MINUS if round(number.mean, 2) < 0 else "+"
    return f"{sign}{figure_text(Reported(abs(number.mean), number.std))}"


def _difference(cell: Comparison) -> str:
    if cell.difference is None:
        return UNKNOWN
    judged = {True: "within", False: "outside", None: UNKNOWN}[cell.within]
    return f"{signed_text(Reported(cell.difference))} {judged}"


def minus(one: float | None, other: float | None) -> float | None:
    """The difference; None if a value is unknown."""
    return None if one is None or other is None else one - other
