"""The pre-training loop."""

import functools
import hashlib
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from sdclr.config import to_json
from sdclr.data.sources import ImageSource, Source, open_source
from sdclr.encoders import Network, save_encoder
from sdclr.errors import InputError
from sdclr.fastest import name_of
from sdclr.files import parsing, write_json
from sdclr.loading.batches import Batch
from sdclr.method import Objective
from sdclr.out_of_memory import IN_TRAINING, enough_memory
from sdclr.progress import bar_by_default
from sdclr.time_budget import Budget
from sdclr.training.activations import checkpoint_activations
from sdclr.training.budget import choose_length
from sdclr.training.checkpoint import check_space, load_checkpoint, save_checkpoint, save_snapshot
from sdclr.training.collapse import CollapseWatch
from sdclr.training.config import PretrainConfig
from sdclr.training.defaults import default_config
from sdclr.training.distributed import Processes, gradients_shared, processes, wrapped
from sdclr.training.feed import Feed, checked_weights, create_feed
from sdclr.training.guidance import Guidance
from sdclr.training.interrupts import Interrupted, Interrupts, listening
from sdclr.training.logs import SLOW, Log, note_session
from sdclr.training.machine import Settled, settle
from sdclr.training.masks import refresh_masks
from sdclr.training.nonfinite import give_up
from sdclr.training.norm import fix_statistics, recalibrate
from sdclr.training.opening import alone, as_trained, default_run, first_network, open_run, with_outside
from sdclr.training.optim import create_optimizer, learning_rate, restore_optimizer, set_learning_rate
from sdclr.training.randomness import own_randomness, seed
from sdclr.training.rebalancing import create_rebalancers
from sdclr.training.run import STATE, Run, create_objective
from sdclr.training.runtime import Runtime
from sdclr.views.render import to_device


def pretrain(
    source: ImageSource,
    config: PretrainConfig | None = None,
    *,
    run: str | Path | None = None,
    runtime: Runtime | None = None,
    weights: ArrayLike | None = None,
    minutes: float | Budget | None = None,
    outside: ImageSource | None = None,
) -> Run:
    """Train an encoder on images without labels, or resume an interrupted call with the same arguments.

    Args:
        source: The images: a path, a manifest, an array `(N, H, W, 3)` of uint8, or a source object.
        config: Settings that determine the result; by default `default_config(source)`.
        run: Folder of the run; by default `runs/` with a name from source and configuration.
        runtime: Settings of the execution, which may change when the run resumes.
        weights: `(N,)` sampling weights of the images of `source`, up to a factor, in addition to rebalancers; by
            default uniform.
        minutes: Time budget in minutes, including the report: measures the speed and chooses the number of epochs,
            instead of that in `config`. The run's configuration stores the choice, so that a resumed run is the same.
        outside: Outside images, of other kinds than those of `source`, for the rebalancer `outside`. An epoch has as
            many samples as `source` has images, whether they are own or outside ones.

    Returns:
        The finished run.

    Raises:
        InputError: If the images or the configuration cannot be used, the folder holds another run, or outside images
            are given without the rebalancer `outside` or it without them.
        FloatingPointError: If the loss is not finite; names the step, the images and the last checkpoint.
        Interrupted: On Ctrl-C or SIGTERM, after the state is saved.

    Examples:
        >>> from dataclasses import replace
        >>> config = replace(sdclr.default_config("digits", gpu=False), steps=2, batch_size=32)
        >>> run = sdclr.pretrain("digits", config, run="runs/two_steps")
        >>> run.finished, run.encoder().num_features
        (True, 128)
    """
    own = open_source(source)
    limit = Budget.of(minutes)
    config = config or default_config(own, minutes=None if limit is None else limit.minutes)
    runtime = runtime or Runtime()
    images = with_outside(own, outside, config)
    folder = Path(run) if run is not None else default_run(images, config, limit)
    images = as_trained(Run(folder), images)
    drawn = None if weights is None else checked_weights(weights, len(own), outside=len(images) - len(own))
    with bar_by_default(wanted=runtime.progress), processes(runtime.device) as place, own_randomness(place.device):
        opened, config = open_run(folder, images, config, place, drawn, budget=limit)
        if opened.finished:
            return opened
        with alone(opened, place):
            begun = opened.config_file.exists()
            # A length is chosen by a rehearsal, whose settings only have to be long enough.
            first = replace(config, epochs=max(config.epochs, 100), steps=None) if limit and not begun else config
            make = functools.partial(_trainer, opened, images, runtime=runtime, place=place, weights=drawn)
            trainer = make(config=first)
            with trainer.settled.threads_in_force(), enough_memory(config.batch_size, remedy=IN_TRAINING):
                if limit and not begun:
                    config, feed, settled = choose_length(trainer, config, limit), trainer.feed, trainer.settled
                    del trainer  # frees its memory
                    trainer = make(config=config, feed=feed, settled=settled)
                if place.first and not begun:
                    write_json(opened.config_file, to_json(config))  # last: this file marks the run as begun
                with listening() as interrupts:
                    trainer.train(interrupts)
    return opened


def _trainer(
    run: Run,
    images: Source,
    config: PretrainConfig,
    runtime: Runtime,
    place: Processes,
    *,
    weights: NDArray[np.float64] | None,
    feed: Feed | None = None,
    settled: Settled | None = None,
) -> "Trainer":
    """A trainer at the start of the run, or at its newest checkpoint. All processes call this together."""
    seed(config.seed, place.device)
    # Errors in the settings are raised before images are read.
    objective = create_objective(config, first_network(run, config, place))
    feed = feed or create_feed(images, run, config, runtime, place, weights=weights)
    settled = settled or settle(objective, config, runtime, place, run)
    per_epoch = feed.loader.steps_per_epoch
    lasting = replace(config, epochs=math.ceil(config.total_steps(per_epoch) / per_epoch), steps=None)
    objective.rebalancers.extend(create_rebalancers(lasting, len(feed.kept), feed.outside))
    return Trainer(run, config=config, runtime=runtime, objective=objective, feed=feed, place=place, settled=settled)


class Trainer:
    """The state of a run and its training steps.

    Args:
        run: The run on disk.
        config: Settings that determine the result.
        runtime: Settings of the execution.
        objective: The objective in its initial state, which a checkpoint replaces.
        feed: The batches.
        place: The rank of this process.
        settled: Number format and threads.
    """

    def __init__(
        self,
        run: Run,
        *,
        config: PretrainConfig,
        runtime: Runtime,
        objective: Objective,
        feed: Feed,
        place: Processes,
        settled: Settled,
    ) -> None:
        from timm.layers.norm_act import convert_sync_batchnorm

        self.run, self.config, self.runtime, self.feed, self.place = run, config, runtime, feed, place
        self.settled, self.dtype = settled, settled.dtype
        self.steps_per_epoch = feed.loader.steps_per_epoch
        self.total = config.total_steps(self.steps_per_epoch)
        self.epochs = config.epochs if config.steps is None else self.total / self.steps_per_epoch
        objective = objective.to(place.device)
        if place.world > 1 and place.device.type == "cuda":
            # Batch statistics over all processes, so that their number does not change the run. torch has no CPU
            # version. timm's converter works in place. torch's would drop activations that timm fuses into the layers.
            convert_sync_batchnorm(objective)  # type: ignore[no-untyped-call]  # timm leaves it untyped
        if config.fixes_statistics:
            fix_statistics(objective)
        if runtime.channels_last:
            objective = objective.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
        if runtime.checkpoint_activations:
            if config.damage.kind == "dropout":  # dropout is off when the blocks are recomputed
                raise InputError("--checkpoint-activations cannot repeat what dropout drops: leave it out")
            checkpoint_activations(objective.network)
        self.objective = objective
        # The watch's hook would break a compiled pass.
        self.watch = None if runtime.compile else CollapseWatch(cast("Network", objective.network).head)
        self.optimizer = create_optimizer(objective, config.optim)
        self.scaler = GradScaler(place.device.type, enabled=self.dtype == torch.float16)
        self.step = 0
        self.window: list[tuple[int, Tensor, NDArray[np.int64]]] = []  # (step, loss, samples) not checked yet
        self.last_batch = np.empty(0, dtype=np.int64)
        self.logged_losses: list[float] = []  # checked losses of this logging interval
        self.last_checkpoint: Path | None = None
        self.saved_step: int | None = None
        self.guidance = Guidance(objective, feed, config, place=place, amp=name_of(self.dtype))
        self._restore()
        self.model = wrapped(objective, runtime, place)

    def train(self, interrupts: Interrupts) -> None:
        """Take the remaining steps, then write the encoder."""
        log = Log(
            self.run.path,
            step=self.step,
            total=self.total,
            images_per_step=self.config.batch_size,
            active=self.place.first,
            epochs=self.config.epochs,
            slow=SLOW if self.place.device.type == "cpu" else "",
        )
        note_session(self.run, self.step, self.settled, compiled=self.runtime.compile, place=self.place)
        self.objective.train()
        saved, period = time.monotonic(), 60 * self.runtime.checkpoint_minutes
        check_space(self.run.checkpoints, self.objective)
        try:
            while self.step < self.total:
                epoch, start = divmod(self.step, self.steps_per_epoch)
                self.guidance.enter_epoch(epoch, begins=start == 0)
                for batch in islice(self.feed.loader.epoch(epoch, start), self.total - self.step):
                    self._take_step(batch)
                    self._log(log, epoch)
                    self._keep_snapshot()
                    if not self._compare_notes():
                        continue
                    # All processes save at the same step, although their clocks and signals differ.
                    overdue = self.step < self.total and time.monotonic() - saved >= period
                    signum, due = divmod(self.place.any(2 * interrupts.signum + overdue), 2)
                    if signum or due:
                        self.save()
                        saved = time.monotonic()
                    if signum:
                        where = f"step {self.step} of {self.total}; {self.last_checkpoint} is saved"
                        raise Interrupted(signum, f"stopped after {where}")
            self.save()
        finally:
            log.close()
            if self.watch:
                self.watch.close()
        if self.place.first:
            save_encoder(self.run.path, cast("Network", self.objective.network).encoder, self.feed.intensities)
        self.place.barrier()

    def rehearse(self, epoch: int) -> Iterator[float]:
        """Take the steps of an epoch to measure them, and yield `take_saved` after each. Discard the trainer then."""
        self.step = epoch * self.steps_per_epoch
        self.objective.train()
        self.guidance.enter_epoch(epoch, begins=True, rehearsing=True)
        for batch in self.feed.loader.epoch(epoch):
            self._take_step(batch)
            self._check_losses()
            yield self.guidance.take_saved()

    def _take_step(self, batch: Batch) -> None:
        """Refresh the masks if due, then take one optimizer step."""
        self._refresh_masks()
        drawn = self.guidance.views(batch)
        seed(self._step_seed(self.place.rank), self.place.device)
        lr = learning_rate(
            self.step, steps_per_epoch=self.steps_per_epoch, epochs=self.epochs, config=self.config.optim
        )
        set_learning_rate(self.optimizer, lr)
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.place.device)
        parts = self.config.accumulate
        samples = to_device(batch.indices, self.place.device) if len(self.objective.rebalancers) else None
        pairs = zip(*(view.chunk(parts) for view in drawn), strict=True)
        of_part = [None] * parts if samples is None else samples.chunk(parts)
        for number, (views, which) in enumerate(zip(pairs, of_part, strict=True), start=1):
            with gradients_shared(self.model, last=number == parts), self._precision():
                loss = self.model(*map(self._laid_out, views), *(() if which is None else (which,))).mean() / parts
            self.scaler.scale(loss).backward()
            total += loss.detach()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.objective.after_step((self.step + 1) / self.total)
        self.window.append((self.step, total, batch.indices))
        self.step += 1

    def _refresh_masks(self) -> None:
        """Update the competitor's masks if due."""
        damage, competitor = self.config.damage, self.objective.competitor
        if competitor is None or self.step % (damage.refresh_steps or self.steps_per_epoch):
            return
        seed(self._step_seed(0), self.place.device)  # equal on all processes: masks may be drawn at random
        refresh_masks(self.objective, damage, self.place)
        if self.config.fixes_statistics and damage.independent_norm:
            with self._precision():
                settled = recalibrate(competitor, map(self._laid_out, self.guidance.sample(self.step)))
            for statistic in settled:
                statistic.copy_(self.place.mean(statistic))  # makes them identical if processes round differently

    def _compare_notes(self) -> bool:
        """Whether processes exchange stop and save requests after this step; on GPUs the host waits for that."""
        often = self.place.device.type == "cpu" or self.place.world == 1 or not self.runtime.checkpoint_minutes
        return often or self.step % self.runtime.log_steps == 0

    def _log(self, log: Log, epoch: int) -> None:
        """Check the losses, and write their mean if due.

        Reading a loss makes the host wait for the device, so on a GPU it happens only when losses are logged.
        """
        due = not self.step % self.runtime.log_steps or not self.step % self.steps_per_epoch or self.step == self.total
        if not due and self.place.device.type != "cpu":
            return
        self._check_losses()
        if due:
            lr = float(self.optimizer.param_groups[0]["lr"])
            loss = sum(self.logged_losses) / len(self.logged_losses)
            spread = self.watch.spread() if self.watch else None
            watched = {} if spread is None else {"feature_std": spread}
            if self.objective.competitor is not None and self.config.damage.changes:
                watched["pruned"] = self.objective.competitor.pruned_fraction()
            log.write(step=self.step, epoch=epoch, loss=loss, lr=lr, **watched)
            self.logged_losses.clear()
        else:
            log.advance(self.step)

    def _check_losses(self) -> None:
        """Move the window's losses to the host, averaged over processes. A loss that is not finite ends the run."""
        if not self.window:
            return
        losses = self.place.mean(torch.stack([loss for _, loss, _ in self.window])).tolist()
        for (step, _, indices), loss in zip(self.window, losses, strict=True):
            if loss - loss != 0:  # NaN or infinite
                self._give_up(f"the loss is {loss} at step {step}", step, indices)
            self.logged_losses.append(loss)
        self.last_batch = self.window[-1][2]
        self.window.clear()

    def _give_up(self, what: str, step: int, indices: NDArray[np.int64]) -> None:
        """Raise an error for a number that is not finite. All processes call this together."""
        give_up(what, step, indices, feed=self.feed, place=self.place, checkpoint=self.last_checkpoint)

    def save(self) -> None:
        """Write a checkpoint of the whole state, unless it exists. All processes call this together."""
        self._check_losses()  # a state after a loss that is not finite is never saved
        if self.saved_step == self.step:
            return
        finite = all(bool(tensor.isfinite().all()) for tensor in self.objective.state_dict().values())
        if self.place.any(not finite):
            self._give_up(f"weights are not finite after step {self.step - 1}", self.step - 1, self.last_batch)
        self.feed.list_bad_images(self.place)
        if self.place.first:
            self._write_checkpoint()
        self.saved_step = self.step
        self.place.barrier()  # if a process ended while the first still writes, torchrun would end that one too

    def _keep_snapshot(self) -> None:
        """Write a snapshot if one is due after this epoch."""
        every = self.runtime.snapshot_epochs
        epochs, begun = divmod(self.step, self.steps_per_epoch)
        if every and not begun and not epochs % every and self.place.first:
            save_snapshot(self.run.snapshots, self.objective.state_dict(), epochs)

    def _write_checkpoint(self) -> None:
        state = {
            "step": self.step,
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "logged_losses": self.logged_losses,
        }
        self.last_checkpoint = save_checkpoint(self.run.checkpoints, state, self.step)

    def _restore(self) -> None:
        loaded = load_checkpoint(self.run.checkpoints, STATE)
        if loaded is None:
            return
        state, self.last_checkpoint = loaded
        self.step = self.saved_step = state["step"]
        with parsing(self.last_checkpoint, f"put back whole copies of it and of {self.run.config_file}"):
            self.objective.load_state_dict(state["objective"])
            restore_optimizer(self.optimizer, state["optimizer"])
            if state["scaler"]:  # empty if it was saved without mixed precision
                self.scaler.load_state_dict(state["scaler"])
        self.logged_losses = list(state["logged_losses"])

    def _step_seed(self, rank: int) -> int:
        """Seed of a step's random numbers other than views, such as dropout; differs between processes."""
        key = f"{self.config.seed} {self.step} {rank}".encode()
        return int.from_bytes(hashlib.sha256(key).digest()[:4])  # the CPU's generator takes 32 bits

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.place.device.type, dtype=self.dtype, enabled=self.dtype is not None)

    def _laid_out(self, view: Tensor) -> Tensor:
        """The view in the memory layout of the weights; usually the loader has already used it."""
        layout = torch.channels_last if self.runtime.channels_last else torch.contiguous_format
        return view.contiguous(memory_format=layout)
