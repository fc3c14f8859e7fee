"""Tables of the comparison of selection methods in Markdown, and the result of its rule (`selection_pretrained.py`)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sdclr.reporting.tables import Table

Row = dict[str, Any]

HEADINGS = {
    "all": "All",
    "few": "Few",
    "mean": "Mean",
    "nn": "1-NN",
    "classes": "classes",
    "recall": "recall %",
}
RANDOM = "random"
FLOORS = ("few", "classes")
"""Measures in which the default must not be below random."""

LATER = "mixed"
"""The method that was added after results were known, so the rule does not count it."""
JUDGE = "cifar10"
"""The collection that decides on it, whose results were not known."""

FAMILIES = ("coverage", "kinds")
"""Prefixes of the names of variants; the library keeps one of each family."""


def ways(rows: Sequence[Row]) -> list[str]:
    """Names in order."""
    return list(dict.fromkeys(row["way"] for row in rows))


def overall(rows: Sequence[Row], key: str, way: str) -> float:
    """A measure, averaged over cases, then budgets, then collections."""
    return float(np.mean([np.mean(_by_budget(rows, key, way, name)) for name in _collections(rows)]))


def _by_budget(rows: Sequence[Row], key: str, way: str, collection: str) -> list[float]:
    own = [row for row in rows if row["way"] == way and row["collection"] == collection]
    return [
        float(np.mean([row[key] for row in own if row["per_class"] == budget]))
        for budget in dict.fromkeys(row["per_class"] for row in own)
    ]


def _collections(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["collection"] for row in rows))


def eligible(rows: Sequence[Row]) -> list[str]:
    """Methods that are not below random in the measures of `FLOORS`."""
    return [
        way for way in ways(rows) if all(overall(rows, key, way) >= overall(rows, key, RANDOM) - 1e-9 for key in FLOORS)
    ]


def winner(rows: Sequence[Row], names: Sequence[str] | None = None) -> str:
    """The eligible method with the largest All, optionally among given names. If none is eligible, all count."""
    names = [way for way in ways(rows) if way != LATER] if names is None else names
    allowed = [way for way in names if way in eligible(rows)] or list(names)
    return max(allowed, key=lambda way: overall(rows, "all", way))


def difference(rows: Sequence[Row], way: str, other: str, key: str, collection: str) -> tuple[float, float]:
    """Mean and standard error over cases of the paired difference, each case averaged over budgets."""
    cells = {
        (row["case"], row["per_class"], row["way"]): row[key]
        for row in rows
        if row["collection"] == collection and row["way"] in {way, other}
    }
    cases = list(dict.fromkeys(case for case, _, _ in cells))
    budgets = list(dict.fromkeys(budget for _, budget, _ in cells))
    gaps = [np.mean([cells[case, b, way] - cells[case, b, other] for b in budgets]) for case in cases]
    error = float(np.std(gaps, ddof=1) / np.sqrt(len(gaps))) if len(gaps) > 1 else float("nan")
    return float(np.mean(gaps)), error


def confirmed(rows: Sequence[Row]) -> bool:
    """Whether the later method replaces the rule's choice, by the deciding collection alone."""
    own = [row for row in rows if row["collection"] == JUDGE]
    choice = winner(rows)
    gap, error = difference(own, LATER, choice, "all", JUDGE)
    few, _ = difference(own, LATER, choice, "few", JUDGE)
    return gap >= -error and few > 0 and LATER in eligible(own)


def mean_rank(rows: Sequence[Row], way: str) -> float:
    """Mean rank by All over collections and budgets; 1 is the best."""
    places = []
    for collection in _collections(rows):
        table = np.array([_by_budget(rows, "all", name, collection) for name in ways(rows)])
        places.append((-table).argsort(axis=0).argsort(axis=0)[ways(rows).index(way)] + 1)
    return float(np.mean(places))


def overall_table(rows: Sequence[Row]) -> Table:
    """Means of each method over all cases."""
    lines = []
    allowed = eligible(rows)
    for way in ways(rows):
        cells = [f"{overall(rows, key, way):.2f}" for key in HEADINGS]
        lines.append((way, *cells, f"{mean_rank(rows, way):.1f}", "yes" if way in allowed else "no"))
    best = winner(rows)
    note = f"The rule's choice: {best}."
    if any(row["way"] == LATER and row["collection"] == JUDGE for row in rows):
        gaps = [difference(rows, LATER, best, key, JUDGE) for key in ("all", "few")]
        told = " and ".join(
            f"{gap:+.1f} ± {error:.1f} in {key}" for key, (gap, error) in zip(("All", "Few"), gaps, strict=True)
        )
        note += f" On {JUDGE}, {LATER} differs from it by {told}"
        if confirmed(rows):
            best, note = LATER, f"{note}: {LATER} takes its place."
        else:
            note += f", so {best} stays the choice."
    for family in FAMILIES:
        members = [way for way in ways(rows) if way.startswith(family)]
        if members:
            note += f" Of {family}: {winner(rows, members)}."
    return Table(
        "Mean over budgets and collections",
        ("method", *HEADINGS.values(), "mean rank", "not below random"),
        tuple(lines),
        note,
        frozenset({(ways(rows).index(best), 0)}),
    )


def difference_table(rows: Sequence[Row]) -> Table:
    """Differences from random by collection."""
    names = _collections(rows)
    heading = tuple(f"{HEADINGS[key]}, {name}" for key in ("all", "few") for name in names)
    lines = []
    for way in ways(rows):
        if way != RANDOM:
            gaps = [difference(rows, way, RANDOM, key, name) for key in ("all", "few") for name in names]
            lines.append((way, *(f"{mean:+.1f} ± {error:.1f}" for mean, error in gaps)))
    note = "Each case is averaged over budgets; ± is the standard error over cases."
    return Table("Paired difference from random", ("method", *heading), tuple(lines), note)


def budget_tables(rows: Sequence[Row]) -> list[Table]:
    """One table per collection, with each method at each budget."""
    found = []
    for collection in _collections(rows):
        own = [row for row in rows if row["collection"] == collection]
        budgets = list(dict.fromkeys(row["per_class"] for row in own))
        heading = tuple(f"{HEADINGS[key]}, {budget}" for key in ("all", "few", "classes") for budget in budgets)
        lines = []
        for way in ways(own):
            cells = []
            for key in ("all", "few", "classes"):
                for budget in budgets:
                    values = [row[key] for row in own if row["way"] == way and row["per_class"] == budget]
                    cells.append(_spread(values))
            lines.append((way, *cells))
        count = len({row["case"] for row in own})
        kinds = sorted({row["kinds"] for row in own})
        note = f"Mean ± deviation over {count} cases; {_span(kinds)} kinds were found. Columns give labels per class."
        found.append(Table(collection, ("method", *heading), tuple(lines), note))
    return found


def _spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.1f}" + (f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else "")


def _span(values: Sequence[int]) -> str:
    return f"{values[0]}" if values[0] == values[-1] else f"{values[0]} to {values[-1]}"


def markdown(rows: Sequence[Row]) -> str:
    """All tables."""
    return "\n".join(table.markdown() for table in (overall_table(rows), difference_table(rows), *budget_tables(rows)))
