"""Tar shards of very many small images: memory, speed compared with images in memory, and a killed run.

    python benchmarks/speed/shards.py make --images 500000 --out shards
    python benchmarks/speed/shards.py memory --shards shards
    python benchmarks/speed/shards.py speed --shards shards
    python benchmarks/speed/shards.py killed --shards shards

The images are crops of CIFAR-10 (`--cifar`) of 24 to 32 px, as JPEGs. Sizes differ, so that training does not keep them
in memory. `memory` reads all of them in random order in a worker process. `speed` measures the CPU time of batches of
view pairs and of training steps, alternating with images in memory. `killed` kills a run of 40 steps and resumes it.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import psutil
import torch
from numpy.typing import NDArray

import sdclr
from sdclr.data.sources import Source, SubsetSource
from sdclr.loading.batches import Batch
from sdclr.loading.streaming import StreamLoader
from speed_harness import Candidate, Comparison, Effort, compare

VIEWS: Final = sdclr.ViewConfig(image_size=32)
BATCH: Final = 256
BUFFER: Final = 20_000
HELD: Final = 20_000
"""Number of images in memory, for comparison."""


class Crops:
    """Crops of CIFAR-10, equal each time, encoded on demand."""

    def __init__(self, cifar10: str, images: int) -> None:
        self._whole = Held(sdclr.open_source(cifar10))
        self.name = "crops"
        self.ids = [f"crops/{number:07d}" for number in range(images)]
        self.labels = self._whole.labels[np.arange(images) % len(self._whole)]
        self.classes = self._whole.classes

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, index: int, *, min_side: int | None = None) -> NDArray[np.uint8]:  # noqa: ARG002
        random = np.random.default_rng(index)
        height, width = random.integers(24, 33, 2)
        top, left = random.integers(0, 33 - height), random.integers(0, 33 - width)
        return self._whole.image(index % len(self._whole))[top : top + height, left : left + width]

    def encoded(self, index: int) -> bytes:
        return bytes(cv2.imencode(".jpg", cv2.cvtColor(self.image(index), cv2.COLOR_RGB2BGR))[1])


class Held:
    """Images of another source, decoded in memory."""

    def __init__(self, source: Source) -> None:
        self._images = [source.image(index) for index in range(len(source))]
        self.name, self.ids, self.labels, self.classes = source.name, source.ids, source.labels, source.classes

    def __len__(self) -> int:
        return len(self._images)

    def image(self, index: int, *, min_side: int | None = None) -> NDArray[np.uint8]:  # noqa: ARG002
        return self._images[index]


def make(cifar10: str, images: int, out: Path) -> None:
    """Write the shards."""
    begun = time.monotonic()
    done = sdclr.pack(Crops(cifar10, images), out, shuffle=True)
    print(f"{done.images:,} images, {done.shards} shards, {done.bytes / 1e6:.0f} MB, {time.monotonic() - begun:.0f} s")


def held_mib() -> int:
    """Memory of this process and its workers that is not shared with other processes (USS), in MiB."""
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return round(sum(process.memory_full_info().uss for process in processes) / 2**20)


def memory(shards: Path) -> None:
    """Print the memory while all images are read in random order."""
    before, begun = held_mib(), time.monotonic()
    source = sdclr.open_source(f"wds:{shards}")
    opened = time.monotonic() - begun
    print(f"{len(source):,} images; opened in {opened:.1f} s with {held_mib() - before} MiB more")
    loader = StreamLoader(source, VIEWS, seed=0, batch_size=BATCH, workers=1, views=1)
    marks = {max(1, round(part * loader.steps_per_epoch)): part for part in (0.1, 0.25, 0.5, 0.75, 1.0)}
    for step, _ in enumerate(loader.epoch(0), start=1):
        if step in marks:
            print(
                f"after {marks[step]:.0%}: {held_mib()} MiB, {step * BATCH / (time.monotonic() - begun):,.0f} images/s"
            )


def endless(loader: StreamLoader) -> Iterator[Batch]:
    for epoch in range(10**9):
        yield from loader.epoch(epoch)


def taking(source: Source, batches: int, step: Callable[[Batch], object], buffer: int) -> Candidate:
    """A candidate that takes a number of batches of a source."""
    loader = StreamLoader(source, VIEWS, seed=0, batch_size=BATCH, shuffle_buffer=buffer)
    stream = endless(loader)

    def call() -> None:
        for batch in islice(stream, batches):
            step(batch)

    return Candidate(source.name, call, units=batches * BATCH)


def training() -> Callable[[Batch], object]:
    """A step of SDCLR with a narrow ResNet-18."""
    torch.manual_seed(0)
    config = sdclr.EncoderConfig(name="resnet18", width=16)
    from sdclr.encoders.create import create_network  # noqa: PLC0415

    network = create_network(config, sdclr.HeadConfig(), 32)
    objective = sdclr.Objective(sdclr.SimCLR(), network, sdclr.SelfCompetitor(network, 0.9))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)

    def step(batch: Batch) -> None:
        optimizer.zero_grad()
        objective(batch.view1, batch.view2).mean().backward()
        optimizer.step()

    return step


def speed(shards: Path, rounds: int) -> None:
    """Images per second from shards and from memory, measured alternately."""
    source = sdclr.open_source(f"wds:{shards}")
    held = Held(SubsetSource(source, np.arange(min(HELD, len(source)))))
    effort = Effort(rounds=rounds, seconds=600)
    for title, batches, make_step in (("batches alone", 12, lambda: bool), ("steps of training", 3, training)):
        named = []
        for name, images, buffer in (("shards", source, 0), ("shards, buffer", source, BUFFER), ("memory", held, 0)):
            candidate = taking(images, batches, make_step(), buffer)
            named.append(Candidate(name, candidate.call, candidate.units))
        # CPU time of a single process, which hardly depends on other programs.
        found: Comparison = compare(title, "", "/s", named, effort, clock=time.process_time)
        print(f"\n{title}\n\n{found.table()}", flush=True)


def steps(run: Path) -> int:
    """The step of the newest checkpoint of a run; 0 if it has none."""
    return max((int("".join(filter(str.isdigit, file.stem)) or 0) for file in run.glob("checkpoints/*.pt")), default=0)


def killed(shards: Path, kills: int) -> None:
    """Compare a run that is killed several times with one that is not."""
    runs = shards.parent / f"{shards.name}-runs"
    command = [sys.executable, "-m", "sdclr", "pretrain", f"wds:{shards}", "--steps", "40", "--batch-size", "512"]
    command += ["--encoder.width", "8", "--checkpoint-minutes", "0", "--device", "cpu", "--amp", "none"]
    command += ["--threads", "1", "--workers", "1", "--no-progress", "--quiet", "--shuffle-buffer", "2000"]
    subprocess.run([*command, "--run", str(runs / "whole")], check=True)
    lines = [0]
    for number in range(kills):
        process = subprocess.Popen([*command, "--run", str(runs / "killed")])
        while process.poll() is None and steps(runs / "killed") <= lines[-1] + 10 + number:
            time.sleep(0.1)
        process.kill()
        process.wait()
        lines.append(steps(runs / "killed"))
    subprocess.run([*command, "--run", str(runs / "killed")], check=True)
    digests = [
        hashlib.sha256((runs / name / "encoder.safetensors").read_bytes()).hexdigest() for name in ("whole", "killed")
    ]
    print(json.dumps({"killed at step": lines[1:], "equal": len(set(digests)) == 1, "sha256": digests[0]}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("make", "memory", "speed", "killed"))
    parser.add_argument("--cifar", default="data/cifar10:train")
    parser.add_argument("--images", type=int, default=500_000)
    parser.add_argument("--out", type=Path, default=Path("shards"))
    parser.add_argument("--shards", type=Path, default=Path("shards"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--kills", type=int, default=3)
    given: Any = parser.parse_args()
    torch.set_num_threads(1)
    match given.what:
        case "make":
            make(given.cifar, given.images, given.out)
        case "memory":
            memory(given.shards)
        case "speed":
            speed(given.shards, given.rounds)
        case _:
            killed(given.shards, given.kills)


if __name__ == "__main__":
    main()
