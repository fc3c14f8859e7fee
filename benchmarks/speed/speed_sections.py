"""The sections of the report: measurements, their durations and their targets."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import torch
from torch import Tensor

import speed_growth
import speed_probes
from speed_harness import Comparison, Effort, Findings, Quartiles, Table, Target
from speed_large import (
    FIRST_EPOCH,
    LATER_EPOCHS,
    LIGHTLY_FILES,
    compare_end_to_end,
    compare_large,
    large_views,
    make_jpegs,
    where_time_goes,
)
from speed_lightly import BF16, LIGHTLY, LIGHTLY_BF16, compare_precisions
from speed_loss import NAMES as LOSSES
from speed_loss import LossSize, compare_losses, measure_losses
from speed_memory import compare_memory
from speed_profile import profile_steps
from speed_small import EpochSize, compare_epochs, write_images
from speed_steps import (
    NAMES,
    REFRESH,
    SDCLR,
    SIMCLR,
    THREE_FORWARDS,
    Precision,
    StepSize,
    compare_layouts,
    compare_refresh,
    compare_steps,
    compare_work,
    fixed_costs,
    of_precision,
)
from speed_views import LIGHTLY as LIGHTLY_VIEWS
from speed_views import TORCH, ViewSize, compare_small, small_views

NARROW = StepSize(width=16, batch=256)
FULL = StepSize(width=64, batch=128)


@dataclass(frozen=True, kw_only=True)
class LargePlan:
    """Plan for large images: views of decoded images, and batches from JPEG files."""

    views: ViewSize
    views_effort: Effort
    side: int = 256
    """Side of the decoded images."""
    files: int
    files_effort: Effort
    batch: int = 64


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Sizes and durations of all measurements."""

    steps: tuple[tuple[StepSize, Effort], ...]
    precisions: tuple[tuple[StepSize, Effort], ...]
    work: Effort
    """Effort for processor time on one thread."""
    compiled: bool
    """Whether the last size of `precisions` is also measured compiled."""
    refresh: Effort
    refresh_width: int = 64
    views: ViewSize
    views_effort: Effort
    losses: tuple[tuple[LossSize, Effort], ...]
    loss_memory: tuple[int, ...]
    """Batch sizes."""
    epochs: tuple[tuple[EpochSize, Effort], ...]
    large: LargePlan
    memory: tuple[tuple[StepSize, Precision, int], ...]
    """Size, precision and number of processes for each method."""
    profile: tuple[StepSize, ...]
    product: int = 2048
    """Side of the matrices whose product gives the machine's peak."""
    probes: speed_probes.ProbePlan
    growth: speed_growth.Plan


def thorough() -> Plan:
    return Plan(
        steps=((NARROW, Effort(rounds=10, seconds=20, warmup=3)), (FULL, Effort(rounds=8, seconds=110))),
        precisions=((NARROW, Effort(rounds=10, seconds=20, warmup=3)), (FULL, Effort(rounds=3, seconds=60))),
        work=Effort(rounds=20, seconds=120, warmup=2),
        compiled=True,
        refresh=Effort(rounds=5, seconds=20),
        views=small_views(batch=512, peer_batch=64),
        views_effort=Effort(rounds=20, seconds=15),
        losses=tuple((LossSize(batch=batch), Effort(rounds=10, seconds=8)) for batch in (256, 1024, 4096)),
        loss_memory=(4096, 32_768),
        epochs=(
            (EpochSize(step=NARROW, images=4096), Effort(rounds=2, seconds=120, warmup=0)),
            (
                EpochSize(step=FULL, images=2048, ours=("bf16",), theirs=("bf16",)),
                Effort(rounds=2, seconds=120, warmup=0),
            ),
        ),
        large=LargePlan(
            views=large_views(batch=16),
            views_effort=Effort(rounds=20, seconds=15),
            files=2000,
            files_effort=Effort(rounds=4, seconds=60),
        ),
        memory=((NARROW, "none", 1), (FULL, "none", 1), (FULL, "bf16", 1)),
        profile=(NARROW, FULL),
        probes=speed_probes.thorough(),
        growth=speed_growth.THOROUGH,
    )


def quick() -> Plan:
    return Plan(
        steps=((NARROW, Effort(rounds=4, seconds=10)),),
        precisions=((NARROW, Effort(rounds=3, seconds=10)),),
        work=Effort(rounds=4, seconds=10),
        compiled=False,
        refresh=Effort(rounds=3, seconds=5),
        views=small_views(batch=512, peer_batch=32),
        views_effort=Effort(rounds=5, seconds=5),
        losses=tuple((LossSize(batch=batch), Effort(rounds=5, seconds=3)) for batch in (128, 1024)),
        loss_memory=(2048,),
        epochs=((EpochSize(step=NARROW, images=512), Effort(rounds=2, seconds=20, warmup=0)),),
        large=LargePlan(
            views=large_views(batch=8),
            views_effort=Effort(rounds=5, seconds=5),
            files=256,
            files_effort=Effort(rounds=3, seconds=15),
        ),
        memory=((NARROW, "none", 1),),
        profile=(NARROW,),
        probes=speed_probes.quick(),
        growth=speed_growth.QUICK,
    )


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Data and machine settings of the measurements."""

    images: Tensor
    """(N, 3, 32, 32) uint8, the images of small views."""
    data: Path | None
    """Folder of CIFAR-10, or None."""
    folder: Path
    """Folder of the report and its figures."""
    threads: int


@dataclass(frozen=True, kw_only=True)
class Section:
    """One part of the report."""

    title: str
    find: Callable[[Plan, Setting], Findings]
    one_thread: bool = False
    """Whether it uses one thread instead of `Setting.threads`."""

    def threads(self, setting: Setting) -> int:
        return 1 if self.one_thread else setting.threads

    def measure(self, plan: Plan, setting: Setting) -> Findings:
        torch.set_num_threads(self.threads(setting))
        cv2.setNumThreads(self.threads(setting))
        return self.find(plan, setting)


def _steps(plan: Plan, setting: Setting) -> Findings:
    targets: list[Target] = []
    comparisons: list[Comparison] = []
    tables: list[Table] = []
    for size, effort in plan.steps:
        equal = compare_steps(setting.images, size, effort)
        comparisons.append(equal)
        work = compare_work(setting.images, size, plan.work)
        comparisons.append(work)
        for amp, precision in NAMES.items():
            ratio = work.ratio(of_precision(SIMCLR, amp), of=of_precision(SDCLR, amp))
            targets.append(_ratio(f"Processor time of a step, SDCLR / SimCLR, {precision}, {size}", 1.03, ratio))
        tables.append(fixed_costs(size))
        three = equal.ratio(THREE_FORWARDS)
        targets.append(_ratio(f"Step time of SDCLR / the same with three forward passes, {size}", 0.8, three))
    for number, (size, effort) in enumerate(plan.precisions, start=1):
        compiled = plan.compiled and number == len(plan.precisions)
        found, extra = compare_precisions(setting.images, size, effort, compiled=compiled)
        comparisons.append(found)
        tables += extra
        for ours, theirs, amp in ((SDCLR, LIGHTLY, "none"), (BF16, LIGHTLY_BF16, "bf16")):
            what = f"Step time of SDCLR / lightly's SimCLR, {NAMES[amp]}, {size}"
            targets.append(_ratio(what, 1, found.ratio(theirs, of=ours)))
    comparisons += [compare_layouts(setting.images, size, effort) for size, effort in plan.steps]
    refresh = compare_refresh(plan.refresh_width, plan.refresh)
    targets.append(Target(what="Seconds for a mask refresh", limit=0.3, measured=refresh.median(REFRESH)))
    return Findings(targets=targets, comparisons=[*comparisons, refresh], tables=tables)


def _views(plan: Plan, setting: Setting) -> Findings:
    small = compare_small(setting.images, plan.views, plan.views_effort)
    target = Target(what=f"{small.title}, per second", limit=40e3, at_most=False, measured=small.median(TORCH))
    return Findings(targets=[target], comparisons=[small])


def _loss(plan: Plan, setting: Setting) -> Findings:
    comparisons = [compare_losses(size, effort) for size, effort in plan.losses]
    memory = measure_losses(plan.loss_memory, threads=setting.threads)
    targets = [
        _ratio(f"Time of sdclr / lightly, {found.title}", 1, found.ratio(LOSSES["lightly"])) for found in comparisons
    ]
    return Findings(targets=[*targets, *memory.targets], comparisons=comparisons, tables=memory.tables)


def _small(plan: Plan, setting: Setting) -> Findings:
    comparisons, tables, targets = [], [], []
    for size, effort in plan.epochs:
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / "train.parquet"
            write_images(file, size.images, data=setting.data, images=setting.images)
            compared, table = compare_epochs(file, size, Path(scratch), effort)
        comparisons.append(compared)
        tables.append(table)
        targets += [
            _ratio(f"Images per second of sdclr / lightly, {NAMES[amp]}, {size}", 1, faster, at_most=False)
            for amp in ("none", "bf16")
            if (faster := _of_precision(compared, NAMES[amp])) is not None
        ]
    return Findings(targets=targets, comparisons=comparisons, tables=tables)


def _of_precision(compared: Comparison, precision: str) -> Quartiles | None:
    """Ratio of sdclr to lightly in one precision, or None if one of them did not run in it."""
    names = [name for name in compared.samples if name.endswith(f", {precision}")]
    return compared.ratio(names[1], of=names[0]) if len(names) == 2 else None


def _large(plan: Plan, setting: Setting) -> Findings:
    views = compare_large(_enlarged(setting.images, plan.large), plan.large.views, plan.large.views_effort)
    with tempfile.TemporaryDirectory() as scratch:
        folder = make_jpegs(Path(scratch) / "jpegs", plan.large.files, setting.data)
        # The process that collects batches does little work, so all cores are for workers.
        effort, batch = plan.large.files_effort, plan.large.batch
        files = compare_end_to_end(folder, workers=setting.threads, effort=effort, batch=batch)
        table = where_time_goes(folder, count=min(batch, plan.large.files), rounds=max(2, effort.rounds))
    drawn = views.ratio(LIGHTLY_VIEWS)
    first, later = (files.ratio(LIGHTLY_FILES, of=name) for name in (FIRST_EPOCH, LATER_EPOCHS))
    read = "Images per second of sdclr / lightly, from JPEG files to two views"
    targets = [
        _ratio(f"{views.title}, per second, sdclr / lightly", 8, drawn, at_most=False),
        _ratio(f"{read}, first epoch", 5, first, at_most=False),
        _ratio(f"{read}, later epochs", 10, later, at_most=False),
    ]
    return Findings(targets=targets, comparisons=[views, files], tables=[table])


def _enlarged(images: Tensor, plan: LargePlan) -> Tensor:
    """Small images, scaled up. Their content does not affect the time."""
    chosen, size = images[: plan.views.batch].float(), (plan.side, plan.side)
    scaled = torch.nn.functional.interpolate(chosen, size=size, mode="bilinear", align_corners=False)
    return scaled.round().to(torch.uint8)


def _memory(plan: Plan, setting: Setting) -> Findings:
    found = [compare_memory(*what, repeats=repeats, threads=setting.threads) for *what, repeats in plan.memory]
    told = [comparison.findings() for comparison in found if comparison is not None]
    return Findings(
        targets=[target for findings in told for target in findings.targets],
        tables=[table for findings in told for table in findings.tables],
    )


def _probes(plan: Plan, setting: Setting) -> Findings:
    return speed_probes.find_probes(plan.probes, setting.data)


def _growth(plan: Plan, setting: Setting) -> Findings:
    return speed_growth.find_growth(plan.growth, setting.folder, threads=setting.threads)


def _profile(plan: Plan, setting: Setting) -> Findings:
    return profile_steps(setting.images, plan.profile, product=plan.product)


def _ratio(what: str, limit: float, ratio: Quartiles, *, at_most: bool = True) -> Target:
    return Target(what=what, limit=limit, at_most=at_most, measured=ratio.median, quartiles=ratio)


SECTIONS = {
    "steps": Section(title="Training steps", find=_steps),
    "views": Section(title="Views of small images", find=_views, one_thread=True),
    "loss": Section(title="The loss", find=_loss),
    "small": Section(title="An epoch on small images", find=_small),
    "large": Section(title="Large images", find=_large, one_thread=True),
    "memory": Section(title="Memory of a step", find=_memory),
    "probes": Section(title="Probes and neighbors", find=_probes),
    "growth": Section(title="Growth with the size of the work", find=_growth),
    "profile": Section(title="Time of a training step", find=_profile),
}
"""Sections by their name for `--only`, in the order of the report."""
