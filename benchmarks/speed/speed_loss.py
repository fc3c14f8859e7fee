"""NT-Xent, forward and backward: time compared with other libraries, and peak memory in a new process for each.

    python benchmarks/speed/speed_loss.py tiled 32768 [--dim 128] [--threads 1]

measures one implementation at one batch size and writes JSON to standard output: seconds, and peak resident bytes above
those of the process before it had any input. Memory is read from `/proc`: Linux only.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import torch
from lightly.loss import NTXentLoss
from pytorch_metric_learning.losses import NTXentLoss as PairwiseNTXentLoss
from pytorch_metric_learning.losses import SelfSupervisedLoss
from torch import Tensor

from sdclr.method import nt_xent
from sdclr.method.tiled import tiling
from speed_harness import Candidate, Comparison, Effort, Findings, Table, Target, compare
from speed_resident import GIB, MIB, STATUS, peak, resident

Kind = Literal["tiled", "dense", "lightly", "pytorch-metric-learning"]
KINDS: tuple[Kind, ...] = get_args(Kind)
NAMES: dict[Kind, str] = {
    "tiled": "sdclr, in tiles",
    "dense": "sdclr, the full matrix",
    "lightly": "lightly NTXentLoss",
    "pytorch-metric-learning": "pytorch-metric-learning NTXentLoss",
}

TEMPERATURE = 0.2


@dataclass(frozen=True, kw_only=True)
class LossSize:
    """Size of two branches' outputs for one batch."""

    batch: int
    dim: int = 128

    def __str__(self) -> str:
        return f"N = {self.batch:,}, D = {self.dim}"

    def draw(self) -> tuple[Tensor, Tensor]:
        """Outputs `(N, D)` of two branches; the second is similar to the first, as after some training."""
        generator = torch.Generator().manual_seed(0)
        a, noise = (torch.randn(self.batch, self.dim, generator=generator) for _ in range(2))
        return a.requires_grad_(), (a.detach() + noise).requires_grad_()


class Cost(NamedTuple):
    """Cost of one forward and backward pass."""

    seconds: float
    peak: int
    """Peak memory in bytes, including inputs and gradients."""


def loss_of(kind: Kind) -> Callable[[Tensor, Tensor], Tensor]:
    """The mean NT-Xent of two branches' outputs `(N, D)`, by one implementation."""
    if kind == "lightly":
        return NTXentLoss(temperature=TEMPERATURE)
    if kind == "pytorch-metric-learning":
        return SelfSupervisedLoss(PairwiseNTXentLoss(temperature=TEMPERATURE))
    return lambda a, b: nt_xent(a, b, TEMPERATURE, tiled=kind == "tiled")


def least_bytes(kind: Kind, size: LossSize) -> int:
    """Lower bound of an implementation's memory without inputs, to leave out those that cannot fit."""
    rows = 2 * size.batch
    if kind == "tiled":
        return 4 * 4 * rows * size.dim  # the rows, normalized and scaled, and their gradients
    if kind == "pytorch-metric-learning":
        return 4 * 4 * rows * rows * (rows - 2)  # each positive pair is combined with all negative pairs
    return (4 if kind == "lightly" else 3) * 4 * rows * rows


def compare_losses(size: LossSize, effort: Effort, *, limit: int = 3 * GIB // 2) -> Comparison:
    """Seconds for forward and backward on the same inputs, after a check that all losses are equal.

    The variant that nt_xent chooses at this size comes first. Implementations that need `limit` bytes are left out.

    Raises:
        ValueError: If two implementations differ by more than 1e-5.
    """
    fitting = [kind for kind in KINDS if least_bytes(kind, size) < limit]
    if (2 * size.batch) ** 2 < tiling(torch.device("cpu")).worthwhile:
        fitting.sort(key=["dense", *KINDS].index)
    a, b = size.draw()
    _check_same_work(fitting, a, b)
    candidates = [_candidate(kind, a, b) for kind in fitting]
    note = f"Forward and backward, float32, τ = {TEMPERATURE}. All give the same loss to 1e-5."
    note += _left_out([kind for kind in KINDS if kind not in fitting], limit)
    return compare(f"NT-Xent, {size}", note, "s", candidates, effort)


def _candidate(kind: Kind, a: Tensor, b: Tensor) -> Candidate:
    loss = loss_of(kind)

    def forget() -> None:
        a.grad = b.grad = None

    return Candidate(NAMES[kind], lambda: loss(a, b).backward(), prepare=forget)


def _check_same_work(kinds: Sequence[Kind], a: Tensor, b: Tensor) -> None:
    with torch.no_grad():
        values = {kind: float(loss_of(kind)(a, b)) for kind in kinds}
    if max(values.values()) - min(values.values()) > 1e-5:
        raise ValueError(f"not the same loss, so not the same work: {values}")


def _left_out(kinds: Sequence[Kind], limit: int) -> str:
    if not kinds:
        return ""
    return f" Left out because it would take {limit / GIB:g} GiB or more: {', '.join(NAMES[kind] for kind in kinds)}."


def measure_loss(kind: Kind, n: int, dim: int = 128, *, threads: int = 1) -> Cost:
    """Time and peak memory of forward and backward on outputs `(n, dim)`, in a new process."""
    arguments = [kind, n, "--dim", dim, "--threads", threads]
    command = [sys.executable, str(Path(__file__).resolve()), *map(str, arguments)]
    return Cost(**json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))


def measure_losses(
    batches: Sequence[int], *, dim: int = 128, limit: int = 16 * GIB, threads: int = 1, promised: int = 32_768
) -> Findings:
    """Time and peak memory of all implementations at several batch sizes, except those that need `limit` bytes."""
    if not STATUS.exists():
        return Findings()
    rows: list[tuple[str, str, float, float]] = []
    targets, left_out = [], []
    for size in (LossSize(batch=batch, dim=dim) for batch in batches):
        for kind in KINDS:
            if least_bytes(kind, size) >= limit:
                left_out.append(f"{NAMES[kind]} at {size}")
                continue
            cost = measure_loss(kind, size.batch, dim, threads=threads)
            rows.append((NAMES[kind], f"{size.batch:,}", cost.seconds, cost.peak / MIB))
            if kind == "tiled" and size.batch == promised:
                targets.append(Target(what=f"Peak GiB of NT-Xent in tiles, {size}", limit=2, measured=cost.peak / GIB))
    note = "Forward and backward, float32, each in a fresh process; memory above that of the process without any input."
    if left_out:
        note += f" Not measured because it would take {limit / GIB:g} GiB or more: {'; '.join(left_out)}."
    heading = ("", "N", "seconds", "peak MiB")
    return Findings(targets=targets, tables=[Table(title="NT-Xent, memory", note=note, heading=heading, rows=rows)])


def measure_here(kind: Kind, size: LossSize, *, rounds: int = 5, seconds: float = 5) -> Cost:
    """The same in this process. The first pass is not timed. A single timed pass is enough if it takes long."""
    loss = loss_of(kind)
    _pass(loss, *LossSize(batch=2, dim=2).draw())  # one-time setup of libraries does not count
    before = resident()
    a, b = size.draw()
    _pass(loss, a, b)
    taken: list[float] = []
    while not taken or (len(taken) < rounds and sum(taken) < seconds):
        taken.append(_pass(loss, a, b))
    return Cost(statistics.median(taken), peak() - before)


def _pass(loss: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> float:
    a.grad = b.grad = None
    start = time.perf_counter()
    loss(a, b).backward()
    return time.perf_counter() - start


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("batch", type=int)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    print(json.dumps(measure_here(options.kind, LossSize(batch=options.batch, dim=options.dim))._asdict()))


if __name__ == "__main__":
    main()
