"""The training step of SDCLR, of SimCLR, and of the scheme with three forward passes; the refresh of the masks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from sdclr.data.config import ViewConfig
from sdclr.data.loading import ResidentLoader
from sdclr.encoders import EncoderConfig
from sdclr.method import Objective, SelfCompetitor, nt_xent
from sdclr.method.pruning import pruned_count
from sdclr.training.config import DamageConfig, PretrainConfig
from sdclr.training.optim import create_optimizer
from sdclr.training.optim_config import OptimConfig
from sdclr.training.run import create_objective
from speed_harness import Candidate, Comparison, Effort, compare

Method = Literal["sdclr", "simclr"]
Precision = Literal["none", "bf16"]
NAMES: dict[Precision, str] = {"none": "float32", "bf16": "bf16"}

RATIO = 0.9
TEMPERATURE = 0.2
SDCLR, SIMCLR, THREE_FORWARDS = "SDCLR", "SimCLR", "SDCLR with three forward passes"
REFRESH = "SelfCompetitor.refresh"
CHANNELS_LAST = "channels last"


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
        # So small that the many steps on one batch leave weights and losses ordinary numbers.
        optim=OptimConfig(lr=1e-4, final_lr=0, warmup_epochs=0),
        temperature=TEMPERATURE,
        epochs=1,
        batch_size=size.batch,
    )


class Training:
    """What one training run holds, made as `pretrain` makes it: the same weights for the same size and method."""

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
        """Forward, backward and optimiser."""
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(view1, self.amp):
            loss = self.objective(view1, view2).mean()
        loss.backward()
        self.optimizer.step()

    def step_of_three_forwards(self, view1: Tensor, view2: Tensor) -> None:
        """The same step as one that never has the graphs of both branches at once."""
        self.optimizer.zero_grad(set_to_none=True)
        three_forwards(self.objective, view1, view2)
        self.optimizer.step()


def autocast(view: Tensor, amp: Precision) -> torch.autocast:
    """Mixed precision where a view lies, as `pretrain` has it with `--amp bf16`."""
    return torch.autocast(view.device.type, dtype=torch.bfloat16, enabled=amp == "bf16")


def three_forwards(objective: Objective, view1: Tensor, view2: Tensor) -> None:
    """Leave the gradients of one step, each branch against the other's outputs held fixed.

    DistributedDataParallel refuses two forward passes before a backward one, and this is how the reference
    implementation lives with it: the pruned branch once without gradient, then the dense branch with gradient against
    those outputs, then the pruned branch again with gradient against the dense branch's. As the loss depends on the
    weights through the two outputs alone, both parts add up to its gradient.
    """
    network, competitor = objective.network, objective.competitor
    with torch.no_grad():
        sparse = competitor(view2)
    dense = network(view1)
    nt_xent(dense, sparse, TEMPERATURE).backward()
    nt_xent(dense.detach(), competitor(view2), TEMPERATURE).backward()


def compare_layouts(images: Tensor, size: StepSize, effort: Effort) -> Comparison:
    """Seconds a step by memory layout of weights and views, in both precisions."""
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
    """The views of a set of small images, laid out as `pretrain` has them."""
    views = configure("sdclr", size).views
    return ResidentLoader(images, views, seed=0, batch_size=size.batch, channels_last=True)


def draw_pair(images: Tensor, size: StepSize) -> tuple[Tensor, Tensor]:
    """Two views of the first batch of a set."""
    batch = next(loader_of(images, size).epoch(0))
    return batch.view1, batch.view2


def compare_steps(images: Tensor, size: StepSize, effort: Effort) -> Comparison:
    """Seconds a step, without the refresh of the masks, which comes once an epoch."""
    view1, view2 = draw_pair(images, size)
    ours, plain, three = Training("sdclr", size), Training("simclr", size), Training("sdclr", size)
    candidates = [
        Candidate(SDCLR, lambda: ours.step(view1, view2)),
        Candidate(SIMCLR, lambda: plain.step(view1, view2)),
        Candidate(THREE_FORWARDS, lambda: three.step_of_three_forwards(view1, view2)),
    ]
    note = "Forward, backward and SGD; the same network, head, views and memory layout."
    return compare(f"Training step, {size}", note, "s", candidates, effort)


def compare_refresh(width: int, effort: Effort) -> Comparison:
    """Seconds to choose the masks of a whole ResNet-18 anew."""
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
    note = f"{total:,} weights, of which {RATIO:.0%} go under one threshold."
    return compare("Mask refresh", note, "s", candidates, effort)


def prunable_weights(competitor: SelfCompetitor) -> dict[str, Tensor]:
    parameters = dict(competitor.network.named_parameters())
    return {name: parameters[name].detach() for name in competitor.masks}


def topk_masks(weights: Mapping[str, Tensor], ratio: float) -> dict[str, Tensor]:
    """Keep-masks by `topk` of the smallest, as `torch.nn.utils.prune` and most code in the field chooses them."""
    magnitude = torch.cat([weight.flatten() for weight in weights.values()]).abs_()
    keep = torch.ones_like(magnitude, dtype=torch.bool)
    keep[magnitude.topk(pruned_count(ratio, len(magnitude)), largest=False).indices] = False
    return _split(keep, weights)


def topk_kept_masks(weights: Mapping[str, Tensor], ratio: float) -> dict[str, Tensor]:
    """The same by the best use of `topk`: the fewer entries, in any order."""
    magnitude = torch.cat([weight.flatten() for weight in weights.values()]).abs_()
    keep = torch.zeros_like(magnitude, dtype=torch.bool)
    kept = len(magnitude) - pruned_count(ratio, len(magnitude))
    keep[magnitude.topk(kept, sorted=False).indices] = True
    return _split(keep, weights)


def _split(keep: Tensor, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    parts = keep.split([weight.numel() for weight in weights.values()])
    return {name: part.view_as(weight) for part, (name, weight) in zip(parts, weights.items(), strict=True)}


class LibraryPruning:
    """`torch.nn.utils.prune` on stand-ins for the layers of a network: it rewrites the modules that it prunes."""

    def __init__(self, competitor: SelfCompetitor) -> None:
        self.weights = prunable_weights(competitor)
        self.layers = {name: nn.Module() for name in self.weights}
        self.count = pruned_count(RATIO, sum(weight.numel() for weight in self.weights.values()))
        self.restore()

    def restore(self) -> None:
        """Undo the last pruning, which the next would otherwise build upon."""
        for name, layer in self.layers.items():
            if prune.is_pruned(layer):
                prune.remove(layer, "weight")
            # It refuses the memory layout that training prefers.
            layer.weight = nn.Parameter(self.weights[name].clone(memory_format=torch.contiguous_format))

    def prune(self) -> None:
        chosen = [(layer, "weight") for layer in self.layers.values()]
        prune.global_unstructured(chosen, pruning_method=prune.L1Unstructured, amount=self.count)

    @property
    def masks(self) -> dict[str, Tensor]:
        return {name: layer.weight_mask.bool() for name, layer in self.layers.items()}
