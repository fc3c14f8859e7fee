"""Measurements, section by section. The sections are independent and give targets, comparisons and tables."""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch._dynamo.utils import counters

from gpu_host import first_wait, host_seconds, profile_steps, waits_by_place
from gpu_runs import (
    PRECISIONS,
    TEMPERATURE,
    Arm,
    Compiled,
    Job,
    LightlySteps,
    PeakMemory,
    Steps,
    release,
    set_numerics,
    synchronize,
)
from gpu_tables import (
    PAIRS,
    Cell,
    at_least_pairs,
    at_most_simclr,
    kernel_table,
    mebibytes,
    memory_table,
    pairs_table,
)
from sdclr.data.scan import load_images
from sdclr.data.sources import SubsetSource, open_source
from sdclr.method import nt_xent
from sdclr.training.pretrain import pretrain
from sdclr.training.runtime import Runtime
from speed_harness import Candidate, Comparison, Effort, Findings, Table, Target, compare, quartiles

SDCLR, SIMCLR, THREE = Arm(name="SDCLR"), Arm(name="SimCLR", method="simclr"), Arm(name="three forwards", forwards=3)

RUNS: dict[str, dict[str, bool]] = {
    "bf16": {},
    "bf16, compiled": {"compile": True},
    "bf16, compiled, CUDA graphs": {"compile": True, "cuda_graphs": True},
}
"""Runtime options of `pretrain` for whole runs."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Sizes and durations of the measurements."""

    small: Job
    large: Job
    large_images: int
    images: int | None
    """Number of resident images; None for all."""
    steps: int
    """Steps between two readings of the clock."""
    effort: Effort
    product: int
    """Side of the matrices whose product gives the device's peak."""
    losses: tuple[int, ...]
    dim: int = 128
    profiled: int
    """Number of profiled steps."""
    epochs: int
    """Epochs of the whole runs. The first one is not counted."""
    runs: tuple[str, ...] = tuple(RUNS)
    """Names of the whole runs."""
    backend: str = "inductor"
    """Backend of torch.compile for the steps."""


@dataclass(frozen=True)
class Bench:
    """Device, plan and data of the measurements."""

    device: torch.device
    plan: Plan
    data: Path | None

    @cached_property
    def images(self) -> Tensor:
        """(N, 3, 32, 32) uint8 on the device: CIFAR-10's training images, or random ones."""
        count = self.plan.images
        if self.data is None:
            generator = torch.Generator().manual_seed(0)
            shape = (count or 50_000, 3, 32, 32)
            return torch.randint(256, shape, dtype=torch.uint8, generator=generator).to(self.device)
        source = open_source(self.data, split="train")
        return load_images(source if count is None else SubsetSource(source, range(count))).images.to(self.device)

    def build(self, *arms: Arm, job: Job | None = None, images: Tensor | None = None) -> list[Steps]:
        images = self.images if images is None else images
        return [Steps(arm, job or self.plan.small, images) for arm in arms]

    def compare(self, title: str, note: str, runs: Sequence[Steps], *, steps: int | None = None) -> Comparison:
        """Seconds per step."""
        count = steps or self.plan.steps
        return compare(title, note, "s", [run.candidate(count) for run in runs], self.plan.effort)


def steps_section(bench: Bench) -> Findings:
    """Whole uncompiled steps: SDCLR, SimCLR, three forward passes, lightly's parts; and the share of the peak."""
    job, runs = bench.plan.small, bench.build(SDCLR, SIMCLR, THREE)
    note = (
        f"Views drawn anew for every step from resident images, forward, backward, SGD; {job}; {PRECISIONS['bf16']}; "
        "channels_last; cuDNN's benchmark on."
    )
    if find_spec("lightly") is None:
        note += " lightly is not installed here: its step is absent."
    else:
        runs.append(LightlySteps(replace(SIMCLR, name="SimCLR of lightly's parts"), job, bench.images))
        note += " lightly's parts are its head and loss; encoder, views, layout and autocast are the same."
    found = bench.compare("Steps, eager", note, runs)
    targets = [at_least_pairs("eager", found, job.batch), at_most_simclr("eager", found)]
    tables = [pairs_table(found, job.batch), peak_table(bench, runs[0].flops(), found.median(SDCLR.name))]
    return Findings(targets=targets, comparisons=[found], tables=tables)


def peak_table(bench: Bench, flops: int, seconds: float) -> Table:
    """Operations per second in a step, compared with one large matrix product."""
    peak = product_peak(bench)
    side = bench.plan.product
    rows = [
        ("GFLOP a step, convolutions and products", flops / 1e9),
        ("TFLOP/s in a step", flops / seconds / 1e12),
        (f"TFLOP/s of a bfloat16 product of {side} x {side}", peak / 1e12),
        ("% of the latter", 100 * flops / seconds / peak),
    ]
    return Table(
        title="Share of the peak", note="Counted by torch.utils.flop_counter.", heading=("SDCLR", ""), rows=rows
    )


def product_peak(bench: Bench) -> float:
    """Operations per second of a large bfloat16 matrix product on random numbers."""
    side = bench.plan.product
    a, b = (torch.randn(side, side, device=bench.device, dtype=torch.bfloat16) for _ in range(2))

    def products() -> None:
        for _ in range(10):
            torch.mm(a, b)
        synchronize(bench.device)

    found = compare("product", "", "s", [Candidate("product", products, units=10)], Effort(rounds=7, seconds=5))
    return 2 * side**3 / found.median("product")


def precision_section(bench: Bench) -> Findings:
    """The same steps in other number formats, and without cuDNN's benchmark."""
    arms = [SDCLR]
    for precision in ("tf32", "float32"):
        arms += [replace(arm, name=f"{arm.name}, {precision}", precision=precision) for arm in (SDCLR, SIMCLR)]
    arms.append(replace(SDCLR, name="SDCLR, cuDNN's benchmark off", tuned=False))
    note = "; ".join(f"{name}: {meaning}" for name, meaning in PRECISIONS.items()) + ". bf16 where nothing is said."
    found = bench.compare("Number formats", note, bench.build(*arms))
    return Findings(comparisons=[found], tables=[pairs_table(found, bench.plan.small.batch)])


def views_section(bench: Bench) -> Findings:
    """Cost of the views in a step: steps that draw them, steps on one pair of views, and the drawing alone."""
    drawn, fixed = bench.build(SDCLR, replace(SDCLR, name="SDCLR on one pair of views", views="fixed"))
    count = bench.plan.steps

    def alone(run: Steps) -> Callable[[], None]:
        def draw() -> None:
            for _ in range(count):
                next(run.pairs)
            synchronize(bench.device)

        return draw

    candidates = [
        drawn.candidate(count),
        fixed.candidate(count),
        Candidate("views alone", alone(drawn), units=count, prepare=drawn.prepare),
    ]
    if bench.plan.backend == "inductor":
        compiled = bench.build(replace(SDCLR, compiled="default"))[0]
        candidates.append(Candidate("views alone, compiled", alone(compiled), units=count, prepare=drawn.prepare))
    found = compare(
        "Views in the step", "Seconds a batch; eager where nothing is said.", "s", candidates, bench.plan.effort
    )
    both = zip(found.samples[drawn.arm.name], found.samples[fixed.arm.name], strict=True)
    share = quartiles([1 - without / whole for whole, without in both])
    target = Target(what="Share of the views in a step, eager", limit=0.05, measured=share.median, quartiles=share)
    return Findings(targets=[target], comparisons=[found], tables=[pairs_table(found, bench.plan.small.batch)])


def loss_section(bench: Bench) -> Findings:
    """NT-Xent, tiled and dense, forward and backward: time and peak memory by batch."""
    rows: list[tuple[Cell, ...]] = []
    targets = []
    for n in bench.plan.losses:
        a, b = (torch.randn(n, bench.plan.dim, device=bench.device, requires_grad=True) for _ in range(2))
        for tiled in (False, True):
            measured = measure_loss(a, b, tiled=tiled, effort=bench.plan.effort)
            name = "tiled" if tiled else "dense"
            if measured is None:
                rows.append((name, n, "out of memory", "out of memory"))
                continue
            seconds, peak = measured
            rows.append((name, n, 1000 * seconds, mebibytes(peak)))
            if tiled and peak is not None and n == 32_768:
                targets.append(Target(what=f"Peak GiB of the tiled loss, N = {n:,}", limit=2, measured=peak / 2**30))
    note = (
        f"Forward and backward for two branches of N x {bench.plan.dim} float32 outputs. Peak memory is what comes on "
        "top of the outputs."
    )
    table = Table(title="NT-Xent", note=note, heading=("", "N", "ms", "peak MiB"), rows=rows)
    return Findings(targets=targets, tables=[table])


def measure_loss(a: Tensor, b: Tensor, *, tiled: bool, effort: Effort) -> tuple[float, int | None] | None:
    """Median seconds and peak bytes of loss and gradient; None if the device has too little memory."""

    def differentiate() -> None:
        a.grad = b.grad = None
        nt_xent(a, b, TEMPERATURE, tiled=tiled).backward()
        synchronize(a.device)

    set_numerics("bf16", tuned=False)
    try:
        differentiate()
        a.grad = b.grad = None
        with PeakMemory(a.device) as memory:
            differentiate()
        found = compare("loss", "", "s", [Candidate("loss", differentiate)], effort)
    except torch.OutOfMemoryError:
        return None
    finally:
        a.grad = b.grad = None
        release()
    return found.median("loss"), memory.bytes


def host_section(bench: Bench) -> Findings:
    """Kernels, copies and waits of a step without compiler."""
    return describe_host(bench, bench.build(SDCLR, SIMCLR), "eager")


def describe_host(bench: Bench, runs: Sequence[Steps], what: str) -> Findings:
    """Work of the host in a step: time to launch it, number of launches, waits."""
    rows: list[tuple[Cell, ...]] = []
    tables, targets = [], []
    for run in runs:
        name = f"{run.arm.name}, {what}"
        times = [1000 * seconds for seconds in host_seconds(run, 2 * bench.plan.steps)]
        seen = profile_steps(run, bench.plan.profiled)
        wait = first_wait(run, bench.plan.steps)  # last, because a run that it stops cannot continue
        counts: tuple[Cell, ...] = ("",) * 6
        if seen is not None:
            waits = sum(seen.waits.values())
            counts = (seen.kernels, seen.launches, 1000 * seen.busy, waits, seen.pageable, wait or "none")
            tables.append(kernel_table(name, seen))
            limit = f"Waits and pageable copies a step, {name}"
            targets.append(Target(what=limit, limit=0, measured=waits + seen.pageable))
        rows.append((run.arm.name, *times, *counts))
    heading = ("", "asked for in ms", "done in ms", "kernels", "launches", "busy ms", "waits", "pageable copies")
    note = "Of one step that starts with the device at rest; counts and busy time by torch's profiler."
    heading = (*heading, "first wait that torch's debug mode sees")
    table = Table(title=f"The host's part, {what}", note=note, heading=heading, rows=rows)
    return Findings(targets=targets, tables=[table, *tables])


def memory_section(bench: Bench) -> Findings:
    """Peak memory of a step, and the refresh of the masks."""
    peaks = {arm.name: peak_of(bench, arm, bench.plan.small, bench.images) for arm in (SDCLR, SIMCLR, THREE)}
    competitor = bench.build(SDCLR)[0].objective.competitor

    def refresh() -> None:
        competitor.refresh()
        synchronize(bench.device)

    found = compare("Refresh of the masks", "", "s", [Candidate("refresh", refresh)], bench.plan.effort)
    targets = []
    ours, plain = peaks[SDCLR.name], peaks[SIMCLR.name]
    if ours is not None and plain is not None:
        targets.append(Target(what="Peak memory of SDCLR / SimCLR, eager", limit=1.05, measured=ours / plain))
    note = "Weights, optimizer, masks, views and activations, once cuDNN has tried its algorithms."
    return Findings(targets=targets, comparisons=[found], tables=[memory_table("Peak memory", note, peaks)])


def peak_of(bench: Bench, arm: Arm, job: Job, images: Tensor) -> int | None:
    """Peak bytes of an arm's steps after the first ones, in which cuDNN tries its algorithms and needs more memory."""
    with PeakMemory(bench.device) as memory:
        run = Steps(arm, job, images)
        run.prepare()
        run.take(2)
        memory.forget()
        run.take(2)
    del run
    release()
    return memory.bytes


def compiled_section(bench: Bench) -> Findings:
    """Compiled steps and views, compared with uncompiled ones."""
    return compare_compiled(bench, "default", "compiled")


def graphs_section(bench: Bench) -> Findings:
    """The same with CUDA graphs."""
    return compare_compiled(bench, "reduce-overhead", "compiled, CUDA graphs")


def compare_compiled(bench: Bench, mode: Compiled, what: str) -> Findings:
    """Compiled SDCLR and SimCLR, uncompiled SDCLR, and the compiler's graph breaks and recompilations."""
    torch.compiler.reset()
    counters.clear()
    runs = bench.build(*(replace(arm, compiled=mode, backend=bench.plan.backend) for arm in (SDCLR, SIMCLR)))
    started = time.perf_counter()
    for run in runs:
        run.prepare()
        run.take(3)  # compiles, and captures if it captures
    took, graphs = time.perf_counter() - started, counters["stats"]["unique_graphs"]
    eager = bench.build(replace(SDCLR, name="SDCLR, eager"))
    found = bench.compare(f"Steps, {what}", f"{bench.plan.small}.", [*runs, *eager])
    host = describe_host(bench, runs[:1], what)
    breaks, again = sum(counters["graph_break"].values()), counters["stats"]["unique_graphs"] - graphs
    rows = [
        ("seconds for both methods' first three steps", took),
        ("graphs", graphs),
        ("graph breaks", breaks),
        ("graphs compiled again later", again),
        ("graphs that were not captured, though asked for", counters["inductor"]["cudagraph_skips"]),
    ]
    table = Table(title=f"The compiler's part, {what}", note="", heading=("", ""), rows=rows)
    targets = [
        at_least_pairs(what, found, bench.plan.small.batch),
        at_most_simclr(what, found),
        Target(what=f"Graph breaks and recompilations, {what}", limit=0, measured=breaks + again),
        *host.targets,
    ]
    tables = [pairs_table(found, bench.plan.small.batch), table, *host.tables]
    return Findings(targets=targets, comparisons=[found], tables=tables)


def large_section(bench: Bench) -> Findings:
    """ResNet-50 at 224 px on random images: pairs per second and memory, with and without recomputed activations."""
    job, side = bench.plan.large, bench.plan.large.views.image_size
    images = torch.randint(256, (bench.plan.large_images, 3, side, side), dtype=torch.uint8, device=bench.device)
    arms = [SDCLR, SIMCLR, replace(SDCLR, name="SDCLR, activations recomputed", checkpointed=True)]
    peaks = {arm.name: peak_of(bench, arm, job, images) for arm in arms}
    runs = bench.build(*arms, job=job, images=images)
    note = f"Random images, resident; {job}; {PRECISIONS['bf16']}; channels_last."
    found = bench.compare("ResNet-50, eager", note, runs, steps=max(1, bench.plan.steps // 5))
    tables = [
        pairs_table(found, job.batch),
        memory_table("Peak memory, ResNet-50", "", peaks),
        peak_table(bench, runs[0].flops(), found.median(SDCLR.name)),
    ]
    return Findings(targets=[at_most_simclr("ResNet-50", found)], comparisons=[found], tables=tables)


def runs_section(bench: Bench) -> Findings:
    """Speed of `pretrain` over whole epochs, including masks and logs, and the places where the host waits."""
    images, job = bench.images.permute(0, 2, 3, 1).cpu().numpy(), bench.plan.small
    set_numerics("bf16", tuned=False)  # torch's defaults; training makes its own settings
    runtime = Runtime(device=str(bench.device), workers=0, amp="bf16", progress=False, log_steps=10**9)
    rows, targets = [], []
    for name in bench.plan.runs:
        speeds = quartiles(epoch_speeds(job, images, bench.plan.epochs, replace(runtime, **RUNS[name])))
        rows.append((f"SDCLR, {name}", speeds.median))
        what = f"Images a second of whole epochs, SDCLR, {name}"
        targets.append(Target(what=what, limit=PAIRS, at_most=False, measured=speeds.median, quartiles=speeds))
    note = f"sdclr.pretrain, {job}; median of {bench.plan.epochs - 1} epochs after the first."
    tables = [Table(title="Whole epochs", note=note, heading=("", "images a second"), rows=rows)]
    with waits_by_place(bench.device) as waits:
        epoch_speeds(job, images[: 8 * job.batch], 2, runtime)
    if bench.device.type == "cuda":
        note = "In a run of 2 epochs of 8 steps, start and end included; as torch's debug mode sees it."
        places = waits.most_common(20)
        tables.append(Table(title="Where the host waits", note=note, heading=("", "times"), rows=places))
    return Findings(targets=targets, tables=tables)


def epoch_speeds(job: Job, images: NDArray[np.uint8], epochs: int, runtime: Runtime) -> list[float]:
    """Images per second in each epoch except the first."""
    config = replace(job.config("sdclr"), epochs=epochs)
    with tempfile.TemporaryDirectory() as folder:
        rows = list(pretrain(images, config, run=Path(folder) / "run", runtime=runtime).metrics())
    release()
    return [row["images_per_second"] for row in rows[1:]]
