"""Endurance test: whether a process that trains and mines for hours leaks memory or other resources.

    python benchmarks/faults/soak.py --minutes 60 --out docs/results/soak.csv --figure docs/results/soak.svg

One process repeatedly runs `pretrain` with two decoding processes, `mine` with its page, `embed` and `finetune`, in new
folders. After each round it records its memory, open files, threads, child processes, entries of /dev/shm that it or an
ended process left, and temporary files. The first rounds load libraries and fill pools, so they do not count. Ends with
exit code 1 if counts rise, or memory rises by more than 5 % over the other rounds.
"""

import argparse
import csv
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from scene import do, pretraining, write_pictures

SHORT = ["--method", "ce", "--epochs", "2", "--batch-size", "16"]
"""Options of a fine-tuning that takes a second."""
WARM_UP = 3
"""Number of first rounds that do not count."""
GROWTH = 0.05
"""Maximum growth of memory from the first counted rounds to the last, as a share."""


class Sample(NamedTuple):
    """Resources of the process after a round."""

    seconds: float
    memory_mb: float
    open_files: int
    threads: int
    processes: int
    shared_memory: int
    temporary_files: int


def sample(began: float, temporary: Path) -> Sample:
    """Current resources of this process."""
    process = psutil.Process()
    return Sample(
        round(time.monotonic() - began, 1),
        round(process.memory_info().rss / 1e6, 1),
        process.num_fds(),
        process.num_threads(),
        len(process.children(recursive=True)),
        left_in_shared_memory(),
        sum(1 for _ in temporary.rglob("*")),
    )


def left_in_shared_memory() -> int:
    """Number of torch's entries in /dev/shm that belong to this process or to an ended one."""
    names = [entry.name for entry in Path("/dev/shm").iterdir()] if Path("/dev/shm").is_dir() else []  # noqa: S108
    owners = [int(found[1]) for name in names if (found := re.match(r"torch_(\d+)_", name))]
    return sum(owner == os.getpid() or not psutil.pid_exists(owner) for owner in owners)


def one_round(place: Path, images: Path, test: Path) -> None:
    """Train, mine, embed and fine-tune in a separate folder.

    Raises:
        SystemExit: If a command failed.
    """
    run = place / "run"
    commands = [
        pretraining(images, run),
        ["mine", str(images), "--encoder", str(run), "--workers", "2"],
        ["embed", str(images), "--encoder", str(run), "--out", str(place / "features.parquet"), "--workers", "2"],
        ["finetune", "--start", str(run), "--train", str(images), "--test", str(test), *SHORT, "--workers", "2"],
    ]
    for command in commands:
        code, said = do(command)
        if code:
            raise SystemExit(f"sdclr {' '.join(command)} ended with {code}: {said}")
    shutil.rmtree(place)


def soak(minutes: float, place: Path, out: Path | None = None) -> list[Sample]:
    """Run rounds until the time is up, at least two that count. Each round writes the samples so far to a CSV file."""
    temporary = place / "tmp"
    temporary.mkdir()
    tempfile.tempdir = str(temporary)
    images, test = place / "images", place / "test"
    write_pictures(images, 48)
    write_pictures(test, 24, seed=1)
    began, samples = time.monotonic(), list[Sample]()
    while time.monotonic() - began < 60 * minutes or len(samples) < WARM_UP + 2:
        one_round(place / "round", images, test)
        samples.append(sample(began, temporary))
        print(f"round {len(samples)}: {samples[-1]}", flush=True)
        if out is not None:
            write(samples, out)
    return samples


def write(samples: Sequence[Sample], path: Path) -> None:
    """Write the samples to a CSV file."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(Sample._fields)
        rows.writerows(samples)


def rising(samples: Sequence[Sample]) -> list[str]:
    """Resources that grew after the warm-up."""
    counted = samples[WARM_UP:]
    part = max(1, len(counted) // 4)
    first, last = counted[:part], counted[-part:]
    found = []
    before, after = (sorted(s.memory_mb for s in some)[part // 2] for some in (first, last))
    if after > before * (1 + GROWTH):
        found.append(f"memory_mb from {before} to {after}")
    for name in ("open_files", "threads", "processes", "shared_memory", "temporary_files"):
        before, after = max(getattr(s, name) for s in first), min(getattr(s, name) for s in last)
        if after > before:
            found.append(f"{name} from {before} to {after}")
    return found


def draw(samples: Sequence[Sample], path: Path) -> None:
    """Memory and counts over time."""
    from matplotlib import rc_context  # noqa: PLC0415  # slow to load
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    minutes = [s.seconds / 60 for s in samples]
    above.plot(minutes, [s.memory_mb for s in samples])
    above.set(ylabel="memory (RSS), MB", ylim=(0, None))
    for name in ("open_files", "threads", "processes", "shared_memory", "temporary_files"):
        below.plot(minutes, [getattr(s, name) for s in samples], label=name.replace("_", " "))
    below.set(xlabel="minutes", ylabel="count", ylim=(0, None))
    below.legend(ncols=3, fontsize="small", loc="upper left")
    below.set_ylim(top=1.5 * max(1, *(s.open_files for s in samples), *(s.threads for s in samples)))
    path.parent.mkdir(parents=True, exist_ok=True)
    with rc_context({"svg.hashsalt": "soak"}):  # equal data give equal files
        figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--out", type=Path, help="a CSV file for the samples")
    parser.add_argument("--figure", type=Path, help="an SVG file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        place = Path(name).resolve()
        os.environ["XDG_CACHE_HOME"] = str(place / "cache")
        samples = soak(options.minutes, place, options.out)
        tempfile.tempdir = None
    if options.figure is not None:
        draw(samples, options.figure)
    found = rising(samples)
    counted = samples[WARM_UP:]
    memory = [s.memory_mb for s in counted]
    print(f"{len(samples)} rounds in {samples[-1].seconds / 60:.1f} minutes; memory {min(memory)} to {max(memory)} MB")
    if found:
        sys.exit(f"rising: {'; '.join(found)}")


if __name__ == "__main__":
    main()
