"""Number format and threads of a run, chosen once for a machine and then kept for the whole run.

Both change results, at least in the last digits. A run therefore stores its choice, and a resumed session keeps it,
even if another choice is faster on another machine.
"""

import contextlib
import copy
import functools
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from sdclr.choices import Amp
from sdclr.errors import InputError
from sdclr.fastest import (
    by_dtype,
    faster_dtype,
    fastest_of,
    grown,
    kept_randomness,
    random_images,
    remembered,
    seconds_of,
    structure,
    worth_measuring,
)
from sdclr.fastest import threads as set_threads
from sdclr.method import Objective
from sdclr.method.processes import alone
from sdclr.out_of_memory import enough_memory
from sdclr.precision import autocast_dtype
from sdclr.progress import tell
from sdclr.training.config import PretrainConfig
from sdclr.training.distributed import Processes
from sdclr.training.run import Run
from sdclr.training.runtime import Runtime
from sdclr.visible import counted

THREADS_GAIN: Final = 1.05
"""More threads are kept unless they take this many times as long as fewer threads."""
_QUIET: Final = 1.3
"""Maximum ratio of wall time to CPU time of a pass on one thread, if no other process uses the CPU."""
_SHORT: Final = 0.1
"""Fewer threads are tried if a step, divided evenly over the threads, takes less than this, in seconds."""
_THREADS_ENV: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_SMALLEST_IN_BF16: Final = 16
"""Smallest side of views, in pixels, that `auto` may train in bfloat16. It cost 1.6 points of kNN accuracy at 8 px, and
nothing measurable at 16 px (docs/results/precision.md)."""


class Settled(NamedTuple):
    """Number format and threads of a run.

    Attributes:
        dtype: Type of products and convolutions; None for float32.
        threads: Number of torch's threads on a CPU.
    """

    dtype: torch.dtype | None
    threads: int

    @property
    def precision(self) -> str:
        """Name of the type."""
        return _called(self.dtype)

    def threads_in_force(self) -> contextlib.AbstractContextManager[None]:
        """Use this number of threads inside the block, and restore the caller's number afterwards."""
        return set_threads(self.threads)


def settle(objective: Objective, config: PretrainConfig, runtime: Runtime, place: Processes, run: Run) -> Settled:
    """Choose the number format and the threads of a run: given values first, then stored ones, then the fastest.

    `runtime.amp` and `runtime.threads` come first, then the values of the last session on this type of device (CPU or
    GPU). The remaining choices are timed on a CPU: a few forward and backward passes of a copy of the objective take
    about a second, and other runs of this kind reuse the result (see `sdclr.fastest`). A number of threads that the
    caller set by `OMP_NUM_THREADS`, `MKL_NUM_THREADS` or `torch.set_num_threads` is kept. The first process decides.

    Args:
        objective: The objective to train. It is not changed, and no random number is drawn.
        config: The run's configuration.
        runtime: Settings of the execution.
        place: The rank of this process.
        run: The run, with its earlier sessions.
    """

    def decide() -> Settled:
        noted = last_sitting(run, place.device)
        choice = Choice(
            dtypes=possible_dtypes(
                runtime.amp, noted.get("precision"), place.device, image_size=config.views.image_size
            ),
            threads=_threads(runtime.threads, noted.get("threads"), place.device),
        )
        if choice.settled is not None:
            return choice.settled
        return choice.fastest(
            _step_of(objective, runtime),
            shape=(3, config.views.image_size, config.views.image_size),
            batch=config.batch_size // (config.accumulate * place.world),
            about={"network": structure(objective), "channels_last": runtime.channels_last},
        )

    decided = place.broadcast(decide() if place.first else None)
    assert decided is not None  # noqa: S101  # for mypy: the first process has decided
    if place.device.type == "cpu":
        threads = counted(decided.threads, "thread")
        tell(f"computing in {decided.precision} on {threads}; --amp and --threads set that")
    return decided


def last_sitting(run: Run, device: torch.device) -> dict[str, Any]:
    """The record of the last session on a device of this type; empty if there was none.

    A run that moves between CPU and GPU has separate choices for each.
    """
    own = [session for session in run.sessions() if session.get("device_type", device.type) == device.type]
    return own[-1] if own else {}


@dataclass(frozen=True)
class Choice:
    """Possible types and numbers of threads of a training: at least one of each, the default first."""

    dtypes: tuple[torch.dtype | None, ...]
    threads: tuple[int, ...]

    @property
    def settled(self) -> Settled | None:
        """The result if there is only one possibility; otherwise None."""
        return Settled(self.dtypes[0], self.threads[0]) if len(self.dtypes) == len(self.threads) == 1 else None

    def fastest(
        self, step: Callable[[Tensor], object], *, shape: tuple[int, ...], batch: int, about: Mapping[str, Any]
    ) -> Settled:
        """The fastest possibility on this machine, measured now or before.

        Types are compared on one thread. Fewer threads than the default are tried if a step is so short that threads
        may wait for each other longer than they work.

        Args:
            step: A forward and a backward pass for images `(n, *shape)`, float32 in [0, 1].
            shape: Shape of one image.
            batch: Images per step; fewer are timed if that takes long.
            about: Description of the training, as plain JSON.
        """
        what = {"mode": "training", "shape": shape, "batch": batch, **about}
        dtype = self.dtypes[0]
        with enough_memory(batch), kept_randomness(), set_threads(1), alone():
            timed = _Timed(step, shape, batch)
            if len(self.dtypes) > 1:
                dtype = faster_dtype(remembered(what, lambda: by_dtype(step, timed.some)))
            if len(self.threads) == 1:
                return Settled(dtype, self.threads[0])
            asked = {**what, "dtype": str(dtype), "threads": self.threads}
            found = remembered(asked, lambda: timed.threads(self.threads, dtype), lasting=lambda found: found["quiet"])
        return Settled(dtype, found["threads"])


class _Timed:
    """Times a training step.

    Args:
        step: Forward and backward pass.
        shape: Shape of one image.
        batch: Images per training step.
    """

    def __init__(self, step: Callable[[Tensor], object], shape: tuple[int, ...], batch: int) -> None:
        self._step, self._shape, self._batch = step, shape, batch

    @functools.cached_property
    def some(self) -> Tensor:
        """Enough images to time a step, at most a training batch."""
        return grown(self._step, self._images, at_first=min(4, self._batch), most=self._batch)

    def threads(self, candidates: tuple[int, ...], dtype: torch.dtype | None) -> dict[str, Any]:
        """The best number of threads: starts at one, and takes more as long as they are not slower."""
        call = functools.partial(self._run, self.some, 1, dtype)
        call()
        clocks = (time.perf_counter, time.process_time)
        wall, work = (min(seconds_of(call, clock) for _ in range(3)) for clock in clocks)
        best, seconds = candidates[0], dict[str, float]()
        if work * self._batch / len(self.some) <= _SHORT * best:
            whole, best = self._images(self._batch), 1
            for more in sorted(candidates)[1:]:
                taken = fastest_of({n: functools.partial(self._run, whole, n, dtype) for n in (best, more)})
                seconds |= {str(n): value for n, value in taken.items()}
                if taken[more] > THREADS_GAIN * taken[best]:
                    break
                best = more
        return {"threads": best, "quiet": wall < _QUIET * work, "seconds": seconds}

    def _images(self, count: int) -> Tensor:
        return random_images(count, self._shape)

    def _run(self, images: Tensor, number: int, dtype: torch.dtype | None) -> None:
        with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None), set_threads(number):
            self._step(images)


def _step_of(objective: Objective, runtime: Runtime) -> Callable[[Tensor], None]:
    """Forward and backward pass of a copy of the objective, which the first step creates."""
    layout = torch.channels_last if runtime.channels_last else torch.contiguous_format
    copies: list[Objective] = []

    def step(images: Tensor) -> None:
        if not copies:
            copied = copy.deepcopy(objective).train()
            copies.append(copied.to(memory_format=layout))  # type: ignore[call-overload]  # torch's stub lacks it
        views = images.contiguous(memory_format=layout)
        copies[0].zero_grad(set_to_none=True)
        copies[0](views, views.flip(3)).mean().backward()

    return step


def possible_dtypes(
    amp: Amp, noted: str | None, device: torch.device, *, image_size: int
) -> tuple[torch.dtype | None, ...]:
    """Types to choose among, the default first.

    Args:
        amp: The user's setting.
        noted: Name of the type that an earlier session chose for `auto`; None at the start.
        device: Device of the run.
        image_size: Side of the views in pixels.
    """
    if amp != "auto":
        return (autocast_dtype(amp, device),)
    if noted is not None:
        return (_dtype_called(noted),)
    if image_size < _SMALLEST_IN_BF16:
        return (None,)
    return (None, torch.bfloat16) if worth_measuring(device) else (autocast_dtype("auto", device),)


def _threads(asked: int | None, noted: int | None, device: torch.device) -> tuple[int, ...]:
    """Numbers of threads to choose among: the default first, each other number half of the one before."""
    if asked is not None:
        return (asked,)
    usual = torch.get_num_threads()
    if device.type != "cpu" or _chosen_by_caller(usual):
        return (usual,)
    if noted is not None and noted <= usual:
        return (noted,)
    return tuple(usual >> halvings for halvings in range(usual.bit_length()))  # the last is 1


def _chosen_by_caller(threads: int) -> bool:
    """Whether the caller set the number of threads. The default is the number of physical or logical cores."""
    if any(os.environ.get(name) for name in _THREADS_ENV):
        return True
    machine = torch.cpu.get_capabilities()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = {usable, *(machine.get(name) for name in ("num_logical_cores", "num_physical_cores"))}
    return threads not in cores


def _called(dtype: torch.dtype | None) -> str:
    return str(dtype or torch.float32).removeprefix("torch.")


def _dtype_called(name: str) -> torch.dtype | None:
    """The type with the name in a session's record."""
    known = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in known:
        raise InputError(f"this run records an unknown precision {name!r}: choose one with --amp")
    return known[name]
