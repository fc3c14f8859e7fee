"""Training steps of SDCLR, SimCLR and the scheme with three forward passes, and the refresh of the masks.

    python benchmarks/speed/speed_steps.py [--data DIR] [--width 16] [--batch 256] [--rounds 20]

prints the processor time of a step on one thread and its fixed costs in Markdown. These can be measured on a busy
machine. `speed.py --only steps` measures the rest.
"""

import argparse
import itertools
import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import process_time
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import prune

from sdclr.encoders import EncoderConfig
from sdclr.fastest import threads
from sdclr.loading.batches import ResidentLoader
from sdclr.method import Objective, SelfCompetitor, nt_xent
from sdclr.method.pruning import pruned_count
from sdclr.training.config import DamageConfig, PretrainConfig
from sdclr.training.optim import create_optimizer
from sdclr.training.optim_config import OptimConfig
from sdclr.training.run import create_objective
from sdclr.views.config import ViewConfig
from speed_harness import Candidate, Comparison, Effort, Table, compare, markdown, spread

Method = Literal["sdclr", "simclr"]
Precision = Literal["none", "bf16"]
NAMES: dict[Precision, str] = {"none": "float32", "bf16": "bf16"}

RATIO = 0.9
TEMPERATURE = 0.2
SDCLR, SIMCLR, THREE_FORWARDS = "SDCLR", "SimCLR", "SDCLR with three forward passes"
REFRESH = "SelfCompetitor.refresh"
CHANNELS_LAST = "channels last"
METHODS: dict[str, Method] = {SDCLR: "sdclr", SIMCLR: "simclr"}


@dataclass(frozen=True, kw_only=True)
class StepSize:
    """A ResNet-18 and its batch."""

    width: int
    """Channels of the first stage; 64 is the full network."""
    batch: int
    image_size: int = 32

    def __str__(self) -> str:
        return f"ResNet-18 of width {self.width}, {self.image_size} px, batch {self.batch}"


def configure(method: Method, size: StepSize) -> PretrainConfig:
    """One epoch of a method, at the size of a step."""
    return PretrainConfig(
        encoder=EncoderConfig(name="resnet18", width=size.width),
        views=ViewConfig(image_size=size.image_size),
        damage=DamageConfig(kind="prune" if method == "sdclr" else "none", ratio=RATIO),
        # Small, so that weights and losses stay normal numbers over many steps on one batch.
        optim=OptimConfig(lr=1e-4, final_lr=0, warmup_epochs=0),
        temperature=TEMPERATURE,
        epochs=1,
        batch_size=size.batch,
    )


class Training:
    """State of one training run, created as in `pretrain`. The same size and method give the same weights."""

    def __init__(
        self,
        method: Method,
        size: StepSize,
        *,
        amp: Precision = "none",
        layout: torch.memory_format = torch.channels_last,
    ) -> None:
        self.amp = amp
        config = configure(method, size)
        torch.manual_seed(0)
        self.objective: Objective = create_objective(config).to(memory_format=layout).train()
        self.optimizer = create_optimizer(self.objective, config.optim)

    def step(self, view1: Tensor, view2: Tensor) -> None:
        """Forward pass, backward pass and optimizer step."""
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(view1, self.amp):
            loss = self.objective(view1, view2).mean()
        loss.backward()
        self.optimizer.step()

    def step_of_three_forwards(self, view1: Tensor, view2: Tensor) -> None:
        """The same step without the graphs of both branches at once."""
        self.optimizer.zero_grad(set_to_none=True)
        three_forwards(self.objective, view1, view2)
        self.optimizer.step()


def autocast(view: Tensor, amp: Precision) -> torch.autocast:
    """Mixed precision on the device of a view, as in `pretrain` with `--amp bf16`."""
    return torch.autocast(view.device.type, dtype=torch.bfloat16, enabled=amp == "bf16")


def three_forwards(objective: Objective, view1: Tensor, view2: Tensor) -> None:
    """Compute the gradients of one step, for each branch with fixed outputs of the other.

    DistributedDataParallel does not allow two forward passes before a backward pass. The reference implementation
    therefore runs the pruned branch without gradient, then the dense branch with gradient against those outputs, then
    the pruned branch again with gradient against the dense branch's outputs. The loss depends on the weights only
    through the two outputs, so both parts add up to its gradient.
    """
    network, competitor = objective.network, objective.competitor
    with torch.no_grad():
        sparse = competitor(view2)
    dense = network(view1)
    nt_xent(dense, sparse, TEMPERATURE).backward()
    nt_xent(dense.detach(), competitor(view2), TEMPERATURE).backward()


def compare_layouts(images: Tensor, size: StepSize, effort: Effort) -> Comparison:
    """Seconds per step by memory layout of weights and views, in both precisions."""
    views = draw_pair(images, size)
    plain = tuple(view.contiguous() for view in views)
    candidates = []
    for amp, name in NAMES.items():
        ours = Training("sdclr", size, amp=amp)
        theirs = Training("sdclr", size, amp=amp, layout=torch.contiguous_format)
        candidates.append(Candidate(f"{CHANNELS_LAST}, {name}", lambda training=ours: training.step(*views)))
        candidates.append(Candidate(f"torch's default layout, {name}", lambda training=theirs: training.step(*plain)))
    return compare(f"Memory layout, {size}", "Forward, backward and SGD of SDCLR.", "s", candidates, effort)


def loader_of(images: Tensor, size: StepSize) -> ResidentLoader:
    """The views of a set of small images, in the memory layout of `pretrain`."""
    views = configure("sdclr", size).views
    return ResidentLoader(images, views, seed=0, batch_size=size.batch, channels_last=True)


def draw_pair(images: Tensor, size: StepSize) -> tuple[Tensor, Tensor]:
    """Two views of the first batch of a set."""
    batch = next(loader_of(images, size).epoch(0))
    return batch.view1, batch.view2


def compare_steps(images: Tensor, size: StepSize, effort: Effort) -> Comparison:
    """Seconds per step, without the refresh of the masks, which happens once per epoch."""
    view1, view2 = draw_pair(images, size)
    ours, plain, three = Training("sdclr", size), Training("simclr", size), Training("sdclr", size)
    candidates = [
        Candidate(SDCLR, lambda: ours.step(view1, view2)),
        Candidate(SIMCLR, lambda: plain.step(view1, view2)),
        Candidate(THREE_FORWARDS, lambda: three.step_of_three_forwards(view1, view2)),
    ]
    note = "Forward, backward and SGD; the same network, head, views and memory layout."
    return compare(f"Training step, {size}", note, "s", candidates, effort)


def compare_work(images: Tensor, size: StepSize, effort: Effort) -> Comparison:
    """Processor time of a step on one thread, which other processes on the machine affect little."""
    views = draw_pair(images, size)
    kinds = itertools.product(NAMES, METHODS)
    trained = {of_precision(name, amp): Training(METHODS[name], size, amp=amp) for amp, name in kinds}
    candidates = [Candidate(name, partial(training.step, *views)) for name, training in trained.items()]
    note = "Forward, backward and SGD."
    with threads(1):
        return compare(f"Processor time of a step on one thread, {size}", note, "s", candidates, effort, process_time)


def of_precision(name: str, amp: Precision) -> str:
    """Name of a method in a precision, as in tables."""
    return f"{name}, {NAMES[amp]}"


def fixed_costs(size: StepSize, *, rounds: int = 30) -> Table:
    """Costs of a step that do not grow with its images: Python, the launch of operations, masks, the optimizer."""
    tiny = replace(size, batch=2, image_size=8)
    trained = {name: Training(method, tiny) for name, method in METHODS.items()}
    objective = trained[SDCLR].objective
    network, competitor = objective.network, objective.competitor
    views = [torch.rand(2, 3, 8, 8).contiguous(memory_format=torch.channels_last) for _ in range(2)]

    def without_gradient(call: Callable[[], object]) -> Callable[[], object]:
        return torch.no_grad()(call)

    with torch.no_grad():
        twin = competitor.twin()
    calls = {
        **{f"whole step, {name}": partial(training.step, *views) for name, training in trained.items()},
        "forward pass, network": without_gradient(lambda: network(views[0])),
        "forward pass, network called with other tensors": without_gradient(
            lambda: functional_call(network, twin, (views[0],))
        ),
        "forward pass, competitor": without_gradient(lambda: competitor(views[0])),
        "masked weights alone": without_gradient(competitor.twin),
    }
    taken: dict[str, list[float]] = {name: [] for name in calls}
    with threads(1):
        for _ in range(1 + rounds):
            for name, call in calls.items():
                start = process_time()
                call()
                taken[name].append(process_time() - start)
    return Table(
        title=f"Fixed costs of a step, width {size.width}",
        note=(
            "Processor time on one thread with two images of 8 px, so that next to nothing is left of the work on "
            f"images: Python, the launch of operations, masks, the optimizer. Medians of {rounds} rounds, float32."
        ),
        heading=("", "ms"),
        rows=[(name, 1000 * statistics.median(values[1:])) for name, values in taken.items()],
    )


def compare_refresh(width: int, effort: Effort) -> Comparison:
    """Seconds to recompute the masks of a whole ResNet-18."""
    competitor = Training("sdclr", StepSize(width=width, batch=2)).objective.competitor
    weights = prunable_weights(competitor)
    library = LibraryPruning(competitor)
    candidates = [
        Candidate(REFRESH, competitor.refresh),
        Candidate("torch.topk of the removed", lambda: topk_masks(weights, RATIO)),
        Candidate("torch.topk of the kept, unsorted", lambda: topk_kept_masks(weights, RATIO)),
        Candidate("torch.nn.utils.prune.global_unstructured", library.prune, prepare=library.restore),
    ]
    total = sum(weight.numel() for weight in weights.values())
    note = f"{total:,} weights, of which {RATIO:.0%} are pruned by one threshold."
    return compare("Mask refresh", note, "s", candidates, effort)


def prunable_weights(competitor: SelfCompetitor) -> dict[str, Tensor]:
    parameters = dict(competitor.network.named_parameters())
    return {name: parameters[name].detach() for name in competitor.masks}


def topk_masks(weights: Mapping[str, Tensor], ratio: float) -> dict[str, Tensor]:
    """Keep-masks by `topk` of the smallest weights, as in `torch.nn.utils.prune` and most other code."""
    magnitude = torch.cat([weight.flatten() for weight in weights.values()]).abs_()
    keep = torch.ones_like(magnitude, dtype=torch.bool)
    keep[magnitude.topk(pruned_count(ratio, len(magnitude)), largest=False).indices] = False
    return _split(keep, weights)


def topk_kept_masks(weights: Mapping[str, Tensor], ratio: float) -> dict[str, Tensor]:
    """The same masks by the fastest use of `topk`: it selects the kept weights, which are fewer, unsorted."""
    magnitude = torch.cat([weight.flatten() for weight in weights.values()]).abs_()
    keep = torch.zeros_like(magnitude, dtype=torch.bool)
    kept = len(magnitude) - pruned_count(ratio, len(magnitude))
    keep[magnitude.topk(kept, sorted=False).indices] = True
    return _split(keep, weights)


def _split(keep: Tensor, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    parts = keep.split([weight.numel() for weight in weights.values()])
    return {name: part.view_as(weight) for part, (name, weight) in zip(parts, weights.items(), strict=True)}


class LibraryPruning:
    """`torch.nn.utils.prune` on stand-ins for the layers of a network: it changes the modules that it prunes."""

    def __init__(self, competitor: SelfCompetitor) -> None:
        self.weights = prunable_weights(competitor)
        self.layers = {name: nn.Module() for name in self.weights}
        self.count = pruned_count(RATIO, sum(weight.numel() for weight in self.weights.values()))
        self.restore()

    def restore(self) -> None:
        """Undo the last pruning, so that the next one starts from all weights."""
        for name, layer in self.layers.items():
            if prune.is_pruned(layer):
                prune.remove(layer, "weight")
            # It does not support the memory layout of training.
            layer.weight = nn.Parameter(self.weights[name].clone(memory_format=torch.contiguous_format))

    def prune(self) -> None:
        chosen = [(layer, "weight") for layer in self.layers.values()]
        prune.global_unstructured(chosen, pruning_method=prune.L1Unstructured, amount=self.count)

    @property
    def masks(self) -> dict[str, Tensor]:
        return {name: layer.weight_mask.bool() for name, layer in self.layers.items()}


def main() -> None:
    from speed import read_images  # noqa: PLC0415  # it imports this module

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10 as parquet files; random images without it")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    size = StepSize(width=options.width, batch=options.batch)
    work = compare_work(read_images(options.data), size, Effort(rounds=options.rounds, seconds=math.inf, warmup=2))
    print(f"### {work.title}\n\n{work.note}\n\n{work.table()}\n")
    rows = [
        (NAMES[amp], spread(work.ratio(of_precision(SIMCLR, amp), of=of_precision(SDCLR, amp))), options.rounds)
        for amp in NAMES
    ]
    print(markdown(("", "SDCLR / SimCLR (quartiles)", "rounds"), rows))
    fixed = fixed_costs(size)
    print(f"\n### {fixed.title}\n\n{fixed.note}\n\n{fixed.table()}")


if __name__ == "__main__":
    main()
