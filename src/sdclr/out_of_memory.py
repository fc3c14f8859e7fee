"""Detection of out-of-memory errors, and a message with a batch size that would fit."""

import ctypes
import errno
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from sdclr.errors import OutOfMemoryError

_WORDS: Final = ("can't allocate memory", "not enough memory", "out of memory", "cannot allocate memory")
"""Words of torch's RuntimeError if the memory of a CPU or a library is exhausted."""
_TOLD: Final = 200

IN_TRAINING: Final = "--accumulate 2, or --checkpoint-activations"
"""Other remedies when an encoder is trained."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python, NumPy, the system or torch on any device means that memory is exhausted."""
    if isinstance(error, MemoryError | OutOfMemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _WORDS)


@contextmanager
def enough_memory(count: int, *, remedy: str = "", probe: Callable[[int], object] | None = None) -> Iterator[None]:
    """Convert an out-of-memory error in the block into one line with a batch size that would fit.

    Args:
        count: Images per batch.
        remedy: Another remedy, such as "--checkpoint-activations".
        probe: Does the same with a given number of images. The number is halved until it succeeds, and the message
            gives that number. Without it the message gives half of the batch.

    Raises:
        OutOfMemoryError: If memory is exhausted.
    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not is_out_of_memory(error) or isinstance(error, OutOfMemoryError):
            raise
        why = " ".join(str(error).split())[:_TOLD]
        cause = error.with_traceback(None)  # the frames would keep the batch in memory
    else:
        return
    size = count // 2
    while probe is not None and size and not _fits(probe, size):
        size //= 2
    what = f"out of memory with a batch of {count:,} images" + (f" ({why})" if why else "")
    if not size:
        raise OutOfMemoryError(f"{what}: not even one image fits; take a smaller encoder or smaller images") from cause
    others = f", or {remedy}" if remedy else ""
    raise OutOfMemoryError(f"{what}: give --batch-size {size}{others}") from cause


def return_freed_memory() -> None:
    """Return freed memory to the system if the C library keeps it (glibc on Linux).

    glibc keeps the memory of freed arrays of up to 32 MiB, and larger arrays do not reuse it. After a stage with many
    such arrays these are some hundred megabytes.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # missing in other C libraries
        if trim is not None:
            trim(0)


def _fits(probe: Callable[[int], object], size: int) -> bool:
    try:
        probe(size)
    except (MemoryError, RuntimeError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True
