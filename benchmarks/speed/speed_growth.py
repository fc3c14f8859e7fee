"""Growth of time and memory with the number of images, the batch size and the number of weights.

    python benchmarks/speed/speed_growth.py [--out DIR] [--quick] [--threads 2]

measures all parts, prints a table and writes a figure to DIR. Each part has an expected exponent e of N^e: 1 is linear
growth, 0 is none. Each point is measured in a separate process,

    python benchmarks/speed/speed_growth.py --part masks 1000000 [--threads 2]

which prints JSON. Memory is read from `/proc`, so the script needs Linux.
"""

import argparse
import contextlib
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, NullFormatter, StrMethodFormatter

from sdclr.encoders import EncoderConfig, create_encoder
from sdclr.evaluation.knn import knn_predict
from sdclr.features.extract import encode_images
from sdclr.loading.batches import ResidentLoader
from sdclr.method.pruning import magnitude_masks
from sdclr.reporting.figures import INK, PALETTE, save_figure
from sdclr.views.config import ViewConfig
from speed_harness import Findings, Table, Target, number

EACH_POINT = "Growth, each point"

Part = Literal["views", "features", "knn", "masks", "tiled", "dense"]

STATUS, PEAK_RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
MIB = 2**20
TOLERANCE = 0.2
"""Maximum excess of a fitted exponent over the expected one, because of noise. Constant costs only lower the
exponent."""


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """Title and expected growth of a part."""

    title: str
    of: str
    """Unit of N."""
    time: int
    memory: int


EXPECTED: dict[Part, Expectation] = {
    "views": Expectation(title="Two views of every image, 32 px", of="images", time=1, memory=0),
    "features": Expectation(title="Features of a ResNet-18 of width 16, 32 px", of="images", time=1, memory=1),
    "knn": Expectation(title="kNN against 20,000 images of 128 features", of="queries", time=1, memory=0),
    "masks": Expectation(title="Mask refresh", of="weights", time=1, memory=1),
    "tiled": Expectation(title="NT-Xent in tiles, D = 128", of="batch", time=2, memory=1),
    "dense": Expectation(title="NT-Xent, the full matrix, D = 128", of="batch", time=2, memory=2),
}

Plan = Mapping[Part, Sequence[int]]
"""The values of N of each part, ascending."""

THOROUGH: Plan = {
    "views": (2_000, 8_000, 32_000),
    "features": (512, 2_048, 8_192),
    "knn": (2_000, 10_000, 50_000),
    "masks": (100_000, 1_000_000, 10_000_000, 40_000_000),
    "tiled": (1_024, 2_048, 4_096, 8_192, 16_384),
    "dense": (1_024, 2_048, 4_096, 8_192),
}
QUICK: Plan = {
    "views": (2_000, 16_000),
    "features": (512, 2_048),
    "knn": (2_000, 10_000),
    "masks": (1_000_000, 10_000_000),
    "tiled": (1_024, 4_096),
    "dense": (1_024, 4_096),
}


@dataclass(frozen=True, kw_only=True)
class Point:
    """Costs at one value of N."""

    n: int
    seconds: float
    peak: int
    """Peak memory in bytes, minus that of the process with only its inputs."""


@dataclass(frozen=True)
class Curve:
    """Costs of a part at several N."""

    part: Part
    points: Sequence[Point]

    @property
    def expected(self) -> Expectation:
        return EXPECTED[self.part]

    @property
    def time(self) -> float:
        """The fitted exponent of the seconds."""
        return self._exponent([point.seconds for point in self.points])

    @property
    def memory(self) -> float:
        """The fitted exponent of the peak memory."""
        return self._exponent([point.peak for point in self.points])

    def _exponent(self, costs: Sequence[float]) -> float:
        """Slope of the least-squares line through log cost against log N."""
        logarithms = np.log([point.n for point in self.points])
        return float(np.polyfit(logarithms, np.log(np.maximum(costs, 1e-9)), 1)[0])


@dataclass(frozen=True)
class Growth:
    """Curves of all parts."""

    curves: Sequence[Curve]

    def table(self) -> Table:
        rows = []
        for curve in self.curves:
            first, last, expected = curve.points[0], curve.points[-1], curve.expected
            rows.append(
                (
                    expected.title,
                    f"{first.n:,} to {last.n:,} {expected.of}",
                    f"{number(first.seconds)} to {number(last.seconds)}",
                    f"{curve.time:.2f} ({expected.time})",
                    f"{number(first.peak / MIB)} to {number(last.peak / MIB)}",
                    f"{curve.memory:.2f} ({expected.memory})",
                )
            )
        return Table(title="Growth", note=_NOTE, heading=_HEADING, rows=rows)

    def targets(self) -> list[Target]:
        found = []
        for curve in self.curves:
            for what, fitted, expected in (
                ("time", curve.time, curve.expected.time),
                ("memory", curve.memory, curve.expected.memory),
            ):
                name = f"Exponent of {what} over {curve.expected.of}: {curve.expected.title}"
                found.append(Target(what=name, limit=expected + TOLERANCE, measured=fitted))
        return found

    def figure(self) -> Figure:
        """Seconds and peak memory over N, both on logarithmic axes; dashes show the expected growth."""
        figure = Figure(figsize=(9.0, 4.6), layout="constrained", facecolor="none")
        panels = figure.subplots(1, 2)
        for axes, name, what in zip(panels, ("Seconds", "Peak memory / MiB"), ("time", "memory"), strict=True):
            _prepare(axes, name)
            for curve, color in zip(self.curves, PALETTE, strict=False):
                ns = np.array([point.n for point in curve.points], dtype=np.float64)
                costs = [point.seconds if what == "time" else point.peak / MIB for point in curve.points]
                axes.plot(ns, costs, ".-", color=color, linewidth=1.6, label=curve.expected.title)
                # Through the last point, where constant costs matter least.
                ideal = costs[-1] * (ns / ns[-1]) ** getattr(curve.expected, what)
                axes.plot(ns, ideal, "--", color=color, linewidth=0.8)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=2, frameon=False, labelcolor=INK)
        return figure

    def json(self) -> dict[str, Any]:
        return {
            curve.part: {
                "points": [asdict(point) for point in curve.points],
                "time": curve.time,
                "memory": curve.memory,
                "expected": asdict(curve.expected),
            }
            for curve in self.curves
        }

    @classmethod
    def from_points(cls, rows: Sequence[tuple[str, str, float, float]]) -> "Growth":
        """Growth from the rows of the table of single points: title, N, seconds, MiB."""
        parts = {expected.title: part for part, expected in EXPECTED.items()}
        points: dict[Part, list[Point]] = {}
        for title, n, seconds, peak in rows:
            point = Point(n=int(n.replace(",", "")), seconds=seconds, peak=round(peak * MIB))
            points.setdefault(parts[title], []).append(point)
        return cls([Curve(part, found) for part, found in points.items()])

    def findings(self, folder: Path) -> Findings:
        """Findings for the report. The figure is written to `folder`."""
        save_figure(self.figure(), folder / "growth")
        return Findings(targets=self.targets(), tables=[self.table(), *self._costs()], figures=["growth.svg"])

    def _costs(self) -> list[Table]:
        rows = [
            (curve.expected.title, f"{point.n:,}", point.seconds, point.peak / MIB)
            for curve in self.curves
            for point in curve.points
        ]
        return [Table(title=EACH_POINT, note=_POINTS, heading=("", "N", "seconds", "peak MiB"), rows=rows)]


_HEADING = ("", "N", "seconds", "exponent (expected)", "peak MiB", "exponent (expected)")
_NOTE = (
    "The exponent e of N^e, fitted by least squares to the logarithms over the given range of N, and the expected "
    "exponent. The exponent may be lower, because constant costs dominate for small N."
)
_POINTS = (
    "Each point in a separate process; memory above that of the process with its inputs, for the losses without inputs."
)


def grow(plan: Plan, *, threads: int = 1) -> Growth | None:
    """Run a plan. Returns None if the kernel does not report memory."""
    if not STATUS.exists():
        return None
    return Growth([Curve(part, [measure(part, n, threads=threads) for n in ns]) for part, ns in plan.items()])


def find_growth(plan: Plan, folder: Path, *, threads: int = 1) -> Findings:
    """Run a plan and write the figure to `folder`."""
    growth = grow(plan, threads=threads)
    return Findings() if growth is None else growth.findings(folder)


def measure(part: Part, n: int, *, threads: int = 1) -> Point:
    """Measure one point in a new process."""
    if part in {"tiled", "dense"}:
        from speed_loss import measure_loss  # noqa: PLC0415  # it imports all peers, which other parts do not need

        cost = measure_loss(part, n, threads=threads)
        return Point(n=n, seconds=cost.seconds, peak=cost.peak)
    command = [sys.executable, str(Path(__file__).resolve()), "--part", part, str(n), "--threads", str(threads)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return Point(**json.loads(output))


def measure_here(part: Part, n: int, *, rounds: int = 5, seconds: float = 3) -> Point:
    """Measure one point in this process. The first call is not timed; one more is enough if it takes long."""
    make = _MAKERS[part]
    make(_LEAST)()  # so that the first-time setup of libraries does not count
    call = make(n)
    with contextlib.suppress(OSError):  # if forbidden, the peak may be that of the imports
        PEAK_RESET.write_text("5")
    gc.collect()  # so that no earlier garbage is freed while the part runs
    before = _resident("VmRSS")
    call()
    taken: list[float] = []
    while not taken or (len(taken) < rounds and sum(taken) < seconds):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return Point(n=n, seconds=statistics.median(taken), peak=_resident("VmHWM") - before)


_LEAST = 512
"""N of the first call: one batch."""


def _make_views(n: int) -> Callable[[], object]:
    images = torch.randint(256, (n, 3, 32, 32), dtype=torch.uint8)
    loader = ResidentLoader(images, ViewConfig(), seed=0, batch_size=_LEAST)

    def epoch() -> None:
        for _ in loader.epoch(0):
            pass

    return epoch


def _make_features(n: int) -> Callable[[], object]:
    images = torch.randint(256, (n, 3, 32, 32), dtype=torch.uint8)
    encoder = create_encoder(EncoderConfig(name="resnet18", width=16), 32)
    return lambda: encode_images(encoder, images)


def _make_knn(n: int) -> Callable[[], object]:
    train, labels = torch.randn(20_000, 128), torch.randint(10, (20_000,))
    query = torch.randn(n, 128)
    return lambda: knn_predict(train, labels, query, 10)


def _make_masks(n: int) -> Callable[[], object]:
    weights = {"weight": torch.randn(n)}
    return lambda: magnitude_masks(weights, 0.9)


_MAKERS: dict[str, Callable[[int], Callable[[], object]]] = {
    "views": _make_views,
    "features": _make_features,
    "knn": _make_knn,
    "masks": _make_masks,
}


def _resident(field: str) -> int:
    """A memory size of this process in bytes."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return 1024 * int(line.split()[1])


def _prepare(axes: Axes, name: str) -> None:
    axes.set(xscale="log", yscale="log", xlabel="N", ylabel=name, facecolor="none")
    # Plain numbers, because the style of the reports cannot show powers of ten.
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_formatter(NullFormatter())
    axes.grid(color=INK, alpha=0.25, linewidth=0.8)
    axes.tick_params(which="both", colors=INK)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(INK)
    for side, spine in axes.spines.items():
        spine.set_color(INK)
        spine.set_visible(side in {"left", "bottom"})


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder of the figure and of growth.json")
    parser.add_argument("--quick", action="store_true", help="fewer and smaller N")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--part", nargs=2, metavar=("PART", "N"), help="measure this alone, in this process")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    if options.part:
        part, n = options.part
        print(json.dumps(asdict(measure_here(part, int(n)))))
        return
    growth = grow(QUICK if options.quick else THOROUGH, threads=options.threads)
    if growth is None:
        parser.error(f"memory is read from {STATUS}, which is not there: run it on Linux")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "growth.json").write_text(json.dumps(growth.json(), indent=1) + "\n")
    print(growth.findings(options.out).markdown())


if __name__ == "__main__":
    main()
