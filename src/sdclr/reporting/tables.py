"""Tables of accuracy by class group, as Markdown and for the terminal."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.table import Table as RichTable
from rich.text import Text

from sdclr.errors import InputError
from sdclr.evaluation.balance import Balance, Summary, summarize
from sdclr.evaluation.evaluate import Result
from sdclr.visible import visible

ScoreName = Literal["linear", "few_shot", "knn"]

COLUMNS: tuple[tuple[str, str], ...] = (
    ("many", "Many"),
    ("medium", "Medium"),
    ("few", "Few"),
    ("std", "Std"),
    ("all", "All"),
)
"""Fields of a `Balance` and their column names, in the order of the paper's tables."""

UNKNOWN = "\u2013"
_MARKDOWN_SYNTAX = re.compile(r"([\\`*|<\[])")


@dataclass(frozen=True)
class Table:
    """A table of text: row names in the first column, values in the others."""

    title: str
    """Title above the table."""
    columns: tuple[str, ...]
    """Names of the columns."""
    rows: tuple[tuple[str, ...], ...]
    """One text per column."""
    note: str = ""
    """Explanation below the table."""
    best: frozenset[tuple[int, int]] = frozenset()
    """(row, column) of the cells to emphasize."""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise InputError(
                    f"table {self.title!r}: the row {row} has {len(row)} cells for {len(self.columns)} columns"
                )

    def markdown(self) -> str:
        """Title, pipe table with aligned columns, and note; the best cells are bold."""
        header = [_escaped(name) for name in self.columns]
        body = [
            [f"**{_escaped(cell)}**" if (y, x) in self.best else _escaped(cell) for x, cell in enumerate(row)]
            for y, row in enumerate(self.rows)
        ]
        widths = [max(3, *(cell_len(cell) for cell in column)) for column in zip(header, *body, strict=True)]
        rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
        lines = [_aligned(header, widths), f"| {' | '.join(rule)} |", *(_aligned(row, widths) for row in body)]
        title = f"**{_escaped(self.title)}**" if self.title else ""
        return "\n\n".join(part for part in (title, "\n".join(lines), _escaped(self.note)) if part) + "\n"

    def rich(self) -> RichTable:
        """The table for the terminal."""
        # Text objects, since strings in square brackets are markup. Compact: six columns fit in 80 characters.
        table = RichTable(
            title=Text(visible(self.title)) if self.title else None,
            caption=Text(visible(self.note)) if self.note else None,
            box=SIMPLE_HEAD,
        )
        for number, name in enumerate(self.columns):
            table.add_column(Text(visible(name)), justify="right" if number else "left", no_wrap=number > 0)
        for y, row in enumerate(self.rows):
            cells = [row[0], *(cell.replace(" ± ", "±") for cell in row[1:])]
            table.add_row(
                *(Text(visible(cell), style="bold" if (y, x) in self.best else "") for x, cell in enumerate(cells))
            )
        return table


def balance_table(results: Mapping[str, Sequence[Balance]], *, title: str = "Accuracy by group of classes") -> Table:
    """Many, Medium, Few, Std and All of each method, as `mean ± deviation` over its splits.

    The deviation is the sample standard deviation, as in `summarize`; a single split has none. With two or more
    methods, the highest mean of each column is the best (for Std, the lowest). Equal printed values are ties.

    Args:
        results: The splits (class orders) of each method, in percent.
        title: Title of the table.

    Returns:
        One row per method; unknown values are dashes.

    Raises:
        InputError: There is no method, or a method has no splits.
    """
    if not results:
        raise InputError("no results to tabulate: give the balance of at least one method")
    summaries = {label: summarize(splits) for label, splits in results.items()}
    rows = tuple((label, *(_figure(summary, field) for field, _ in COLUMNS)) for label, summary in summaries.items())
    best = frozenset(
        (row, column) for column, (field, _) in enumerate(COLUMNS, start=1) for row in _best(summaries, field)
    )
    return Table(
        title=title,
        columns=("Method", *(name for _, name in COLUMNS)),
        rows=rows,
        note=_note([summary.splits for summary in summaries.values()], stressed=bool(best)),
        best=best,
    )


def balances(
    results: Mapping[str, Sequence[Result | Mapping[str, Any]]], score: ScoreName = "linear"
) -> dict[str, list[Balance]]:
    """Extract one classifier's balance from evaluations, for `balance_table` and `group_bars`.

    Args:
        results: The evaluations of each method: results, or the JSON that `evaluate` wrote into the run.
        score: Linear probe, few-shot probe or kNN.

    Returns:
        The splits of each method.

    Raises:
        InputError: An entry is not an evaluation.
    """
    return {label: [_balance(result, score, label) for result in splits] for label, splits in results.items()}


def _balance(result: Result | Mapping[str, Any], score: ScoreName, label: str) -> Balance:
    if isinstance(result, Result):
        found: Balance = getattr(result, score).balance
        return found
    try:
        return Balance.from_json(result[score]["balance"])
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{label} is not an evaluation with a {score!r} score ({error!r}); give an output of `sdclr evaluate`"
        ) from error


def _figure(summary: Summary, field: str) -> str:
    mean, deviation = getattr(summary.mean, field), getattr(summary.std, field)
    if math.isnan(mean):
        return UNKNOWN
    return f"{mean:.2f}" if math.isnan(deviation) else f"{mean:.2f} ± {deviation:.2f}"


def _best(summaries: Mapping[str, Summary], field: str) -> list[int]:
    """The rows with the best printed mean; none if fewer than two means are known."""
    means = [round(getattr(summary.mean, field), 2) for summary in summaries.values()]
    known = [mean for mean in means if not math.isnan(mean)]
    if len(known) < 2:
        return []
    best = min(known) if field == "std" else max(known)
    return [row for row, mean in enumerate(means) if mean == best]


def _note(splits: Sequence[int], *, stressed: bool) -> str:
    fewest, most = min(splits), max(splits)
    count = f"{most}" if fewest == most else f"{fewest} to {most}"
    figures = f"mean ± sample standard deviation over {count} splits" if most > 1 else "one split"
    note = (
        f"Accuracy in percent, {figures}. Std is the population standard deviation of Many, Medium and Few within a "
        "split: the lower, the more even."
    )
    return f"{note} Bold marks the best mean; it says nothing about significance." if stressed else note


def _escaped(text: str) -> str:
    return _MARKDOWN_SYNTAX.sub(r"\\\1", visible(" ".join(text.split())))


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    padding = [" " * (width - cell_len(cell)) for cell, width in zip(cells, widths, strict=True)]
    first, *others = zip(cells, padding, strict=True)
    return f"| {' | '.join([first[0] + first[1], *(pad + cell for cell, pad in others)])} |"
