"""The pre-training loop."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.parallel import DistributedDataParallel

from sdclr.config import differences, digest, from_json, to_json
from sdclr.data.loading import Batch
from sdclr.data.sources import ImageSource, Source, fingerprint, open_source
from sdclr.encoders import Network
from sdclr.errors import InputError
from sdclr.training.checkpoint import load_checkpoint, save_checkpoint
from sdclr.training.config import PretrainConfig, Runtime
from sdclr.training.distributed import Processes, processes
from sdclr.training.feed import Feed, create_feed
from sdclr.training.interrupts import Interrupted, Interrupts, listening
from sdclr.training.logs import Log
from sdclr.training.optim import create_optimizer, learning_rate, set_learning_rate
from sdclr.training.run import Run, create_objective, read_json, save_encoder, write_json


def pretrain(
    source: ImageSource,
    config: PretrainConfig | None = None,
    *,
    run: str | Path | None = None,
    runtime: Runtime | None = None,
) -> Run:
    """Train an encoder on images without labels, or go on where an earlier call with the same arguments was cut off.

    Args:
        source: Anything that names images: a path, a manifest, an array `(N, H, W, 3)` of uint8, a source object.
        config: What decides the result; `PretrainConfig()` by default.
        run: Folder of the run; by default `runs/` and a name made of source and configuration.
        runtime: How it is carried out, which may change when it goes on.

    Returns:
        The finished run.

    Raises:
        InputError: If the images or the configuration cannot be used, or the folder holds another run.
        FloatingPointError: If the loss is not finite; names the step, the images and the last checkpoint.
        Interrupted: On Ctrl-C or SIGTERM, after the state is saved.
    """
    images = open_source(source)
    config = config or PretrainConfig()
    runtime = runtime or Runtime()
    folder = Path(run) if run is not None else Path("runs") / f"{images.name}-{digest(config)}"
    with processes(runtime.device) as place, listening() as interrupts, _own_randomness(config.seed, place):
        opened = _open_run(folder, images, config, place)
        if not opened.finished:
            feed = create_feed(images, opened, config, runtime, place)
            trainer = Trainer(opened, config, runtime, feed, place)
            trainer.train(interrupts)
    return opened


@contextlib.contextmanager
def _own_randomness(seed: int, place: Processes) -> Iterator[None]:
    """Seed torch for the run (initial weights, dropout) and leave the caller's random state as it was."""
    devices = [place.device] if place.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def _open_run(folder: Path, source: Source, config: PretrainConfig, place: Processes) -> Run:
    """Start a run in a new folder, or make sure that the one that is there is this one."""
    run = Run(folder)
    if run.config_file.exists():
        changed = differences(from_json(PretrainConfig, read_json(run.config_file)), config)
        if changed:
            raise InputError(
                f"{folder} is a run with other settings ({'; '.join(changed)}): name another folder with --run"
            )
        if run.source_file.exists() and run.source["fingerprint"] != fingerprint(source):
            raise InputError(
                f"{folder} was trained on {run.source['images']} images of {run.source['name']}, not on these "
                f"{len(source)}: give it the same images, or name another folder with --run"
            )
    place.barrier()  # no process may look for what another is about to write
    if place.first and not run.config_file.exists():
        write_json(run.config_file, to_json(config))
    place.barrier()
    return run


class Trainer:
    """One run's state and how it moves.

    Args:
        run: Where it is kept.
        config: What decides the result.
        runtime: How it is carried out.
        feed: The batches.
        place: This process among the others.
    """

    def __init__(self, run: Run, config: PretrainConfig, runtime: Runtime, feed: Feed, place: Processes) -> None:
        self.run, self.config, self.runtime, self.feed, self.place = run, config, runtime, feed, place
        self.steps_per_epoch = feed.loader.steps_per_epoch
        self.total = config.epochs * self.steps_per_epoch
        objective = create_objective(config).to(place.device)
        if place.world > 1 and place.device.type == "cuda":
            # Batch statistics over all processes: their number must not change the run. torch has no CPU version.
            nn.SyncBatchNorm.convert_sync_batchnorm(objective)  # type: ignore[no-untyped-call]  # converts in place
        if runtime.channels_last:
            objective = objective.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
        self.objective = objective
        self.optimizer = create_optimizer(objective, config.optim)
        self.scaler = GradScaler(place.device.type, enabled=runtime.amp == "fp16")
        self.step = 0
        self.window: list[tuple[int, Tensor, Any]] = []  # (step, loss, sample indices) not logged yet
        self.logged_losses: list[float] = []  # of this logging interval, already checked
        self.last_checkpoint: Path | None = None
        self._restore()
        self.model = self._wrapped()

    def train(self, interrupts: Interrupts) -> None:
        """Take the remaining steps, then write the encoder."""
        log = Log(
            self.run.path,
            step=self.step,
            total=self.total,
            images_per_step=self.config.batch_size,
            active=self.place.first,
            progress=self.runtime.progress,
        )
        saved = time.monotonic()
        try:
            while self.step < self.total:
                epoch, start = divmod(self.step, self.steps_per_epoch)
                for batch in self.feed.loader.epoch(epoch, start):
                    self._take_step(batch)
                    self._log(log, epoch)
                    due = time.monotonic() - saved >= 60 * self.runtime.checkpoint_minutes
                    signum = self.place.any(interrupts.signum)
                    if signum or (due and self.step < self.total):
                        self.save()
                        saved = time.monotonic()
                    if signum:
                        raise Interrupted(
                            signum, f"stopped after step {self.step} of {self.total}; {self.last_checkpoint} is saved"
                        )
                self.feed.list_bad_images()
            self.save()
        finally:
            log.close()
        if self.place.first:
            save_encoder(self.run.path, cast("Network", self.objective.network).encoder)
        self.place.barrier()

    def _take_step(self, batch: Batch) -> None:
        """Refresh the masks if it is time, then one optimiser step."""
        competitor, every = self.objective.competitor, self.config.damage.refresh_steps or self.steps_per_epoch
        if competitor is not None and self.step % every == 0:
            competitor.refresh()
        self.objective.train()
        lr = learning_rate(
            self.step, steps_per_epoch=self.steps_per_epoch, epochs=self.config.epochs, config=self.config.optim
        )
        set_learning_rate(self.optimizer, lr)
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.place.device)
        parts = self.config.accumulate
        pairs = list(zip(batch.view1.chunk(parts), batch.view2.chunk(parts), strict=True))
        for number, (view1, view2) in enumerate(pairs, start=1):
            with self._gradients_shared(last=number == parts), self._precision():
                loss = self.model(self._laid_out(view1), self._laid_out(view2)).mean() / parts
            self.scaler.scale(loss).backward()
            total += loss.detach()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.window.append((self.step, total, batch.indices))
        self.step += 1

    def _log(self, log: Log, epoch: int) -> None:
        """Check the losses and write their mean when it is time.

        Reading a loss makes the host wait for the device: on a GPU that happens at logging only.
        """
        due = self.step % self.runtime.log_steps == 0 or self.step % self.steps_per_epoch == 0
        if not due and self.place.device.type != "cpu":
            return
        self._check_losses()
        if due:
            lr = float(self.optimizer.param_groups[0]["lr"])
            log.write(step=self.step, epoch=epoch, loss=sum(self.logged_losses) / len(self.logged_losses), lr=lr)
            self.logged_losses.clear()
        else:
            log.advance(self.step)

    def _check_losses(self) -> None:
        """Move the window's losses to the host, averaged over processes; a loss that is not finite ends the run."""
        if not self.window:
            return
        losses = self.place.mean(torch.stack([loss for _, loss, _ in self.window])).tolist()
        for (step, _, indices), loss in zip(self.window, losses, strict=True):
            if loss - loss != 0:  # NaN or infinite
                names = [self.feed.name(index) for index in indices]
                listed = self.run.path / f"nonfinite-step-{step}.json"
                if self.place.first:
                    write_json(listed, {"step": step, "images": names})
                raise FloatingPointError(
                    f"the loss is {loss} at step {step} (images {', '.join(names[:3])}, …, all in {listed}); the last "
                    f"good checkpoint is {self.last_checkpoint}: lower --optim.lr, raise the warm-up or drop --amp"
                )
            self.logged_losses.append(loss)
        self.window.clear()

    def save(self) -> None:
        """Write a checkpoint of the whole state."""
        self._check_losses()  # a state after a loss that is not finite is never saved
        if not self.place.first:
            return
        state = {
            "step": self.step,
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "logged_losses": self.logged_losses,
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self.place.device) if self.place.device.type == "cuda" else None,
        }
        self.last_checkpoint = save_checkpoint(self.run.checkpoints, state, self.step)

    def _restore(self) -> None:
        loaded = load_checkpoint(self.run.checkpoints)
        if loaded is None:
            return
        state, self.last_checkpoint = loaded
        self.step = state["step"]
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.logged_losses = list(state["logged_losses"])
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] is not None and self.place.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"], self.place.device)

    def _wrapped(self) -> nn.Module:
        """The objective, compiled and spread over processes as asked."""
        model: nn.Module = self.objective
        if self.runtime.compile:
            model.compile()
        if self.place.world > 1:
            ids = [self.place.device] if self.place.device.type == "cuda" else None
            # Running statistics are not averaged in training mode, and masks are equal everywhere by construction.
            model = DistributedDataParallel(
                model, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True
            )
        return model

    def _gradients_shared(self, *, last: bool) -> contextlib.AbstractContextManager[object]:
        """Exchange gradients between processes once a step, with the last part of the batch."""
        if last or not isinstance(self.model, DistributedDataParallel):
            return contextlib.nullcontext()
        return self.model.no_sync()

    def _precision(self) -> torch.autocast:
        dtype = torch.float16 if self.runtime.amp == "fp16" else torch.bfloat16
        return torch.autocast(self.place.device.type, dtype=dtype, enabled=self.runtime.amp != "none")

    def _laid_out(self, view: Tensor) -> Tensor:
        return view.contiguous(memory_format=torch.channels_last) if self.runtime.channels_last else view
