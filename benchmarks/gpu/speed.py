"""Speed and memory of training on a GPU, in one command of less than ten minutes.

    python benchmarks/gpu/speed.py --data DIR --out FILE.json [--device cuda] [--quick] [--minutes 9]

DIR holds CIFAR-10 as parquet files; without it the resident images are random. FILE.json is written after each section.
Repeating the command measures only the missing sections: those that were interrupted, failed or had no time left.
A section is reused if the package, the device, torch and the sizes are the same. The script prints a Markdown summary
of all sections and writes it next to FILE.json.

The candidates of a comparison take turns (A-B-A-B) in one process. A turn has several steps, and the clock is read
after the device has finished. `--device cpu --quick` only tests that everything runs.
"""

import argparse
import hashlib
import json
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

sys.path.append(str(Path(__file__).parents[1] / "speed"))

import numpy as np
import torch
import torchvision

import gpu_sections as sections
import sdclr
from gpu_runs import Job, release
from gpu_sections import Bench, Plan
from sdclr.encoders import EncoderConfig
from sdclr.files import write_atomically
from sdclr.views.config import ViewConfig
from speed_harness import Effort, Findings, markdown


class Section(NamedTuple):
    title: str
    measure: Callable[[Bench], Findings]
    seconds: float
    """Maximum duration on an H100-class GPU, with compilation. The section starts only if so much time is left."""


SECTIONS = {
    "steps": Section("Training steps", sections.steps_section, 60),
    "views": Section("Views in the step", sections.views_section, 60),
    "host": Section("What the host does", sections.host_section, 40),
    "memory": Section("Memory", sections.memory_section, 40),
    "loss": Section("Loss", sections.loss_section, 30),
    "compiled": Section("Compiled steps", sections.compiled_section, 200),
    "graphs": Section("Compiled steps with CUDA graphs", sections.graphs_section, 150),
    "runs": Section("Whole runs", sections.runs_section, 180),
    "large": Section("ResNet-50 at 224 px", sections.large_section, 60),
    "precision": Section("Number formats", sections.precision_section, 75),
}


def thorough() -> Plan:
    large = ViewConfig(image_size=224, crop_scale=(0.08, 1.0), blur=0.5)
    return Plan(
        small=Job(encoder=EncoderConfig(name="resnet18"), views=ViewConfig(), batch=512),
        large=Job(encoder=EncoderConfig(name="resnet50"), views=large, batch=128, ratio=0.3),
        large_images=512,
        images=None,
        steps=10,
        effort=Effort(rounds=15, seconds=20, warmup=2),
        product=8192,
        losses=(512, 1024, 2048, 4096, 8192, 16_384, 32_768),
        profiled=5,
        epochs=4,
    )


def quick(device: torch.device) -> Plan:
    """Tiny sizes, to test that everything runs. On a CPU nothing is compiled to machine code, which takes minutes."""
    on_cpu = device.type == "cpu"
    return Plan(
        small=Job(encoder=EncoderConfig(name="resnet18", width=4), views=ViewConfig(image_size=16), batch=8),
        large=Job(encoder=EncoderConfig(name="resnet50", width=4), views=ViewConfig(image_size=64, blur=0.5), batch=4),
        large_images=8,
        images=64,
        steps=2,
        effort=Effort(rounds=3, seconds=5),
        product=256,
        losses=(32, 64),
        profiled=2,
        epochs=2,
        runs=("bf16",) if on_cpu else tuple(sections.RUNS),
        backend="aot_eager" if on_cpu else "inductor",
    )


@dataclass
class Journal:
    """Results, written to disk after each section.

    Args:
        path: The JSON file.
        key: Conditions that must be equal to reuse a section.
    """

    path: Path
    key: dict[str, Any]

    def __post_init__(self) -> None:
        self.sections: dict[str, dict[str, Any]] = {}
        self.trouble: dict[str, dict[str, Any]] = {}
        if self.path.exists():
            try:
                values = json.loads(self.path.read_text())
                self.sections, self.trouble = values["sections"], values["trouble"]
            except (ValueError, KeyError, TypeError) as error:
                sys.exit(f"{self.path} is no result of this script ({error}): name another file with --out")

    def taken(self, name: str) -> bool:
        return self.sections.get(name, {}).get("key") == self.key

    def order(self, names: Sequence[str]) -> list[str]:
        """The missing sections. Those that failed before come last, so that they do not delay the others."""
        missing = [name for name in names if not self.taken(name)]
        tried = [name for name in missing if self.trouble.get(name, {}).get("key") == self.key]
        return [name for name in missing if name not in tried] + tried

    def begin(self, name: str) -> None:
        """Record the section as cut off, in case the process dies."""
        self.fail(name, "cut off")

    def fail(self, name: str, why: str) -> None:
        self.trouble[name] = {"key": self.key, "why": why}
        self._write()

    def put(self, name: str, findings: Findings, **about: Any) -> None:
        self.sections[name] = {"key": self.key, **about, "findings": findings.json()}
        self.trouble.pop(name, None)
        self._write()

    def _write(self) -> None:
        values = {"sections": self.sections, "trouble": self.trouble}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode())

    def markdown(self) -> str:
        """All sections with this key, and a list of the missing ones."""
        here = {name: self.sections[name] for name in SECTIONS if self.taken(name)}
        environments = [entry["environment"] for entry in here.values()]
        rehearsal = self.key["device"] == "cpu"
        parts = ["# Rehearsal on a CPU: these figures tell nothing" if rehearsal else "# Speed on a GPU"]
        if environments:
            parts.append("\n".join(f"- {name}: {value}" for name, value in environments[-1].items()))
        found = {name: Findings.from_json(entry["findings"]) for name, entry in here.items()}
        rows = [target.row() for section in found.values() for target in section.targets]
        if rows and not rehearsal:
            parts += ["## Targets", markdown(("", "target", "measured", "met"), rows)]
        for name, section in found.items():
            parts += [f"## {SECTIONS[name].title}", section.markdown()]
        missing = [f"- {SECTIONS[name].title}: {self._why_missing(name)}" for name in SECTIONS if name not in here]
        if missing:
            parts += ["## Not measured", "\n".join(missing)]
        return "\n\n".join(parts) + "\n"

    def _why_missing(self, name: str) -> str:
        entry = self.trouble.get(name, {})
        return entry["why"] if entry.get("key") == self.key else "not begun"


def run(bench: Bench, journal: Journal, names: Sequence[str], *, minutes: float, start: float) -> None:
    """Measure the missing sections while time is left."""
    environment = describe(bench)
    for name in journal.order(names):
        section = SECTIONS[name]
        left = 60 * minutes - (time.monotonic() - start)
        if left < (section.seconds if bench.device.type == "cuda" else 1):
            print(f"{name}: {left:.0f} s are left, too few; the same command goes on with it", file=sys.stderr)
            continue
        begun = time.monotonic()
        journal.begin(name)
        try:
            found = section.measure(bench)
        except Exception as error:  # noqa: BLE001  # an error in one section must not stop the others
            traceback.print_exc()
            journal.fail(name, f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
            if not _alive(bench.device):
                sys.exit(f"{name}: the device does not answer any more; the same command goes on with the others")
        else:
            seconds = time.monotonic() - begun
            journal.put(name, found, environment=environment, seconds=seconds)
            print(f"{name}: {seconds:.0f} s", file=sys.stderr, flush=True)
        release()


def _alive(device: torch.device) -> bool:
    """Whether the device still works. After some errors a process cannot use the GPU any more."""
    try:
        torch.ones(1, device=device).sum().item()
    except RuntimeError:
        return False
    return True


def describe(bench: Bench) -> dict[str, Any]:
    """The machine and the versions."""
    versions = {"torch": torch.__version__, "torchvision": torchvision.__version__, "numpy": np.__version__}
    environment: dict[str, Any] = {
        "commit": commit(),
        "taken": time.strftime("%Y-%m-%d"),
        "images": "CIFAR-10" if bench.data is not None else "random pixels",
        "processor": f"{processor()}, {torch.get_num_threads()} threads",
        "versions": ", ".join([f"Python {platform.python_version()}", *(f"{n} {v}" for n, v in versions.items())]),
    }
    if bench.device.type == "cuda":
        card = torch.cuda.get_device_properties(bench.device)
        memory = f"{card.total_memory / 2**30:.1f} GiB"
        environment["device"] = f"{card.name}, {memory}, compute capability {card.major}.{card.minor}"
        environment["CUDA"] = f"{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    return environment


def key_of(bench: Bench) -> dict[str, Any]:
    """Conditions of a result: the package's code, the device, torch and the sizes."""
    name = torch.cuda.get_device_name(bench.device) if bench.device.type == "cuda" else "cpu"
    plan = hashlib.sha256(repr(bench.plan).encode()).hexdigest()[:12]
    images = "random" if bench.data is None else "CIFAR-10"
    return {"code": digest_of_package(), "device": name, "torch": torch.__version__, "images": images, "plan": plan}


def digest_of_package() -> str:
    """Digest of the package's sources. Unlike a commit, it covers uncommitted changes and needs no repository."""
    root = Path(sdclr.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def commit() -> str:
    here = Path(__file__).parent
    found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, check=False, capture_output=True, text=True)
    if found.returncode:
        return "unknown"
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD"], cwd=here, check=False).returncode
    return found.stdout.strip()[:12] + (" with uncommitted changes" if changed else "")


def processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def main(arguments: Sequence[str] | None = None) -> None:
    start = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file; a .md goes beside it")
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10 as parquet files; random images without it")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, …; cpu for a rehearsal")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: whether it runs, not how fast")
    parser.add_argument("--minutes", type=float, default=9, help="begin no section that would end later")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="some of the sections")
    parser.add_argument("--again", nargs="+", choices=SECTIONS, default=[], help="take these though they are there")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device is to be had here: --device cpu --quick rehearses without one")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    bench = Bench(device, quick(device) if options.quick else thorough(), options.data)
    journal = Journal(options.out, key_of(bench))
    for name in options.again:
        journal.sections.pop(name, None)
    try:
        run(bench, journal, options.only, minutes=options.minutes, start=start)
    finally:
        options.out.with_suffix(".md").write_text(journal.markdown())
        print(journal.markdown())


if __name__ == "__main__":
    main()
