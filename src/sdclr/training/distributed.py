"""Process groups: the interface of the training loop to one or several processes."""

import contextlib
import os
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sdclr.errors import InputError
from sdclr.files import claimed
from sdclr.files.alone import taken
from sdclr.slurm import torch_variables
from sdclr.training.runtime import Runtime

T = TypeVar("T")

SETTLING = 0.5  # seconds between the last collective and the end of the group
PATIENCE = timedelta(hours=2)  # timeout of the other processes while the first searches for bad images


@dataclass(frozen=True)
class Processes:
    """Rank of this process, number of processes, and device."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def broadcast(self, value: T) -> T:
        """The first process's value, on all processes; it must be picklable."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: T) -> list[T]:
        """Every process's value, in the order of ranks; it must be picklable."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def check_alike(self, digest: str, what: str) -> None:
        """Compare a digest between all processes.

        Raises:
            InputError: The digests differ. The message starts with `what`.
        """
        found = self.gather(digest)
        other = next((rank for rank, each in enumerate(found) if each != found[0]), None)
        if other is not None:
            raise InputError(
                f"{what} differ between process 0 and process {other} of {self.world}: start all processes with the "
                "same version of torch on the same kind of machine"
            )

    def any(self, flag: int) -> int:
        """The largest of all processes' flags, so that all take the same decision."""
        if self.world == 1:
            return flag
        largest = torch.tensor(flag, device=self.device)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        return int(largest)

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """Mean of a tensor over all processes."""
        if self.world == 1:
            return value
        total = value.detach().clone()
        dist.all_reduce(total)
        return total / self.world

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.world > 1:
            dist.barrier()


def resolve_device(name: str) -> torch.device:
    """The device with this name; `auto` is a GPU if there is one.

    Raises:
        InputError: If torch does not know the name, or the machine has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"unknown device {name!r}: use cpu, cuda, cuda:1, … or auto") from error
    if device.type not in {"cpu", "cuda"}:
        raise InputError(f"training runs on cpu and cuda, not on {name!r}: use one of them, or auto")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"no CUDA device is to be had here for {name!r}, of {torch.cuda.device_count()}: use --device cpu or auto"
        )
    return device


@contextlib.contextmanager
def one_job(place: Processes, folder: Path, name: str, doing: str, remedy: str) -> Iterator[None]:
    """Lock a folder against other jobs. All processes of a job call this together.

    Args:
        place: The rank of this process.
        folder: The folder; as for `sdclr.files.alone.only_process`, like the arguments below.
        name: Name of the locked file.
        doing: What the other job does with the folder, for the error message.
        remedy: Advice for the error message.

    Raises:
        InputError: Another job has locked the folder.
    """
    with claimed(folder, name) if place.first else contextlib.nullcontext(enter_result=True) as free:
        if not place.broadcast(free):
            raise taken(folder, name, doing, remedy)
        yield


@contextlib.contextmanager
def processes(device: str) -> Iterator[Processes]:
    """Join the processes that `torchrun` or `srun` started with this one; otherwise use one process.

    Raises:
        InputError: The device is not available, or the variables of `torchrun` or `srun` are incomplete.
    """
    chosen = resolve_device(device)
    # If the caller has already set up a group (a test, a larger program), it is used and kept.
    owned = not dist.is_initialized()
    if owned:
        os.environ.update(torch_variables())
    if owned and int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Processes(0, 1, chosen)
        return
    if chosen.type == "cuda":
        if "LOCAL_RANK" not in os.environ:
            raise InputError("WORLD_SIZE is set but LOCAL_RANK is not: start several processes with torchrun")
        chosen = resolve_device(f"cuda:{os.environ['LOCAL_RANK']}")
        torch.cuda.set_device(chosen)
    if owned:
        options: dict[str, Any] = {"device_id": chosen} if chosen.type == "cuda" else {}
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=PATIENCE, **options)
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), chosen)
    finally:
        if owned:
            # Gloo's thread needs the interpreter lock to release the last collective. The group's destructor waits for
            # that thread while it holds the lock, which would be a deadlock. Sleeping releases the lock before.
            time.sleep(SETTLING)
            dist.destroy_process_group()


def wrapped(objective: nn.Module, runtime: Runtime, place: Processes) -> nn.Module:
    """Compile an objective and distribute it over processes, as `runtime` says.

    Args:
        objective: On the device; compilation changes it in place.
        runtime: Whether to compile.
        place: The rank of this process.
    """
    model = objective
    if runtime.cuda_graphs:
        model.compile(mode="reduce-overhead")
    elif runtime.compile:
        model.compile()
    if place.world > 1:
        ids = [place.device] if place.device.type == "cuda" else None
        # torch warns of the strides of each 1x1 convolution in channels_last, where two descriptions are equivalent.
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        # Running statistics are not averaged in training mode, and masks are equal everywhere by construction.
        model = DistributedDataParallel(model, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True)
    return model


def gradients_shared(model: nn.Module, *, last: bool) -> contextlib.AbstractContextManager[object]:
    """Exchange gradients between processes once per step, with the last part of the batch."""
    if last or not isinstance(model, DistributedDataParallel):
        return contextlib.nullcontext()
    return model.no_sync()
