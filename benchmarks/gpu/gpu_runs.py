"""Training steps on a device as in `pretrain`: views of images in memory, then the step."""

import gc
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sdclr.encoders import EncoderConfig, create_encoder
from sdclr.loading.batches import ResidentLoader
from sdclr.method import nt_xent
from sdclr.training.activations import checkpoint_activations
from sdclr.training.config import DamageConfig, PretrainConfig
from sdclr.training.optim import create_optimizer
from sdclr.training.optim_config import OptimConfig
from sdclr.training.run import create_objective
from sdclr.views.config import ViewConfig
from speed_harness import Candidate

Method = Literal["sdclr", "simclr"]
Precision = Literal["bf16", "tf32", "float32"]
Compiled = Literal["no", "default", "reduce-overhead"]

PRECISIONS: dict[Precision, str] = {
    "bf16": "bfloat16 autocast; what stays in float32 as torch ships it (convolutions TF32, products float32)",
    "tf32": "float32 weights and activations, convolutions and products in TF32",
    "float32": "float32 throughout, TF32 off",
}
LAYOUT = torch.channels_last
TEMPERATURE = 0.2


@dataclass(frozen=True, kw_only=True)
class Job:
    """Network and views of a training."""

    encoder: EncoderConfig
    views: ViewConfig
    batch: int
    ratio: float = 0.9
    """Share of pruned weights in the competitor."""

    def __str__(self) -> str:
        width = f" of width {self.encoder.width}" if self.encoder.width else ""
        return f"{self.encoder.name}{width}, {self.views.image_size} px, batch {self.batch}"

    def config(self, method: Method) -> PretrainConfig:
        return PretrainConfig(
            encoder=self.encoder,
            views=self.views,
            damage=DamageConfig(kind="prune" if method == "sdclr" else "none", ratio=self.ratio),
            # So small that weights and losses stay finite over many steps.
            optim=OptimConfig(lr=1e-4, final_lr=0, warmup_epochs=0),
            temperature=TEMPERATURE,
            batch_size=self.batch,
        )


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One variant of the step."""

    name: str
    method: Method = "sdclr"
    precision: Precision = "bf16"
    compiled: Compiled = "no"
    backend: str = "inductor"
    """Backend of torch.compile for the step, if it is compiled; views are compiled only with inductor."""
    forwards: Literal[1, 3] = 1
    """Number of forward passes. With three, the graphs of both branches are never in memory together."""
    checkpointed: bool = False
    tuned: bool = True
    """Whether cuDNN tests its algorithms at the first step (`torch.backends.cudnn.benchmark`)."""
    views: Literal["drawn", "fixed"] = "drawn"
    """New views for every step, or the first pair for all."""


class Steps:
    """An arm ready to take steps on the device of its images."""

    def __init__(self, arm: Arm, job: Job, images: Tensor) -> None:
        self.arm, self.job, self.device = arm, job, images.device
        self.pairs = draw_pairs(job, images, arm)
        torch.manual_seed(0)
        self._build()

    def _build(self) -> None:
        arm, config = self.arm, self.job.config(self.arm.method)
        self.objective = create_objective(config).to(self.device).to(memory_format=LAYOUT).train()
        if arm.checkpointed:
            checkpoint_activations(self.objective.network)
        self.optimizer = create_optimizer(self.objective, config.optim)
        if arm.compiled != "no":
            mode = None if arm.compiled == "default" else arm.compiled
            self.objective.compile(backend=arm.backend, mode=mode)

    def candidate(self, count: int) -> Candidate:
        """A candidate of `count` whole steps, timed until the device has finished."""
        return Candidate(self.arm.name, lambda: self.take(count), units=count, prepare=self.prepare)

    def prepare(self) -> None:
        set_numerics(self.arm.precision, tuned=self.arm.tuned)
        synchronize(self.device)

    def take(self, count: int) -> None:
        for _ in range(count):
            self.step()
        synchronize(self.device)

    def step(self) -> None:
        """The host's part of a step: views, forward pass, backward pass and optimizer."""
        view1, view2 = next(self.pairs)
        self.optimizer.zero_grad(set_to_none=True)
        self.differentiate(view1, view2)
        self.optimizer.step()

    def differentiate(self, view1: Tensor, view2: Tensor) -> None:
        """Compute the gradients of one step."""
        if self.arm.forwards == 3:
            self._differentiate_in_three(view1, view2)
            return
        with self.precision():
            loss = self.objective(view1, view2).mean()
        loss.backward()

    def _differentiate_in_three(self, view1: Tensor, view2: Tensor) -> None:
        """The same gradients in three passes, for loops where DistributedDataParallel allows one pass per backward.

        First the pruned branch runs without gradient, then the dense branch with those outputs, then the pruned branch
        with the dense outputs. Each pass has a separate autocast, so that cached casts are not shared.
        """
        network, competitor = self.objective.network, self.objective.competitor
        with torch.no_grad(), self.precision():
            sparse = competitor(view2)
        with self.precision():
            dense = network(view1)
            loss = nt_xent(dense, sparse, TEMPERATURE)
        loss.backward()
        with self.precision():
            loss = nt_xent(dense.detach(), competitor(view2), TEMPERATURE)
        loss.backward()

    def precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.arm.precision == "bf16")

    def flops(self) -> int:
        """Floating-point operations of a step's convolutions and products, forward and backward, without views."""
        view1, view2 = next(self.pairs)
        self.prepare()
        with FlopCounterMode(display=False) as counter:
            self.differentiate(view1, view2)
        self.optimizer.zero_grad(set_to_none=True)
        return int(counter.get_total_flops())


class LightlySteps(Steps):
    """SimCLR with lightly's head and loss: the same encoder and views, two forward passes, torch's default SGD.

    It also has what lightly's tutorials leave to the user: bfloat16 autocast, channels_last, views on the device.
    """

    def _build(self) -> None:
        from lightly.loss import NTXentLoss  # noqa: PLC0415  # missing on many machines; the report then says so
        from lightly.models.modules import SimCLRProjectionHead  # noqa: PLC0415

        encoder = create_encoder(self.job.encoder, self.job.views.image_size)
        head = SimCLRProjectionHead(encoder.num_features, encoder.num_features, 128)
        self.network = nn.Sequential(encoder, head).to(self.device).to(memory_format=LAYOUT).train()
        self.loss = NTXentLoss(temperature=TEMPERATURE)
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)

    def differentiate(self, view1: Tensor, view2: Tensor) -> None:
        with self.precision():
            loss = self.loss(self.network(view1), self.network(view2))
        loss.backward()


def draw_pairs(job: Job, images: Tensor, arm: Arm) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless pairs of views of batches."""
    compiled = arm.compiled != "no" and arm.backend == "inductor"
    loader = ResidentLoader(images, job.views, seed=0, batch_size=job.batch, channels_last=True, compile=compiled)
    batches = (batch for epoch in itertools.count() for batch in loader.epoch(epoch))
    pairs = ((batch.view1, batch.view2) for batch in batches)
    return itertools.repeat(next(pairs)) if arm.views == "fixed" else pairs


def set_numerics(precision: Precision, *, tuned: bool) -> None:
    """Set torch's global number formats. `bf16` and `tuned=False` are torch's defaults."""
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision != "float32"
    torch.backends.cudnn.benchmark = tuned


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass
class PeakMemory:
    """Peak memory of tensors on the device within the context, above the memory before; None on a CPU."""

    device: torch.device
    bytes: int | None = None
    _before: int = field(default=0, repr=False)

    def __enter__(self) -> Self:
        if self.device.type == "cuda":
            self.forget()
            self._before = torch.cuda.memory_allocated(self.device)
        return self

    def forget(self) -> None:
        """Reset the peak, but not the memory before."""
        if self.device.type == "cuda":
            synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            synchronize(self.device)
            self.bytes = torch.cuda.max_memory_allocated(self.device) - self._before


def release() -> None:
    """Free unused memory, so that a measurement does not affect the next."""
    gc.collect()
    torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
