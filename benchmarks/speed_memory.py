"""Peak memory of a training step, each method in a fresh process, and what lives on between steps.

    python benchmarks/speed_memory.py sdclr 64 128 32

measures one method (here SDCLR, width 64, batch 128, 32 px) and writes JSON to standard output; `speed.py` does that
for both and compares. Linux only: the kernel's high-water mark of this very process is read from `/proc`. What
`getrusage` tells would not do: it starts at the size of the process that launched this one.
"""

import argparse
import gc
import json
import statistics
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from speed_harness import markdown, number
from speed_steps import Method, StepSize, Training

STATUS = Path("/proc/self/status")
MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What one method took, in bytes."""

    peak: int
    """Most resident memory while training, above what was resident before anything of it was built."""
    between: int
    """Tensors alive between steps, when gradients are gone: weights, momentum, masks, statistics."""
    unexplained: int
    """Those of them that are no parameter, buffer or optimiser state."""
    weights: int
    """The network's parameters, for comparison."""


@dataclass(frozen=True)
class MemoryComparison:
    """Both methods at one size: medians over repeats."""

    size: StepSize
    usage: dict[Method, list[Usage]]

    def median(self, method: Method, field: str) -> float:
        return statistics.median(getattr(usage, field) for usage in self.usage[method])

    @property
    def ratio(self) -> float:
        """Peak of SDCLR over that of SimCLR."""
        return self.median("sdclr", "peak") / self.median("simclr", "peak")

    def table(self) -> str:
        names: dict[Method, str] = {"sdclr": "SDCLR", "simclr": "SimCLR"}
        fields = ("peak", "between", "unexplained", "weights")
        rows = [
            (name, *(number(self.median(method, field) / MIB) for field in fields), len(self.usage[method]))
            for method, name in names.items()
        ]
        heading = ("MiB", "peak", "tensors between steps", "unexplained tensors", "the weights alone", "processes")
        return markdown(heading, rows)


def compare_memory(size: StepSize, *, repeats: int, threads: int) -> MemoryComparison | None:
    """Measure both methods in turn; None where the kernel does not tell."""
    if not STATUS.exists():
        return None
    usage: dict[Method, list[Usage]] = {"sdclr": [], "simclr": []}
    for _ in range(repeats):
        for method, seen in usage.items():
            arguments = [method, size.width, size.batch, size.image_size, "--threads", threads]
            command = [sys.executable, str(Path(__file__).resolve()), *map(str, arguments)]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            seen.append(Usage(**json.loads(output)))
    return MemoryComparison(size, usage)


def measure(method: Method, size: StepSize, *, steps: int = 2) -> Usage:
    """Train a few steps in this process. The second is the first that finds momentum and a refreshed mask in place."""
    torch.manual_seed(0)
    views = [_laid_out(torch.rand(size.batch, 3, size.image_size, size.image_size)) for _ in range(2)]
    others = _tensors()  # held on to, so that nothing new can lie at their addresses
    before = _status("VmRSS")
    training = Training(method, size)
    competitor = training.objective.competitor
    for _ in range(steps):
        if competitor is not None:
            competitor.refresh()  # what it needs for a moment counts
        training.step(*views)
    peak = _status("VmHWM") - before
    training.optimizer.zero_grad(set_to_none=True)
    parameters, state = list(training.objective.parameters()), training.optimizer.state.values()
    kept = [value for entry in state for value in entry.values() if isinstance(value, Tensor)]
    explained = {**storages(parameters), **storages(training.objective.buffers()), **storages(kept)}
    known = storages(others)
    alive = {pointer: size for pointer, size in storages(_tensors()).items() if pointer not in known}
    return Usage(
        peak=peak,
        between=sum(alive.values()),
        unexplained=sum(size for pointer, size in alive.items() if pointer not in explained),
        weights=sum(storages(training.objective.network.parameters()).values()),
    )


def _tensors() -> list[Tensor]:
    gc.collect()
    return [item for item in gc.get_objects() if type(item) in {Tensor, torch.nn.Parameter}]


def storages(tensors: Iterable[Tensor]) -> dict[int, int]:
    """Bytes of the storages under some tensors, each once, by address."""
    found = (tensor.untyped_storage() for tensor in tensors)
    return {storage.data_ptr(): storage.nbytes() for storage in found if storage.nbytes()}


def _laid_out(view: Tensor) -> Tensor:
    return view.contiguous(memory_format=torch.channels_last)


def _status(field: str) -> int:
    """One of this process's sizes, in bytes."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return 1024 * int(line.split()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=["sdclr", "simclr"])
    parser.add_argument("width", type=int)
    parser.add_argument("batch", type=int)
    parser.add_argument("image_size", type=int)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    size = StepSize(width=options.width, batch=options.batch, image_size=options.image_size)
    print(json.dumps(asdict(measure(options.method, size))))


if __name__ == "__main__":
    main()
