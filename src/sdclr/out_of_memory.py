"""When memory runs out: which errors mean that, and one line that names a batch size which would fit."""

import ctypes
import errno
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from sdclr.errors import OutOfMemoryError

_WORDS: Final = ("can't allocate memory", "not enough memory", "out of memory", "cannot allocate memory")
"""What torch says in a RuntimeError where a processor's memory, or that of a library, runs out."""
_TOLD: Final = 200

IN_TRAINING: Final = "--accumulate 2, or --checkpoint-activations"
"""What else helps where an encoder is trained."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: Python's, NumPy's, the system's, or torch's on any device."""
    if isinstance(error, MemoryError | OutOfMemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _WORDS)


@contextmanager
def enough_memory(count: int, *, remedy: str = "", probe: Callable[[int], object] | None = None) -> Iterator[None]:
    """Turn a lack of memory into one line with a batch size that would fit.

    Args:
        count: Images of the batch.
        remedy: What else helps, such as "--checkpoint-activations".
        probe: Does the same with fewer images: half of them and so on are tried until it succeeds, and that is the size
            which the line names. Without it the line names the half.

    Raises:
        OutOfMemoryError: Memory ran out.
    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not is_out_of_memory(error) or isinstance(error, OutOfMemoryError):
            raise
        why = " ".join(str(error).split())[:_TOLD]
        cause = error.with_traceback(None)  # whose frames hold the batch that did not fit
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
    """Give memory that was freed back to the system, where the C library keeps it (glibc on Linux).

    glibc keeps what arrays of up to 32 MiB have left, and larger arrays do not use it. After a stage with many of them
    that is some hundred megabytes.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries have none
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
