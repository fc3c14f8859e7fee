"""Speed and memory of SDCLR against SimCLR and against the usual libraries, as a Markdown table.

    python benchmarks/speed.py --out docs/results/speed.md [--quick] [--data DIR]

Takes less than six minutes on one idle core; `--quick` leaves out the full-width network. All that is compared is timed
in turn (A-B-A-B) in one process, and a ratio is the median of the rounds' ratios, with its quartiles: what slows the
machine for a while slows both. Peak memory is measured in fresh processes. Needs the development dependencies.
"""

import argparse
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import cv2
import torch
from torch import Tensor

from sdclr.data.scan import load_images
from sdclr.data.sources import SubsetSource, open_source
from speed_harness import Comparison, Effort, Target, markdown
from speed_memory import MIB, MemoryComparison, compare_memory
from speed_steps import REFRESH, SIMCLR, THREE_FORWARDS, StepSize, compare_refresh, compare_steps
from speed_views import TORCH, ViewSize, compare_large, compare_small, large_views, small_views

NARROW = StepSize(width=16, batch=256)
FULL = StepSize(width=64, batch=128)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured, and for how long."""

    steps: tuple[tuple[StepSize, Effort], ...]
    memory: tuple[tuple[StepSize, int], ...]
    """Sizes, and processes for each method."""
    refresh_width: int = 64
    refresh: Effort
    small: ViewSize
    large: ViewSize
    large_side: int = 256
    """Side of the images that the large views are drawn from."""
    views: Effort


def thorough() -> Plan:
    return Plan(
        steps=((NARROW, Effort(rounds=10, seconds=40, warmup=3)), (FULL, Effort(rounds=6, seconds=70))),
        memory=((NARROW, 2), (FULL, 1)),
        refresh=Effort(rounds=5, seconds=40),
        small=small_views(batch=512, peer_batch=64),
        large=large_views(batch=16),
        views=Effort(rounds=20, seconds=15),
    )


def quick() -> Plan:
    return Plan(
        steps=((NARROW, Effort(rounds=5, seconds=15, warmup=2)),),
        memory=((NARROW, 1),),
        refresh=Effort(rounds=3, seconds=10),
        small=small_views(batch=512, peer_batch=32),
        large=large_views(batch=8),
        views=Effort(rounds=5, seconds=5),
    )


@dataclass(frozen=True)
class Report:
    """All that was measured."""

    environment: dict[str, object]
    comparisons: list[Comparison]
    memory: list[MemoryComparison]
    targets: list[Target]

    def markdown(self) -> str:
        environment = "\n".join(f"- {name}: {value}" for name, value in self.environment.items())
        parts = [
            "# Speed and memory",
            f"{environment}",
            "A ratio is the median over rounds in which all candidates ran in turn, with its quartiles.",
            "## Targets",
            markdown(("", "target", "measured", "met"), [target.row() for target in self.targets]),
        ]
        for comparison in self.comparisons:
            parts += [f"## {comparison.title}", comparison.note, comparison.table()]
        for comparison in self.memory:
            parts += [f"## Memory, {comparison.size}", _MEMORY_NOTE, comparison.table()]
        return "\n\n".join(parts) + "\n"

    def json(self) -> str:
        values = {
            "environment": self.environment,
            "comparisons": [asdict(comparison) for comparison in self.comparisons],
            "memory": [asdict(comparison) for comparison in self.memory],
            "targets": [asdict(target) | {"met": target.met} for target in self.targets],
        }
        return json.dumps(values, indent=1, ensure_ascii=False) + "\n"


_MEMORY_NOTE = (
    "Peak resident memory while masks are chosen and two steps are taken, above that of the process before it built "
    "the network. Between steps, a tensor is unexplained if it is no parameter, buffer or optimiser state: a "
    "second copy of the weights would be one."
)


def measure(plan: Plan, images: Tensor, environment: dict[str, object], *, threads: int) -> Report:
    """Carry out the plan.

    Args:
        plan: What is measured.
        images: (N, 3, H, W) uint8, from which all views are drawn.
        environment: Where; goes into the report.
        threads: Threads of torch and OpenCV.
    """
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    comparisons: list[Comparison] = []
    targets: list[Target] = []
    for size, effort in plan.steps:
        steps = compare_steps(images, size, effort)
        comparisons.append(steps)
        for peer, limit in ((SIMCLR, 1.05), (THREE_FORWARDS, 0.8)):
            ratio = steps.ratio(peer)
            what = f"Step time of SDCLR / {peer.replace('SDCLR', 'the same')}, {size}"
            targets.append(Target(what=what, limit=limit, measured=ratio.median, quartiles=ratio))
    refresh = compare_refresh(plan.refresh_width, plan.refresh)
    targets.append(Target(what="Seconds for a mask refresh", limit=0.3, measured=refresh.median(REFRESH)))
    small = compare_small(images, plan.small, plan.views)
    targets.append(Target(what=f"{small.title}, a second", limit=40e3, at_most=False, measured=small.median(TORCH)))
    large = compare_large(_enlarged(images, plan.large.batch, plan.large_side), plan.large, plan.views)
    comparisons += [refresh, small, large]
    memory = [
        found for size, repeats in plan.memory if (found := compare_memory(size, repeats=repeats, threads=threads))
    ]
    for used in memory:
        targets.append(Target(what=f"Peak memory of SDCLR / SimCLR, {used.size}", limit=1.05, measured=used.ratio))
        unexplained = used.median("sdclr", "unexplained") / MIB
        targets.append(Target(what=f"Unexplained MiB between steps, {used.size}", limit=0, measured=unexplained))
    return Report(environment, comparisons, memory, targets)


def _enlarged(images: Tensor, count: int, side: int) -> Tensor:
    """Large images: small ones, scaled up. What they show does not matter to the time."""
    chosen = images[:count].float()
    scaled = torch.nn.functional.interpolate(chosen, size=(side, side), mode="bilinear", align_corners=False)
    return scaled.round().to(torch.uint8)


def read_images(data: Path | None, count: int = 2048) -> Tensor:
    """(count, 3, 32, 32) uint8: the first images of CIFAR-10, or random ones."""
    if data is None:
        return torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return load_images(SubsetSource(open_source(data, split="train"), range(count), name="cifar10")).images


def describe(*, threads: int, quickly: bool, data: Path | None) -> dict[str, object]:
    """Where and how it was measured."""
    command = "python benchmarks/speed.py --out docs/results/speed.md"
    command += " --quick" * quickly + " --data DIR" * (data is not None) + f" --threads {threads}" * (threads != 1)
    peers = ("torch", "torchvision", "lightly", "timm", "opencv-python-headless", "pillow")
    return {
        "command": f"`{command}`",
        "commit": _commit(),
        "processor": f"{_processor()}, {os.cpu_count()} cores, {threads} used",
        "load before (1 minute)": f"{os.getloadavg()[0]:.2f}",
        "images": "CIFAR-10" if data is not None else "random pixels",
        "versions": ", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in peers)]),
    }


def _commit() -> str:
    here = Path(__file__).parent
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, check=False, capture_output=True, text=True)
    if commit.returncode:
        return "unknown"
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD"], cwd=here, check=False).returncode
    return commit.stdout.strip()[:12] + (" with uncommitted changes" if changed else "")


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="Markdown file to write; a .json goes beside it")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, and not the full-width network")
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10 as parquet files; random images without it")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch and OpenCV")
    options = parser.parse_args(arguments)
    environment = describe(threads=options.threads, quickly=options.quick, data=options.data)
    plan = quick() if options.quick else thorough()
    report = measure(plan, read_images(options.data), environment, threads=options.threads)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(report.markdown())
    options.out.with_suffix(".json").write_text(report.json())
    print(report.markdown())


if __name__ == "__main__":
    main()
