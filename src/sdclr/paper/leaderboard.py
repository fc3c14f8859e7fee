"""Leaderboard of a bench: every method on the same splits, and its differences to a baseline split by split."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, Final, NamedTuple, cast, get_args

from sdclr.config import to_json
from sdclr.errors import InputError
from sdclr.paper.bench import Entry
from sdclr.paper.config import SortKey
from sdclr.paper.numbers import MEASURES, Measure, Probe, Reported
from sdclr.paper.results import Row
from sdclr.paper.tables import MINUS, by_split, figure_text, minus, over_splits, signed_text
from sdclr.reporting.tables import UNKNOWN, Table

FIGURES: Final[tuple[SortKey, ...]] = get_args(SortKey)[:-1]
_LOWER_IS_BETTER: Final = frozenset[SortKey]({"linear.std", "few_shot.std", "seconds"})
_SHOWN: Final[tuple[SortKey, ...]] = (
    "linear.all",
    "linear.few",
    "linear.std",
    "few_shot.all",
    "few_shot.few",
    "few_shot.std",
    "knn.all",
)
_PROBES: Final[Mapping[Probe, str]] = {"linear": "Linear", "few_shot": "Few-shot", "knn": "kNN"}

ORACLE_NOTE: Final = (
    'Rows that say "balanced by labels" are an oracle: they draw images by their labels, which no other row sees. They '
    "are a bound, not a competitor."
)


class Gain(NamedTuple):
    """A difference between two methods on the same splits."""

    mean: float
    """Mean over splits."""
    error: float | None
    """Standard error of the mean: the sample standard deviation of the differences divided by the square root of their
    number; None for a single split."""
    pairs: int
    """Number of splits that both methods have."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A method's row."""

    entry: Entry
    figures: Mapping[SortKey, Reported | None]
    """Mean and sample standard deviation over splits, in percent."""
    gains: Mapping[SortKey, Gain | None]
    """This method minus the baseline, split by split, in percentage points."""
    splits: int
    """Number of finished splits."""
    seconds: float | None
    """Mean training time of one split."""
    cost: float | None
    """Training time divided by that of the baseline, on the splits that both have."""

    @property
    def name(self) -> str:
        """The label, with the number of splits if some are missing."""
        most = len(self.entry.tasks)
        return self.entry.label if self.splits == most else f"{self.entry.label} ({self.splits} of {most} splits)"


def paired(here: Mapping[int, float | None], there: Mapping[int, float | None]) -> Gain | None:
    """Difference between two methods on the splits that both have.

    Args:
        here: One value per split.
        there: The values of the other method.

    Returns:
        The difference; None without a common split.
    """
    differences = [minus(here[split], there[split]) for split in sorted(set(here) & set(there))]
    known = [value for value in differences if value is not None and not math.isnan(value)]
    if not known:
        return None
    error = stdev(known) / math.sqrt(len(known)) if len(known) > 1 else None
    return Gain(fmean(known), error, len(known))


def leaderboard(
    entries: Sequence[Entry], results: Sequence[Row], baseline: Entry, *, sort: SortKey = "linear.all"
) -> list[Line]:
    """The rows, best first. Rows without a value come last, in the order of the entries.

    Args:
        entries: The methods.
        results: The tidy table.
        baseline: The method to compare with.
        sort: The sort key.

    Raises:
        InputError: The sort key does not exist.
    """
    if sort not in get_args(SortKey):
        raise InputError(f"{sort!r} is not a sort key: sort by one of {', '.join(get_args(SortKey))}")
    level = _columns(baseline, results)
    lines = [_line(entry, _columns(entry, results), level) for entry in entries]

    def place(line: Line) -> tuple[bool, float]:
        value = line.seconds if sort == "seconds" else None
        if sort != "seconds" and (figure := line.figures[sort]) is not None:
            value = figure.mean
        return value is None, (value or 0.0) * (1 if sort in _LOWER_IS_BETTER else -1)

    return sorted(lines, key=place)


def tables(lines: Sequence[Line], baseline: Entry, *, sort: SortKey, title: str) -> list[Table]:
    """The leaderboard as tables: one per probe, and the differences to the baseline, with equal row order.

    Args:
        lines: The result of `leaderboard`.
        baseline: The method to compare with.
        sort: The sort key of the lines.
        title: Name of the data.
    """
    splits = max((line.splits for line in lines), default=0)
    oracle = [ORACLE_NOTE] if any(line.entry.cell.oracle for line in lines) else []
    deviation = f"mean ± sample standard deviation over {splits} splits" if splits > 1 else "one split"
    best = "lowest" if sort in _LOWER_IS_BETTER else "highest"
    note = (
        f"Accuracy in percent, {deviation}. Sorted by {_called(sort)}, {best} first. Relative time: training time "
        f"divided by that of {baseline.label}. It also depends on other load on the machine and on --jobs."
    )
    linear = Table(
        title=f"{title}: linear probe, kNN and cost",
        columns=("Method", *_headings("linear"), "kNN All", "Relative time"),
        rows=tuple(
            (
                line.name,
                *_cells(line, "linear"),
                figure_text(line.figures["knn.all"]),
                UNKNOWN if line.cost is None else f"{line.cost:.2f}",
            )
            for line in lines
        ),
        note=" ".join([note, *oracle]),
    )
    few_shot = Table(
        title=f"{title}: few-shot probe",
        columns=("Method", *_headings("few_shot")),
        rows=tuple((line.name, *_cells(line, "few_shot")) for line in lines),
        note="Rows in the same order as above.",
    )
    others = [line for line in lines if line.entry != baseline]
    return [linear, few_shot, *([_differences(others, baseline)] if others else [])]


def to_csv(lines: Sequence[Line]) -> bytes:
    """One row per method, with all values; unknown values are empty."""
    sink = io.StringIO(newline="")
    rows = [_flat(line) for line in lines]
    writer = csv.DictWriter(sink, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return sink.getvalue().encode()


def to_plain(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """The leaderboard as JSON, with the configuration of each method and the names of its runs."""
    return [
        {
            "method": line.entry.label,
            "cell": str(line.entry.cell),
            "oracle": line.entry.cell.oracle,
            "splits": line.splits,
            "figures": {key: None if figure is None else figure._asdict() for key, figure in line.figures.items()},
            "differences": {key: None if gain is None else gain._asdict() for key, gain in line.gains.items()},
            "seconds": line.seconds,
            "relative_seconds": line.cost,
            "runs": [task.name for task in line.entry.tasks],
            "config": to_json(line.entry.config),
        }
        for line in lines
    ]


_Columns = Mapping[str, Mapping[int, float | None]]
"""One value per split, by key."""


def _columns(entry: Entry, results: Sequence[Row]) -> _Columns:
    """All values of a method, and its training seconds, by split."""
    rows: dict[str, dict[int, Row]] = {probe: by_split(entry.tasks, results, probe) for probe in _PROBES}
    columns: dict[str, Mapping[int, float | None]] = {}
    for key in FIGURES:
        probe, measure = key.split(".")
        columns[key] = {split: row[measure] for split, row in rows[probe].items()}
    return {**columns, "seconds": {split: row["seconds"] for split, row in rows["linear"].items()}}


def _line(entry: Entry, here: _Columns, level: _Columns) -> Line:
    seconds = over_splits(list(here["seconds"].values()))
    ratios = [
        (one, other)
        for split in set(here["seconds"]) & set(level["seconds"])
        if (one := here["seconds"][split]) is not None and (other := level["seconds"][split])
    ]
    return Line(
        entry=entry,
        figures={key: over_splits(list(here[key].values())) for key in FIGURES},
        gains={key: paired(here[key], level[key]) for key in FIGURES},
        splits=len(here["linear.all"]),
        seconds=None if seconds is None else seconds.mean,
        cost=sum(one for one, _ in ratios) / sum(other for _, other in ratios) if ratios else None,
    )


def _differences(lines: Sequence[Line], baseline: Entry) -> Table:
    most = max((gain.pairs for line in lines for gain in line.gains.values() if gain is not None), default=0)
    few = f" With {most} splits, the standard error itself is uncertain." if 1 < most < 5 else ""
    return Table(
        title=f"Difference to {baseline.label}, split by split",
        columns=("Method", *(_called(key) for key in _SHOWN), "Splits"),
        rows=tuple(
            (
                f"{line.entry.label} {MINUS} {baseline.label}",
                *(_gain_text(line.gains[key]) for key in _SHOWN),
                str(max((gain.pairs for gain in line.gains.values() if gain is not None), default=0)),
            )
            for line in lines
        ),
        note="In percentage points: mean ± standard error of the differences within each split, which shares its class "
        f"order, images and seed. A lower Std is more even.{few}",
    )


def _headings(probe: Probe) -> list[str]:
    return [MEASURES[measure] for measure in _measures(probe)]


def _cells(line: Line, probe: Probe) -> list[str]:
    return [figure_text(line.figures[cast("SortKey", f"{probe}.{measure}")]) for measure in _measures(probe)]


def _measures(probe: Probe) -> list[Measure]:
    return [cast("Measure", key.split(".")[1]) for key in FIGURES if key.split(".")[0] == probe]


def _called(key: SortKey) -> str:
    if key == "seconds":
        return "time"
    probe, measure = key.split(".")
    return f"{_PROBES[cast('Probe', probe)]} {MEASURES[cast('Measure', measure)]}"


def _gain_text(gain: Gain | None) -> str:
    return signed_text(None if gain is None else Reported(gain.mean, gain.error))


def _flat(line: Line) -> dict[str, Any]:
    row: dict[str, Any] = {
        "method": line.entry.label,
        "cell": str(line.entry.cell),
        "oracle": line.entry.cell.oracle,
        "splits": line.splits,
    }
    for key, figure in line.figures.items():
        gain, name = line.gains[key], key.replace(".", "_")
        row[f"{name}_mean"], row[f"{name}_std"] = figure or (None, None)
        row[f"{name}_difference"], row[f"{name}_difference_error"], row[f"{name}_pairs"] = gain or (None, None, 0)
    return row | {"seconds": line.seconds, "relative_seconds": line.cost}
