"""Tables of measurements on a GPU, and targets that several sections share."""

from collections.abc import Mapping

from gpu_host import Activity
from speed_harness import Comparison, Table, Target, quartiles

PAIRS = 15_000
"""Target for an H100-class GPU in pairs of views per second."""

Cell = str | float


def pairs_table(found: Comparison, batch: int) -> Table:
    """Pairs of views per second."""
    rows = [(name, batch / found.median(name)) for name in found.samples]
    return Table(title="Pairs a second", note="Of the median step.", heading=("", "pairs a second"), rows=rows)


def memory_table(title: str, note: str, peaks: Mapping[str, int | None]) -> Table:
    rows = [(name, mebibytes(peak)) for name, peak in peaks.items()]
    return Table(title=title, note=note, heading=("a step", "peak MiB"), rows=rows)


def kernel_table(name: str, seen: Activity) -> Table:
    """Time of each kernel in a step."""
    rows = [(f"`{kernel}`", often, 1000 * taken, 100 * taken / seen.busy) for kernel, often, taken in seen.top]
    title = f"Kernels that take longest, {name}"
    return Table(title=title, note="By torch's profiler.", heading=("kernel", "a step", "ms", "% of all"), rows=rows)


def mebibytes(size: int | None) -> Cell:
    """Mebibytes; an empty cell if not measured."""
    return "" if size is None else size / 2**20


def at_least_pairs(what: str, found: Comparison, batch: int) -> Target:
    speeds = quartiles([batch / seconds for seconds in found.samples[found.ours]])
    label = f"Pairs a second, {found.ours}, {what}"
    return Target(what=label, limit=PAIRS, at_most=False, measured=speeds.median, quartiles=speeds)


def at_most_simclr(what: str, found: Comparison, peer: str = "SimCLR") -> Target:
    ratio = found.ratio(peer)
    label = f"Step time of SDCLR / SimCLR, {what}"
    return Target(what=label, limit=1.03, measured=ratio.median, quartiles=ratio)
