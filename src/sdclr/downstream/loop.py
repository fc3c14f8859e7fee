"""The training loop of classifiers: stages in sequence, checkpoints of the whole state, and exact resumption."""

import hashlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import NoneType
from typing import Final

import torch
from torch import Tensor

from sdclr.downstream.config import FinetuneConfig
from sdclr.downstream.images import Batches
from sdclr.downstream.methods import Model, Stage
from sdclr.errors import InputError
from sdclr.files import parsing
from sdclr.files.reading import Keys
from sdclr.out_of_memory import enough_memory
from sdclr.training import randomness
from sdclr.training.checkpoint import check_space, load_checkpoint, save_checkpoint
from sdclr.training.interrupts import Interrupted, Interrupts
from sdclr.training.logs import SLOW, Log
from sdclr.training.optim import create_optimizer, learning_rate, set_learning_rate
from sdclr.training.optim_config import OptimConfig

_STATE: Final[Keys] = {
    "step": int,
    "model": dict,
    "optimizer": (dict, NoneType),
    "losses": list,
    "seconds": (int, float),
}
"""Keys of a checkpoint, with their types."""

LOG_STEPS = 50
"""Number of steps between two lines of metrics; they are also written at the end of every epoch."""


class Trainer:
    """A classifier's state and its training in stages.

    Args:
        model: The initial model, on the device; a checkpoint replaces its state.
        stages: The stages, in order.
        batches: The images.
        config: Optimizer and seed.
        folder: Folder of checkpoints and metrics.
        dtype: Type of products; None for float32.
        checkpoint_minutes: Maximum number of minutes between checkpoints; 0 saves at every step.
    """

    def __init__(
        self,
        model: Model,
        stages: Sequence[Stage],
        batches: Batches,
        config: FinetuneConfig,
        *,
        folder: Path,
        dtype: torch.dtype | None,
        checkpoint_minutes: float,
    ) -> None:
        self.model, self.stages, self.batches, self.config = model, stages, batches, config
        self.folder, self.dtype, self.period = folder, dtype, 60 * checkpoint_minutes
        self.steps_per_epoch = batches.steps_per_epoch
        self.total = self.steps_per_epoch * sum(stage.epochs for stage in stages)
        self.step = 0
        self.seconds = 0.0
        self.window: list[tuple[int, Tensor]] = []  # (step, loss) not checked yet
        self.losses: list[float] = []  # checked losses of this logging interval
        self.saved = time.monotonic()
        self.saved_step: int | None = None
        self.optimizer_state: dict[str, object] | None = None
        self._restore()

    def train(self, interrupts: Interrupts) -> None:
        """Take the remaining steps of all stages.

        Raises:
            FloatingPointError: If a loss is not finite.
            Interrupted: On Ctrl-C or SIGTERM, after the state is saved.
        """
        log = Log(
            self.folder,
            step=self.step,
            total=self.total,
            images_per_step=self.config.batch_size,
            active=True,
            epochs=sum(stage.epochs for stage in self.stages),
            slow=SLOW if self.batches.device.type == "cpu" else "",
        )
        check_space(self.folder / "checkpoints", self.model)
        try:
            epochs_before = 0
            for stage in self.stages:
                if self.step < (epochs_before + stage.epochs) * self.steps_per_epoch:
                    self._train_stage(stage, epochs_before, log, interrupts)
                epochs_before += stage.epochs
            if self.saved_step != self.step:
                self._save(None)
        finally:
            log.close()

    def _train_stage(self, stage: Stage, epochs_before: int, log: Log, interrupts: Interrupts) -> None:
        first = epochs_before * self.steps_per_epoch
        if self.step == first:
            seed_torch(self.config.seed, stage.name, self.batches.device)
            if stage.begin is not None:
                stage.begin(self.model)
        optim = self._optim(stage)
        optimizer = self._optimizer(stage, optim)
        if self.optimizer_state is not None and self.step > first:
            optimizer.load_state_dict(self.optimizer_state)
        self.optimizer_state = None
        last = first + stage.epochs * self.steps_per_epoch
        while self.step < last:
            epoch, start = divmod(self.step, self.steps_per_epoch)
            for images, labels in self.batches.epoch(epoch, start, balanced=stage.balanced):
                begun = time.perf_counter()
                lr = learning_rate(
                    self.step - first, steps_per_epoch=self.steps_per_epoch, epochs=stage.epochs, config=optim
                )
                set_learning_rate(optimizer, lr)
                self._take_step(stage, (epoch - epochs_before) / stage.epochs, images, labels, optimizer)
                self._log(log, epoch, lr)
                self.seconds += time.perf_counter() - begun
                self._save_if_due(interrupts, optimizer)

    def _optimizer(self, stage: Stage, optim: OptimConfig) -> torch.optim.Optimizer:
        """The optimizer of a stage; the rest of the model is frozen."""
        trained = stage.trained(self.model)
        self.model.requires_grad_(requires_grad=False).eval()
        trained.requires_grad_(requires_grad=True).train()
        return create_optimizer(trained, optim)

    def rehearse(self, epoch: int) -> Iterator[float]:
        """Take the steps of an epoch of the first stage to measure them, without a change of weights. Yields zeros."""
        stage = self.stages[0]
        optimizer = self._optimizer(stage, self._optim(stage))
        set_learning_rate(optimizer, 0.0)
        for images, labels in self.batches.epoch(epoch, balanced=stage.balanced):
            self._take_step(stage, 0.0, images, labels, optimizer)
            self._check_losses()
            yield 0.0

    def _take_step(
        self, stage: Stage, gone: float, images: Tensor, labels: Tensor, optimizer: torch.optim.Optimizer
    ) -> None:
        seed_torch(self.config.seed, str(self.step), self.batches.device)  # for random numbers such as dropout
        optimizer.zero_grad(set_to_none=True)
        device = images.device.type
        with enough_memory(len(images)):
            with torch.autocast(device, dtype=self.dtype, enabled=self.dtype is not None):
                loss = stage.loss(self.model, images, labels, gone)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimizer.step()
        self.window.append((self.step, loss.detach()))
        self.step += 1

    def _optim(self, stage: Stage) -> OptimConfig:
        config = self.config
        return OptimConfig(
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            warmup_epochs=config.warmup * stage.epochs,
            final_lr=0.0,
        )

    def _log(self, log: Log, epoch: int, lr: float) -> None:
        due = self.step % LOG_STEPS == 0 or self.step % self.steps_per_epoch == 0
        if not due and self.batches.device.type != "cpu":
            return  # reading a loss makes the host wait for a GPU
        self._check_losses()
        if due:
            log.write(step=self.step, epoch=epoch, loss=sum(self.losses) / len(self.losses), lr=lr)
            self.losses.clear()
        else:
            log.advance(self.step)

    def _check_losses(self) -> None:
        if not self.window:
            return
        for (step, _), loss in zip(self.window, torch.stack([loss for _, loss in self.window]).tolist(), strict=True):
            if loss - loss != 0:  # NaN or infinite
                raise FloatingPointError(
                    f"the loss is {loss} at step {step} of {self.total} in {self.folder}: lower --lr or --diversity, "
                    "or raise --warmup, in a new folder"
                )
            self.losses.append(loss)
        self.window.clear()

    def _save_if_due(self, interrupts: Interrupts, optimizer: torch.optim.Optimizer) -> None:
        if interrupts.signum or time.monotonic() - self.saved >= self.period:
            path = self._save(optimizer)
            if interrupts.signum:
                raise Interrupted(interrupts.signum, f"stopped after step {self.step} of {self.total}; {path} is saved")

    def _save(self, optimizer: torch.optim.Optimizer | None) -> Path:
        self._check_losses()  # a state after a loss that is not finite is never saved
        state = {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": None if optimizer is None else optimizer.state_dict(),
            "losses": self.losses,
            "seconds": self.seconds,
        }
        self.saved, self.saved_step = time.monotonic(), self.step
        return save_checkpoint(self.folder / "checkpoints", state, self.step)

    def _restore(self) -> None:
        loaded = load_checkpoint(self.folder / "checkpoints", _STATE)
        if loaded is None:
            return
        state, path = loaded
        if state["step"] > self.total:
            raise InputError(f"{path} lies beyond the {self.total} steps of this training: name another folder")
        with parsing(path, "put back a whole copy of it, or name another folder"):
            self.model.load_state_dict(state["model"])
        self.step = self.saved_step = state["step"]
        self.optimizer_state = state["optimizer"]
        self.losses, self.seconds = list(state["losses"]), state["seconds"]


def seed_torch(seed: int, moment: str, device: torch.device) -> None:
    """Seed the generators of the CPU and the device for one moment of a training, but not those of other GPUs."""
    randomness.seed(int.from_bytes(hashlib.sha256(f"{seed} {moment}".encode()).digest()[:4]), device)
