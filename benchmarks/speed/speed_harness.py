"""Measurement and report of speed: interleaved rounds, medians, ratios with quartiles, Markdown tables."""

import gc
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

Unit = Literal["s", "/s"]


@dataclass(frozen=True)
class Candidate:
    """One of the compared implementations."""

    name: str
    call: Callable[[], object]
    units: int = 1
    """Number of items per call."""
    prepare: Callable[[], object] | None = None
    """Called before each timed call; not timed itself."""


@dataclass(frozen=True, kw_only=True)
class Effort:
    """Stop after `rounds`, or after `seconds` with at least three rounds."""

    rounds: int
    seconds: float
    warmup: int = 1
    """Rounds before these that do not count, because the allocator needs several steps."""


class Quartiles(NamedTuple):
    low: float
    median: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Interleaved timings of several implementations; the first is ours."""

    title: str
    note: str
    unit: Unit
    """Seconds per item, or items per second."""
    samples: dict[str, list[float]]
    """One value per round for each candidate, in `unit`."""

    @property
    def ours(self) -> str:
        return next(iter(self.samples))

    def median(self, name: str) -> float:
        return statistics.median(self.samples[name])

    def ratio(self, name: str, *, of: str | None = None) -> Quartiles:
        """Ratio of ours (or the candidate `of`) to another, per round, so that slow rounds cancel out."""
        pairs = zip(self.samples[of or self.ours], self.samples[name], strict=True)
        return quartiles([mine / other for mine, other in pairs])

    def table(self) -> str:
        heading = "seconds" if self.unit == "s" else "per second"
        rows = []
        for name, values in self.samples.items():
            ratio = "" if name == self.ours else spread(self.ratio(name))
            rows.append((name, number(self.median(name)), ratio, len(values)))
        return markdown(("", heading, "first / this (quartiles)", "rounds"), rows)


@dataclass(frozen=True, kw_only=True)
class Target:
    """A target, and its measurement."""

    what: str
    limit: float
    at_most: bool = True
    measured: float
    quartiles: Quartiles | None = None

    @property
    def met(self) -> bool:
        return self.measured <= self.limit if self.at_most else self.measured >= self.limit

    def row(self) -> tuple[str, str, str, str]:
        sign = "≤" if self.at_most else "≥"
        shown = spread(self.quartiles) if self.quartiles else number(self.measured)
        return self.what, f"{sign} {number(self.limit)}", shown, "yes" if self.met else "**no**"


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table other than a comparison of timings: shares of time, memory, growth of cost."""

    title: str
    note: str
    heading: Sequence[str]
    rows: Sequence[Sequence[str | float]]

    def table(self) -> str:
        shown = [[cell if isinstance(cell, str) else number(cell) for cell in row] for row in self.rows]
        return markdown(self.heading, shown)


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Results of one part of the suite."""

    targets: Sequence[Target] = ()
    comparisons: Sequence[Comparison] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[str] = ()
    """Names of pictures next to the report."""

    def markdown(self) -> str:
        """All results except the targets, which are at the top of a report."""
        told = [f"### {part.title}\n\n{part.note}\n\n{part.table()}" for part in (*self.comparisons, *self.tables)]
        return "\n\n".join([*told, *(f"![{name}]({name})" for name in self.figures)])

    def json(self) -> dict[str, Any]:
        return {
            "targets": [asdict(target) | {"met": target.met} for target in self.targets],
            "comparisons": [asdict(comparison) for comparison in self.comparisons],
            "tables": [asdict(table) for table in self.tables],
            "figures": list(self.figures),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Findings":
        """The inverse of `json`, from the contents of a file."""
        return cls(
            targets=[_target(target) for target in values["targets"]],
            comparisons=[Comparison(**comparison) for comparison in values["comparisons"]],
            tables=[Table(**table) for table in values["tables"]],
            figures=values["figures"],
        )


def _target(values: Mapping[str, Any]) -> Target:
    given = {name: value for name, value in values.items() if name != "met"}
    if given["quartiles"] is not None:
        given["quartiles"] = Quartiles(*given["quartiles"])
    return Target(**given)


def compare(  # noqa: PLR0917  the contents of every table
    title: str,
    note: str,
    unit: Unit,
    candidates: Sequence[Candidate],
    effort: Effort,
    clock: Callable[[], float] | None = None,
) -> Comparison:
    """Time the candidates alternately, A-B-A-B, after rounds that do not count.

    The clock is `time.perf_counter` by default. On a busy machine `time.process_time` with one thread is more reliable.
    """
    clock = clock or time.perf_counter
    seconds: dict[str, list[float]] = {candidate.name: [] for candidate in candidates}
    for candidate in [*candidates] * effort.warmup:
        _timed(candidate, clock)
    gc.collect()
    gc.disable()  # a collection would affect the candidate that is running
    try:
        start, done = time.perf_counter(), 0
        while done < effort.rounds and (done < 3 or time.perf_counter() - start < effort.seconds):
            for candidate in candidates:
                seconds[candidate.name].append(_timed(candidate, clock) / candidate.units)
            done += 1
    finally:
        gc.enable()
    if unit == "/s":
        return Comparison(title, note, unit, {name: [1 / value for value in taken] for name, taken in seconds.items()})
    return Comparison(title, note, unit, seconds)


def _timed(candidate: Candidate, clock: Callable[[], float]) -> float:
    if candidate.prepare is not None:
        candidate.prepare()
    start = clock()
    candidate.call()
    return clock() - start


def quartiles(values: Sequence[float]) -> Quartiles:
    """Quartiles of the values; a single value is used for all three."""
    if len(values) == 1:
        return Quartiles(values[0], values[0], values[0])
    return Quartiles(*statistics.quantiles(values, n=4, method="inclusive"))


def number(value: float) -> str:
    """A number with three significant digits."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def spread(values: Quartiles) -> str:
    low, median, high = (f"{value:.3f}" if value < 10 else number(value) for value in values)
    return f"{median} ({low} to {high})"


def markdown(heading: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table with text in the first column and numbers in the others."""
    lines = [heading, ["---"] + ["---:"] * (len(heading) - 1), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)
