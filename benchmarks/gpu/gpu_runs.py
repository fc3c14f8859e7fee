"""Training runs on a device, made as `pretrain` makes them: views drawn from resident images, then the step."""

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
    """What is trained, and on what."""

    encoder: EncoderConfig
    views: ViewConfig
    batch: int
    ratio: float = 0.9
    """Share of the weights that the competitor loses."""

    def __str__(self) -> str:
        width = f" of width {self.encoder.width}" if self.encoder.width else ""
        return f"{self.encoder.name}{width}, {self.views.image_size} px, batch {self.batch}"

    def config(self, method: Method) -> PretrainConfig:
        return PretrainConfig(
            encoder=self.encoder,
            views=self.views,
            damage=DamageConfig(kind="prune" if method == "sdclr" else "none", ratio=self.ratio),
            # So small that the many steps leave weights and losses ordinary numbers.
            optim=OptimConfig(lr=1e-4, final_lr=0, warmup_epochs=0),
            temperature=TEMPERATURE,
            batch_size=self.batch,
        )


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to take the step."""

    name: str
    method: Method = "sdclr"
    precision: Precision = "bf16"
    compiled: Compiled = "no"
    backend: str = "inductor"
    """torch.compile's for the step, if it is compiled; the views are compiled with this one only."""
    forwards: Literal[1, 3] = 1
    """Three never hold the graphs of both branches at once."""
    checkpointed: bool = False
    tuned: bool = True
    """Whether cuDNN tries its algorithms at the first step (`torch.backends.cudnn.benchmark`)."""
    views: Literal["drawn", "fixed"] = "drawn"
    """Drawn anew for every step, or the first pair for all."""


class Steps:
    """An arm that has been built and can take steps on the device of its images."""

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
        """`count` whole steps as something to time: the clock is read when the device is done."""
        return Candidate(self.arm.name, lambda: self.take(count), units=count, prepare=self.prepare)

    def prepare(self) -> None:
        set_numerics(self.arm.precision, tuned=self.arm.tuned)
        synchronize(self.device)

    def take(self, count: int) -> None:
        for _ in range(count):
            self.step()
        synchronize(self.device)

    def step(self) -> None:
        """Views, forward, backward and optimizer, as far as the host has to do with them."""
        view1, view2 = next(self.pairs)
        self.optimizer.zero_grad(set_to_none=True)
        self.differentiate(view1, view2)
        self.optimizer.step()

    def differentiate(self, view1: Tensor, view2: Tensor) -> None:
        """Leave the gradients of one step."""
        if self.arm.forwards == 3:
            self._differentiate_in_three(view1, view2)
            return
        with self.precision():
            loss = self.objective(view1, view2).mean()
        loss.backward()

    def _differentiate_in_three(self, view1: Tensor, view2: Tensor) -> None:
        """The same gradients in three passes, as in loops where DistributedDataParallel allows one before a backward.

        The pruned branch once without gradient, the dense branch against those outputs, the pruned branch against the
        dense one's. Each pass has an autocast of its own, so that no cast of one stands in for that of another.
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
        """Operations of a step's convolutions and products, forward and backward, without the views."""
        view1, view2 = next(self.pairs)
        self.prepare()
        with FlopCounterMode(display=False) as counter:
            self.differentiate(view1, view2)
        self.optimizer.zero_grad(set_to_none=True)
        return int(counter.get_total_flops())


class LightlySteps(Steps):
    """SimCLR with lightly's head and loss: the same encoder and views, two forward passes, torch's default SGD.

    Given what its tutorials leave to the user: bfloat16 autocast, channels_last, views drawn on the device.
    """

    def _build(self) -> None:
        from lightly.loss import NTXentLoss  # noqa: PLC0415  # absent from many machines; the report then says so
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
    """Both views of batch after batch, without end."""
    compiled = arm.compiled != "no" and arm.backend == "inductor"
    loader = ResidentLoader(images, job.views, seed=0, batch_size=job.batch, channels_last=True, compile=compiled)
    batches = (batch for epoch in itertools.count() for batch in loader.epoch(epoch))
    pairs = ((batch.view1, batch.view2) for batch in batches)
    return itertools.repeat(next(pairs)) if arm.views == "fixed" else pairs


def set_numerics(precision: Precision, *, tuned: bool) -> None:
    """Torch's global values of `bf16` and `tuned=False` are those that torch starts with."""
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision != "float32"
    torch.backends.cudnn.benchmark = tuned


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass
class PeakMemory:
    """Most memory of tensors on the device within the context, above what was there before; None on a CPU."""

    device: torch.device
    bytes: int | None = None
    _before: int = field(default=0, repr=False)

    def __enter__(self) -> Self:
        if self.device.type == "cuda":
            self.forget()
            self._before = torch.cuda.memory_allocated(self.device)
        return self

    def forget(self) -> None:
        """Count from here on what was most; what was there before stays as it was."""
        if self.device.type == "cuda":
            synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            synchronize(self.device)
            self.bytes = torch.cuda.max_memory_allocated(self.device) - self._before


def release() -> None:
    """Give back what nothing refers to any more, so that one measurement leaves nothing to the next."""
    gc.collect()
    torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
