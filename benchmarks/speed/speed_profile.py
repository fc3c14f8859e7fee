"""Time of the parts of our training step, and its share of the machine's peak."""

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.profiler import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.flop_counter import FlopCounterMode

from sdclr.loading.batches import Batch, ResidentLoader
from sdclr.method import Objective, nt_xent
from speed_harness import Findings, Table, Target, number
from speed_steps import NAMES, TEMPERATURE, Precision, StepSize, Training, loader_of

STEP = "step"
FORWARD, BACKWARD = "convolution, forward", "convolution, backward"
VIEWS, MASKS, LOSS, OPTIMIZER = "views", "masks", "loss", "optimizer"
NORM, ELEMENTWISE, HEAD = "batch normalization", "ReLU and sums", "linear layers"
CASTS, REST = "casts to bf16", "rest"
GROUPS = (FORWARD, BACKWARD, NORM, ELEMENTWISE, HEAD, CASTS, MASKS, LOSS, OPTIMIZER, VIEWS, REST)

_KINDS = {
    "aten::conv2d": FORWARD,
    "aten::batch_norm": NORM,
    "aten::relu_": ELEMENTWISE,
    "aten::add": ELEMENTWISE,
    "aten::add_": ELEMENTWISE,
    "aten::linear": HEAD,
    "aten::to": CASTS,
}
"""Group of an operation in the forward pass, including the operations inside it."""
_NODE = "autograd::engine::evaluate_function: "


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Profile of a training step in one precision."""

    size: StepSize
    amp: Precision
    seconds: dict[str, float]
    """Seconds by group of operations."""
    flops: dict[str, float]
    """Floating-point operations of the convolutions, and of convolutions and matrix products together."""

    def __str__(self) -> str:
        return f"width {self.size.width}, batch {self.size.batch}, {NAMES[self.amp]}"

    @property
    def total(self) -> float:
        return sum(self.seconds.values())

    @property
    def convolutions(self) -> float:
        return self.seconds[FORWARD] + self.seconds[BACKWARD]


def profile_steps(images: Tensor, sizes: Sequence[StepSize], *, product: int = 2048) -> Findings:
    """Time of a step's parts in both precisions, and its speed compared with the best matrix product of this machine.

    Args:
        images: (N, 3, H, W) uint8.
        sizes: Sizes of the steps; the target is for the last and widest.
        product: Side of the matrices.
    """
    precisions: tuple[Precision, ...] = ("none", "bf16")
    profiles = [profile_step(images, size, amp) for size in sizes for amp in precisions]
    peaks = {amp: matrix_rate(amp, product) for amp in precisions}
    widest = profiles[-len(precisions)]
    target = Target(
        what=f"Convolutions' share of a step, {widest}",
        limit=0.95,
        at_most=False,
        measured=widest.convolutions / widest.total,
    )
    return Findings(targets=[target], tables=[_shares(profiles), _rates(profiles, peaks, product)])


def profile_step(images: Tensor, size: StepSize, amp: Precision, *, steps: int = 2) -> Profile:
    """One step of SDCLR, including its views, without a refresh of the masks.

    A backward operation counts for the group of its forward operation; torch gives both the same sequence number.
    """
    training = Training("sdclr", size, amp=amp)
    _mark(training)
    batches = _endless(loader_of(images, size))
    with FlopCounterMode(display=False) as counter:  # also a warm-up
        _take(training, batches)
    counted = {str(kind): float(flops) for kind, flops in counter.get_flop_counts()["Global"].items()}
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiled:
        for _ in range(steps):
            with record_function(STEP):
                _take(training, batches)
    spent = _by_group(list(profiled.events()))
    flops = {
        "convolutions": sum(value for kind, value in counted.items() if "convolution" in kind),
        "all": sum(counted.values()),
    }
    seconds = {group: spent[group] / steps / 1e6 for group in GROUPS}
    return Profile(size=size, amp=amp, seconds=seconds, flops=flops)


def matrix_rate(amp: Precision, side: int, *, repeats: int = 10) -> float:
    """Operations per second of the fastest of several products of square matrices: the peak of this machine."""
    kind = torch.bfloat16 if amp == "bf16" else torch.float32
    a, b = torch.randn(2, side, side).to(kind)
    out = torch.empty_like(a)
    taken = []
    for _ in range(1 + repeats):
        start = time.perf_counter()
        torch.mm(a, b, out=out)
        taken.append(time.perf_counter() - start)
    return 2 * side**3 / min(taken[1:])


def _shares(profiles: Sequence[Profile]) -> Table:
    rows = [(group, *(f"{profile.seconds[group] / profile.total:.1%}" for profile in profiles)) for group in GROUPS]
    return Table(
        title="Time of a step by operation",
        note=(
            "SDCLR, ResNet-18 at 32 px, by torch's profiler: an operation's own time and that of its backward "
            "operation. Batch normalization, ReLU and sums move every activation through memory for few operations; "
            "they are torch's kernels and limit the share of convolutions. The rest is Python, pooling and the "
            "normalization of the input."
        ),
        heading=("", *map(str, profiles)),
        rows=[*rows, ("seconds per step", *(number(profile.total) for profile in profiles))],
    )


def _rates(profiles: Sequence[Profile], peaks: Mapping[Precision, float], product: int) -> Table:
    rows = []
    for found in profiles:
        peak = peaks[found.amp]
        inside, whole = found.flops["convolutions"] / found.convolutions, found.flops["all"] / found.total
        shares = (f"{inside / peak:.0%}", f"{whole / peak:.0%}")
        rows.append((str(found), found.flops["all"] / 1e9, peak / 1e9, *shares))
    return Table(
        title="Share of the machine's peak",
        note=(
            "Operations counted by torch's flop counter, over the time of the convolutions and over that of the whole "
            f"step; the peak is the best of ten products of square matrices of side {product:,} in the same precision, "
            f"with the same {torch.get_num_threads()} thread(s)."
        ),
        heading=("", "GFLOP per step", "peak, GFLOP/s", "convolutions / peak", "step / peak"),
        rows=rows,
    )


def _take(training: Training, batches: Iterator[Batch]) -> None:
    with record_function(VIEWS):
        batch = next(batches)
    training.step(batch.view1, batch.view2)


def _endless(loader: ResidentLoader) -> Iterator[Batch]:
    return itertools.chain.from_iterable(loader.epoch(epoch) for epoch in itertools.count())


def _mark(training: Training) -> None:
    """Name the parts of a step that operations' names do not identify."""

    def framework(a: nn.Module, b: nn.Module, view1: Tensor, view2: Tensor) -> Tensor:
        outputs = a(view1), b(view2)
        with record_function(LOSS):
            return nt_xent(*outputs, TEMPERATURE, reduction="none")

    network, competitor = training.objective.network, training.objective.competitor
    competitor.twin = _named(MASKS, competitor.twin)
    training.objective = Objective(framework, network, competitor)


def _named(name: str, call: Callable[[], object]) -> Callable[[], object]:
    def named() -> object:
        with record_function(name):
            return call()

    return named


def _by_group(events: list[FunctionEvent]) -> Counter[str]:
    """Microseconds of each group, from the operations' own times without the operations inside them."""
    groups: dict[int, str] = {}
    backward: set[int] = set()
    forward: dict[int, str] = {}
    spent: Counter[str] = Counter()
    # Parents start before their children, and forward operations before their backward ones.
    for event in sorted(events, key=lambda event: (event.time_range.start, -event.time_range.end)):
        parent = event.cpu_parent
        if event.name != STEP and parent is None:
            continue
        group = _group(event, groups.get(id(parent), REST), forward)
        groups[id(event)] = group
        if event.name.startswith(_NODE) or id(parent) in backward:
            backward.add(id(event))
        else:
            # Operations without gradient share the number with the next one, so the last one with it counts.
            forward[event.sequence_nr] = group
        spent[group] += event.self_cpu_time_total
    return spent


def _group(event: FunctionEvent, inherited: str, forward: dict[int, str]) -> str:
    if event.name in {VIEWS, MASKS, LOSS}:
        return event.name
    if event.name.startswith("Optimizer."):  # torch's names of its step and of `zero_grad`
        return OPTIMIZER
    if event.name.startswith(_NODE):
        group = forward.get(event.sequence_nr, REST)
        return BACKWARD if group == FORWARD else group
    if inherited == REST:
        return _KINDS.get(event.name, REST)
    return inherited
