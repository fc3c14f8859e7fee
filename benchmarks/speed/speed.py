"""Speed and memory of sdclr compared with other libraries, as Markdown and JSON.

    python benchmarks/speed/speed.py --out DIR/speed.md [--quick] [--data DIR] [--threads N] [--only steps,views]

Candidates are timed alternately (A-B-A-B) in one process. A ratio is the median of the rounds' ratios, with quartiles,
so that temporary load affects both. Peak memory is measured in new processes. The report is written after each section.
With `--only` these sections of an existing report are measured again, and the others stay. The report contains the
duration of each section. `--quick` uses fewer rounds and smaller sizes, and leaves out the full-width network. Needs
the development dependencies.
"""

import argparse
import datetime as dt
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdclr.data.scan import load_images
from sdclr.data.sources import SubsetSource, open_source
from sdclr.files import write_atomically
from speed_harness import Findings, markdown
from speed_sections import SECTIONS, Setting, quick, thorough

PEERS = (
    "torch",
    "torchvision",
    "lightly",
    "kornia",
    "pytorch-metric-learning",
    "scikit-learn",
    "timm",
    "opencv-python-headless",
    "pillow",
)
NOTE = "A ratio is the median over rounds with its quartiles; in each round all candidates run in turn."


@dataclass(frozen=True, kw_only=True)
class Part:
    """One section of the report with its environment, because sections may be measured at different times."""

    environment: Mapping[str, str]
    findings: Findings

    def json(self) -> dict[str, Any]:
        return {"environment": dict(self.environment), **self.findings.json()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Part":
        return cls(environment=values["environment"], findings=Findings.from_json(values))


@dataclass
class Report:
    """All results, by section."""

    parts: dict[str, Part]

    @classmethod
    def read(cls, file: Path) -> "Report":
        """Read an earlier report; empty if there is no file."""
        if not file.exists():
            return cls({})
        values = json.loads(file.read_text(encoding="utf-8")).get("sections", {})
        return cls({name: Part.from_json(part) for name, part in values.items() if name in SECTIONS})

    def write(self, out: Path) -> None:
        """Write Markdown and JSON files."""
        values = {"sections": {name: part.json() for name, part in self._sorted().items()}}
        text = json.dumps(values, indent=1, ensure_ascii=False) + "\n"
        write_atomically(out.with_suffix(".json"), text.encode())
        write_atomically(out, self.markdown().encode())

    def markdown(self) -> str:
        parts = self._sorted()
        targets = [target.row() for part in parts.values() for target in part.findings.targets]
        told = [f"## {SECTIONS[name].title}\n\n{part.findings.markdown()}" for name, part in parts.items()]
        return "\n\n".join(
            [
                "# Speed and memory",
                _environments({name: part.environment for name, part in parts.items()}),
                NOTE,
                "## Targets",
                markdown(("", "target", "measured", "met"), targets),
                *told,
                "",
            ]
        )

    def _sorted(self) -> dict[str, Part]:
        return {name: self.parts[name] for name in SECTIONS if name in self.parts}


def _environments(environments: Mapping[str, Mapping[str, str]]) -> str:
    """Common values of all sections as a list, and different ones as a table."""
    first = next(iter(environments.values()))
    shared = [key for key in first if all(other.get(key) == first[key] for other in environments.values())]
    told = ["\n".join(f"- {key}: {first[key]}" for key in shared)]
    differing = [key for key in first if key not in shared]
    if differing:
        rows = [(name, *(other.get(key, "") for key in differing)) for name, other in environments.items()]
        told.append(markdown(("section", *differing), rows))
    return "\n\n".join(told)


def read_images(data: Path | None, count: int = 2048) -> Tensor:
    """(count, 3, 32, 32) uint8: the first images of CIFAR-10, or random ones."""
    if data is None:
        return torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return load_images(SubsetSource(open_source(data, split="train"), range(count), name="cifar10")).images


def describe(options: argparse.Namespace) -> dict[str, str]:
    """Environment and command of a section."""
    command = f"python benchmarks/speed/speed.py --out {options.out.name}"
    command += " --quick" * options.quick + " --data DIR" * (options.data is not None) + f" --threads {options.threads}"
    return {
        "command": f"`{command}`",
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "images": "CIFAR-10" if options.data is not None else "random pixels",
        "versions": ", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in PEERS)]),
        "commit": _commit(),
        "day": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d"),
        "load before (1 minute)": f"{os.getloadavg()[0]:.2f}",
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


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="Markdown file to write; a .json goes beside it")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, and not the full-width network")
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10 as parquet files; random images without it")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch; by default all cores")
    parser.add_argument("--only", help=f"sections to measure, with commas between, of {', '.join(SECTIONS)}")
    options = parser.parse_args(arguments)
    options.only = options.only.split(",") if options.only else list(SECTIONS)
    unknown = [name for name in options.only if name not in SECTIONS]
    if unknown:
        parser.error(f"--only knows no section {', '.join(unknown)}: name some of {', '.join(SECTIONS)}")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parsed(arguments)
    plan = quick() if options.quick else thorough()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    images = read_images(options.data)
    setting = Setting(images=images, data=options.data, folder=options.out.parent, threads=options.threads)
    report = Report.read(options.out.with_suffix(".json"))
    for name in options.only:
        section, environment, start = SECTIONS[name], describe(options), time.perf_counter()
        findings = section.measure(plan, setting)
        environment["threads"] = str(section.threads(setting))
        environment["seconds"] = f"{time.perf_counter() - start:.0f}"
        report.parts[name] = Part(environment=environment, findings=findings)
        report.write(options.out)
        print(f"{name}: {environment['seconds']} s", file=sys.stderr, flush=True)
    print(report.markdown())


if __name__ == "__main__":
    main()
