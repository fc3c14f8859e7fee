"""Peak memory of a training step in a new process for each method, and memory between steps.

    python benchmarks/speed/speed_memory.py sdclr 64 128 32 [--amp bf16] [--checkpoint]

measures one method (here SDCLR, width 64, batch 128, 32 px) and writes JSON to standard output; `speed.py` does that
for all and compares. Linux only.
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

from sdclr.training.activations import checkpoint_activations
from speed_harness import Findings, Table, Target
from speed_resident import MIB, STATUS, peak, resident
from speed_steps import NAMES, Method, Precision, StepSize, Training


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Memory of one method, in bytes."""

    peak: int
    """Peak resident memory during training, above the resident memory before the network was built."""
    between: int
    """Tensors between steps, without gradients: weights, momentum, masks, statistics."""
    unexplained: int
    """Those of them that are not a parameter, buffer or optimizer state."""
    weights: int
    """The network's parameters, for comparison."""


SDCLR, SIMCLR, AGAIN = "SDCLR", "SimCLR", "SDCLR, recomputed activations"
WAYS = {SDCLR: ("sdclr",), SIMCLR: ("simclr",), AGAIN: ("sdclr", "--checkpoint")}
"""The compared methods, with the arguments of this script."""


@dataclass(frozen=True)
class MemoryComparison:
    """All methods at one size: medians over repeats."""

    size: StepSize
    amp: Precision
    usage: dict[str, list[Usage]]

    def __str__(self) -> str:
        return f"{self.size}, {NAMES[self.amp]}"

    def median(self, way: str, field: str) -> float:
        return statistics.median(getattr(usage, field) for usage in self.usage[way])

    @property
    def ratio(self) -> float:
        """Peak of SDCLR over that of SimCLR."""
        return self.median(SDCLR, "peak") / self.median(SIMCLR, "peak")

    def findings(self) -> Findings:
        unexplained = self.median(SDCLR, "unexplained") / MIB
        targets = [
            Target(what=f"Peak memory of SDCLR / SimCLR, {self}", limit=1.05, measured=self.ratio),
            Target(what=f"Unexplained MiB between steps, {self}", limit=0, measured=unexplained),
        ]
        fields = ("peak", "between", "unexplained", "weights")
        rows = [
            (way, *(self.median(way, field) / MIB for field in fields), len(usage)) for way, usage in self.usage.items()
        ]
        heading = ("MiB", "peak", "tensors between steps", "unexplained tensors", "the weights alone", "processes")
        return Findings(
            targets=targets, tables=[Table(title=f"Memory, {self}", note=_NOTE, heading=heading, rows=rows)]
        )


_NOTE = (
    "Peak resident memory while masks are chosen and two steps are taken, above that of the process before it built "
    "the network. Between steps, a tensor is unexplained if it is not a parameter, buffer or optimizer state, such "
    "as a second copy of the weights. The last row recomputes the activations of the blocks in the backward pass "
    "(`--checkpoint-activations`)."
)


def compare_memory(size: StepSize, amp: Precision, *, repeats: int, threads: int) -> MemoryComparison | None:
    """Measure all methods in turn; None if the kernel does not report memory."""
    if not STATUS.exists():
        return None
    usage: dict[str, list[Usage]] = {way: [] for way in WAYS}
    for _ in range(repeats):
        for way, (method, *options) in WAYS.items():
            arguments = [method, size.width, size.batch, size.image_size, "--amp", amp, "--threads", threads, *options]
            command = [sys.executable, str(Path(__file__).resolve()), *map(str, arguments)]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            usage[way].append(Usage(**json.loads(output)))
    return MemoryComparison(size, amp, usage)


def measure(
    method: Method, size: StepSize, *, amp: Precision = "none", checkpoint: bool = False, steps: int = 2
) -> Usage:
    """Train a few steps in this process. The second step is the first with momentum and a refreshed mask."""
    torch.manual_seed(0)
    views = [_laid_out(torch.rand(size.batch, 3, size.image_size, size.image_size)) for _ in range(2)]
    others = _tensors()  # kept, so that new tensors cannot have their addresses
    before = resident()
    training = Training(method, size, amp=amp)
    if checkpoint:
        checkpoint_activations(training.objective.network)
    competitor = training.objective.competitor
    for _ in range(steps):
        if competitor is not None:
            competitor.refresh()  # its temporary memory counts, too
        training.step(*views)
    most = peak() - before
    training.optimizer.zero_grad(set_to_none=True)
    parameters, state = list(training.objective.parameters()), training.optimizer.state.values()
    kept = [value for entry in state for value in entry.values() if isinstance(value, Tensor)]
    explained = {**storages(parameters), **storages(training.objective.buffers()), **storages(kept)}
    known = storages(others)
    alive = {pointer: size for pointer, size in storages(_tensors()).items() if pointer not in known}
    return Usage(
        peak=most,
        between=sum(alive.values()),
        unexplained=sum(size for pointer, size in alive.items() if pointer not in explained),
        weights=sum(storages(training.objective.network.parameters()).values()),
    )


def _tensors() -> list[Tensor]:
    gc.collect()
    return [item for item in gc.get_objects() if type(item) in {Tensor, torch.nn.Parameter}]


def storages(tensors: Iterable[Tensor]) -> dict[int, int]:
    """Bytes of the tensors' storages by address, each counted once."""
    found = (tensor.untyped_storage() for tensor in tensors)
    return {storage.data_ptr(): storage.nbytes() for storage in found if storage.nbytes()}


def _laid_out(view: Tensor) -> Tensor:
    return view.contiguous(memory_format=torch.channels_last)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=["sdclr", "simclr"])
    parser.add_argument("width", type=int)
    parser.add_argument("batch", type=int)
    parser.add_argument("image_size", type=int)
    parser.add_argument("--amp", choices=["none", "bf16"], default="none")
    parser.add_argument("--checkpoint", action="store_true", help="compute activations again in the backward pass")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    size = StepSize(width=options.width, batch=options.batch, image_size=options.image_size)
    print(json.dumps(asdict(measure(options.method, size, amp=options.amp, checkpoint=options.checkpoint))))


if __name__ == "__main__":
    main()
