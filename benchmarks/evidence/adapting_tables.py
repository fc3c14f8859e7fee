"""Tables of adapting.py, from its records, without training."""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from judge import spread

TABLES: Final = Path("docs/results/adapting_tables.md")
LEADERBOARD: Final = Path("docs/results/leaderboard.md")
BEGIN, END = "<!-- adapted -->\n", "<!-- end -->\n"
NAMES: Final = {"cifar": "CIFAR-10-LT", "clothing": "Clothing photos", "emoji": "Emoji"}
FEW_LABELS: Final = (1, 5, 50)
COLUMNS: Final = (
    "All", "Many", "Medium", "Few", "Std", *(f"{n} labels" for n in FEW_LABELS), "AUROC distance", "AUROC mine",
    "other set", "validation",
)  # fmt: skip
LEADING: Final = {"Linear All": "All", "Linear Few": "Few", "5 labels": "5 labels", "AUROC rare": "AUROC distance"}
SIMCLR: Final = ("SimCLR", "SimCLR, another seed", "SimCLR, another order")
"""Runs of plain SimCLR, which differ in nothing but random numbers. Their mean is the baseline of each seed."""
LARGER: Final = ", 128 px"
"""Ends the names of the arms of a larger size, which are compared with each other alone."""
MACHINES: Final = (
    frozenset({"b727eb8", "0bda2bd", "5b6535e", "794f05f", "57c3c21", "264db04"}),
    frozenset({"2e1e057"}),
    frozenset({"568a160", "f03c07f", "5b75e16", "e1b7a92"}),
)
"""Commits of the runs on each machine. Only costs on the same machine can be compared."""


class Cells:
    """The records of one collection by arm and seed."""

    def __init__(self, found: Sequence[dict[str, Any]], collection: str, arms: Iterable[str]) -> None:
        self._cells = {(one["arm"], one["seed"]): one for one in found if one["collection"] == collection}
        self.arms = [arm for arm in arms if self.seeds(arm)]

    def seeds(self, arm: str) -> list[int]:
        return sorted(seed for one, seed in self._cells if one == arm)

    def values(self, arm: str, column: str) -> list[float]:
        """One value for each seed of the arm."""
        return [self._cells[arm, seed][column] for seed in self.seeds(arm)]

    def gains(self, arm: str, base: Sequence[str], column: str) -> list[float]:
        """The differences to the mean of the base's runs of the same seed, where there are any."""
        found = []
        for seed in self.seeds(arm):
            runs = [self._cells[one, seed][column] for one in base if (one, seed) in self._cells]
            if runs:
                found.append(self._cells[arm, seed][column] - float(np.mean(runs)))
        return found

    def noise(self, column: str) -> float:
        """Standard deviation between the runs of SimCLR with the same seed."""
        squares, freedom = 0.0, 0
        for seed in self.seeds("SimCLR"):
            runs = np.array([self._cells[one, seed][column] for one in SIMCLR if (one, seed) in self._cells])
            squares += float(((runs - runs.mean()) ** 2).sum())
            freedom += len(runs) - 1
        return (squares / freedom) ** 0.5 if freedom else float("nan")

    def costs(self, arm: str) -> Iterator[float]:
        """Processor time relative to SimCLR, on each machine with runs of both."""
        for commits in MACHINES:
            own, base = (self._longest(arms, commits) for arms in ((arm,), SIMCLR))
            if own is not None and base:
                yield own / base

    def _longest(self, arms: Sequence[str], commits: Container[str]) -> float | None:
        """Processor time in seconds of the longest run: one that was resumed has lost a part of it."""
        runs = (self._cells[arm, seed] for arm in arms for seed in self.seeds(arm))
        return max((run["cpu_seconds"] for run in runs if run["commit"] in commits), default=None)


def write(found: Sequence[dict[str, Any]], arms: Sequence[str]) -> None:
    """Write the page of all tables, and those of the leaderboard."""
    cells = {name: Cells(found, name, arms) for name in NAMES}
    cells = {name: one for name, one in cells.items() if one.arms}
    TABLES.write_text("\n".join(line for name, one in cells.items() for line in tables(NAMES[name], one)) + "\n")
    before, _, rest = LEADERBOARD.read_text().partition(BEGIN)
    costs = {arm: max((cost for one in cells.values() for cost in one.costs(arm)), default=None) for arm in arms}
    lines = [line for name, one in cells.items() for line in leading(NAMES[name], one, costs)]
    LEADERBOARD.write_text(before + BEGIN + "\n".join(lines) + "\n\n" + END + rest.partition(END)[2])


def tables(title: str, cells: Cells) -> Iterator[str]:
    """Every arm, and its differences to the frozen encoder and to SimCLR, in all columns."""
    yield f"### {title}\n"
    yield from rows(cells, cells.arms, None)
    yield "\nDifference to the frozen encoder of the same seed:\n"
    small = [arm for arm in cells.arms if not arm.endswith(LARGER)]
    yield from rows(cells, [arm for arm in small if arm != "frozen"], ("frozen",))
    gains = {column: [-loss for loss in cells.gains("frozen", SIMCLR, column)] for column in COLUMNS}
    yield row("SimCLR, mean of the runs of each seed", gains, signed=True)
    if cells.seeds(f"SimCLR{LARGER}"):
        yield f"\nDifference to the frozen encoder of the same seed{LARGER}:\n"
        yield from rows(cells, [f"SimCLR{LARGER}"], (f"frozen{LARGER}",))
    yield "\nDifference to the mean of the SimCLR runs of the same seed (up to three):\n"
    yield from rows(cells, [arm for arm in small if arm not in {"frozen", *SIMCLR}], SIMCLR)
    noise = (f"{column} {cells.noise(column):.{3 if 'AUROC' in column else 1}f}" for column in COLUMNS)
    yield f"\nStandard deviation between SimCLR runs of the same seed: {', '.join(noise)}.\n"


def rows(cells: Cells, arms: Sequence[str], base: Sequence[str] | None) -> Iterator[str]:
    """A table of the arms, or of their differences to a base."""
    yield f"| arm | seeds | {' | '.join(COLUMNS)} | All of each seed |"
    yield f"|---|---|{'---|' * len(COLUMNS)}---|"
    for arm in arms:
        found = {c: cells.values(arm, c) if base is None else cells.gains(arm, base, c) for c in COLUMNS}
        if found["All"]:
            yield row(arm, found, signed=base is not None)


def row(name: str, found: Mapping[str, Sequence[float]], *, signed: bool) -> str:
    """A row of such a table, from one value for each column and seed."""
    told = (spread(found[column], column, signed=signed) for column in COLUMNS)
    each = ", ".join(f"{one:{'+' if signed else ''}.1f}" for one in found["All"])
    return f"| {name} | {len(found['All'])} | {' | '.join(told)} | {each} |"


def leading(title: str, cells: Cells, costs: Mapping[str, float | None]) -> Iterator[str]:
    """The table of the leaderboard: each arm, its difference to SimCLR, and its cost relative to SimCLR."""
    yield f"\n{title}:\n\n| Method | Runs | {' | '.join(LEADING)} | Cost |"
    yield f"|---|---:|{'---:|' * len(LEADING)}---:|"
    for arm in cells.arms:
        row = []
        for column in LEADING.values():
            gains = [] if arm in SIMCLR or arm.endswith(LARGER) else cells.gains(arm, SIMCLR, column)
            text = spread(cells.values(arm, column), column)
            row.append(f"{text} ({spread(gains, column, signed=True)})" if gains else text)
        cost = costs[arm]
        row.append("\N{EN DASH}" if cost is None else f"{cost:.1f}")
        yield f"| {arm} | {len(cells.seeds(arm))} | {' | '.join(row)} |".replace("-", "\N{MINUS SIGN}")
