"""Worker processes that decode images: how they start, and how they send their batches.

All data loaders are created here, so that one place handles the limits of small machines: containers with 64 MB of
shared memory, a low limit of open files, scripts without a main guard.
"""

import math
import mmap
import multiprocessing
import os
import pickle
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sdclr.decoding.decode import worker_preparation
from sdclr.decoding.lost import as_lost, not_started, unguarded
from sdclr.errors import InputError
from sdclr.progress import tell

T = TypeVar("T")

SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108  # the path on Linux
_AHEAD: Final = 2
"""Batches that a worker prepares ahead by default, as in torch."""
_SPARE: Final = 2
"""Required free space, as a multiple of the space of the batches in transit: other processes need some."""
_LITTLE: Final = 4 * 2**20
"""Additional bytes of shared memory that must be free."""
_REPORTED: Final = 2.0
"""Seconds within which the system reports that a process has ended, once its connection is closed."""
_FILES_OF_A_WORKER: Final = 6
"""Open files per worker in the process that starts it: two queues and a sentinel."""
_FILES_OF_ITS_OWN: Final = 80
"""Open files that a decoding process needs: images that the cache has mapped, and Python's own files."""


class WorkerBatches(Generic[T]):
    """The batches of a dataset, made by worker processes.

    Workers are forked on Linux, regardless of the program's start method: they then start fast, and the script needs
    no main guard. Batches use shared memory if there is enough of it, and otherwise pipes, which are slower. If no
    process can be started, this process decodes.

    Args:
        dataset: Provides the items.
        workers: Number of processes; 0 makes batches in this process.
        collate_fn: Makes a batch of items.
        batch_bytes: Size of the tensors of a batch, which use shared memory; 0 if there are none.
        prefetch_factor: Batches that each worker prepares ahead.
        persistent: Keep the workers between passes.
        options: Further arguments of torch's `DataLoader`.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        *,
        workers: int,
        collate_fn: Callable[[Any], T],
        batch_bytes: int = 0,
        prefetch_factor: int | None = None,
        persistent: bool = False,
        **options: Any,
    ) -> None:
        ahead = prefetch_factor or _AHEAD
        usable = _allowed(workers, ahead)
        self.packed = usable > 0 and batch_bytes > 0 and is_scarce(usable * (ahead + 1) * batch_bytes)
        try:
            prepare = worker_preparation(usable, start_method())
        except OSError as error:  # even a lock cannot be created
            _tell_alone(error)
            usable, self.packed = 0, False
            prepare = worker_preparation(0, start_method())
        make = partial(DataLoader, dataset, worker_init_fn=prepare, **options)
        self._alone = partial(make, collate_fn=collate_fn)
        self._loader: DataLoader[Any] = self._alone()
        if usable:
            self._loader = make(
                collate_fn=partial(_pack, collate_fn) if self.packed else collate_fn,
                num_workers=usable,
                prefetch_factor=ahead,
                persistent_workers=persistent,
                multiprocessing_context=start_method(),
            )

    def __iter__(self) -> Iterator[T]:
        """The batches of one pass.

        Raises:
            ProcessLostError: A worker was killed, or could not start.
        """
        if self._loader.num_workers and getattr(multiprocessing.current_process(), "_inheriting", False):
            raise unguarded("a function that starts processes")
        try:
            for batch in self._begun():
                yield pickle.loads(batch) if isinstance(batch, bytes) else batch  # noqa: S301  # our workers'
        except (RuntimeError, OSError, EOFError) as error:
            lost = as_lost(error if isinstance(error, RuntimeError) else _report())
            if lost is None:
                raise
            raise lost from error

    def _begun(self) -> Iterator[Any]:
        """Start the workers. If the system does not allow it, this process decodes."""
        try:
            if self._loader.num_workers and (start_method() or multiprocessing.get_start_method()) != "fork":
                _check_script()
            return iter(self._loader)
        except OSError as error:
            if not self._loader.num_workers:
                raise
            _tell_alone(error)
            self._loader = self._alone()
            return iter(self._loader)


def items_in_order(items: Dataset[T], workers: int) -> Iterator[T]:
    """The items of a data set in order, made by worker processes.

    Args:
        items: Provides the items.
        workers: Number of processes; 0 makes items in this process.

    Raises:
        InputError: An item raised it.
    """
    loader: WorkerBatches[T | InputError] = WorkerBatches(
        _Caught(items),
        workers=workers,
        collate_fn=_as_it_is,
        batch_size=None,
        # A separate generator: a loader draws a seed, which must not advance the global generator.
        generator=torch.Generator(),
    )
    for item in loader:
        if isinstance(item, InputError):
            raise item
        yield item


class _Caught(Dataset[T | InputError]):
    """Items, or the error as a value: if a worker raised it, its text would include a traceback."""

    def __init__(self, items: Dataset[T]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)  # type: ignore[arg-type]  # data sets with numbered items have a length

    def __getitem__(self, number: int) -> T | InputError:
        try:
            return self.items[number]
        except InputError as error:
            return error


def _as_it_is(item: T) -> T:
    return item


def _report() -> RuntimeError | None:
    """Wait for torch's report of a worker that ended; None if all workers run.

    The connection to a worker that is killed closes before the system says that the process has ended. Torch raises
    its error in the handler of that signal, so it interrupts the wait.
    """
    try:
        time.sleep(_REPORTED)
    except RuntimeError as error:
        return error
    return None


def _tell_alone(error: OSError) -> None:
    tell(f"no process can be started to decode images ({error.strerror or error}): this process decodes them")


@cache
def _check_script() -> None:
    """Start a process that does nothing, to check that processes can import the main script.

    A script without a main guard fails here. A worker would fail, too, but Python would wait forever to send it the
    dataset.

    Raises:
        ProcessLostError: The process failed.
    """
    process = multiprocessing.get_context("spawn").Process(target=_do_nothing)
    process.start()
    process.join()
    if process.exitcode:
        raise not_started()


def _do_nothing() -> None:
    """Target of a process that only starts."""


def _pack(collate: Callable[[Any], Any], items: Any) -> bytes:
    """Make a batch as bytes, which are sent through the pipe; tensors would use shared memory."""
    return pickle.dumps(collate(items), protocol=pickle.HIGHEST_PROTOCOL)


def start_method() -> str | None:
    """Start method of workers: fork on Linux, elsewhere the system's default, since forked processes crash on macOS."""
    return "fork" if sys.platform == "linux" else None


def shared_space(*shape: int) -> Tensor:
    """Allocate uint8 memory that this process shares with the workers that it starts.

    Forked workers share it without a file, so the limit of /dev/shm does not apply.
    """
    if start_method() == "fork":
        return torch.frombuffer(mmap.mmap(-1, max(1, math.prod(shape))), dtype=torch.uint8)[: math.prod(shape)].view(
            shape
        )
    return worker_space(*shape)


def worker_space(*shape: int) -> Tensor:
    """Allocate uint8 memory that a worker can send without a copy, as torch does for the batches that it collates."""
    storage = torch.UntypedStorage._new_shared(math.prod(shape))  # type: ignore[no-untyped-call]  # noqa: SLF001
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)


def is_scarce(needed: int) -> bool:
    """Whether shared memory has too little free space for this number of bytes."""
    if not SHARED_MEMORY.is_dir():
        return sys.platform == "linux"
    space = os.statvfs(SHARED_MEMORY)
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # other torchrun processes here need as much
    return space.f_bavail * space.f_frsize < _LITTLE + _SPARE * needed * beside


def _allowed(workers: int, ahead: int) -> int:
    """Number of workers that the limit of open files allows. Raises the limit if the system permits."""
    each = _FILES_OF_A_WORKER + ahead
    left = _files_left(_FILES_OF_ITS_OWN + workers * each)
    usable = max(0, min(workers, (left - _FILES_OF_ITS_OWN) // each))
    if usable < workers:
        tell(
            f"the limit of open files (ulimit -n) leaves room for {usable} of {workers} processes that decode images: "
            "raise it for speed (ulimit -n 4096)"
        )
    return usable


def _files_left(wanted: int) -> int:
    """Number of files that this process can still open."""
    try:
        import resource  # noqa: PLC0415  # Windows lacks it

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        opened = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # a number is enough
    except (ImportError, OSError):
        return wanted
    if soft == resource.RLIM_INFINITY:
        return wanted
    if soft - opened < wanted and soft != hard:
        more = opened + wanted if hard == resource.RLIM_INFINITY else min(hard, opened + wanted)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (more, hard))
            soft = more
    return soft - opened
