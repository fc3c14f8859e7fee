"""What is said when a worker process is lost. Without torch, because the command line asks, too."""

import re
from collections.abc import Iterator
from typing import Final

from sdclr.errors import ProcessLostError

_LOST: Final = re.compile(r"DataLoader worker \(pid(?:\(s\))? [\d, ]+\) (.*)", re.DOTALL)
_GUARD: Final = 'put the calls of your script below `if __name__ == "__main__":`, or pass workers=0'
_RESUME: Final = "what is saved stays, and the same command resumes"
_NO_SPACE: Final = "unable to allocate shared memory|items of ancdata"
_REASONS: Final = {
    "unable to allocate shared memory|Bus error": "a process that decodes images ran out of shared memory (/dev/shm): "
    f"enlarge it (docker run --shm-size 1g), or give --workers 0; {_RESUME}",
    "items of ancdata|Too many open files": "too many files are open: raise the limit (ulimit -n 4096), or give "
    f"--workers 0; {_RESUME}",
    "Killed": "a process that decodes images was killed (SIGKILL), as the system does when memory runs out: give fewer "
    f"--workers or a smaller --batch-size; {_RESUME}",
    "exited unexpectedly": f"a process that decodes images ended while it started or worked: {_GUARD}",
}
"""What the texts of torch's errors mean."""


def as_lost(error: BaseException) -> ProcessLostError | None:
    """What torch raises where a worker process ended, in one line with a remedy; None for other errors.

    torch notices the end of a worker by a signal, so that its error can come up anywhere in the main thread.
    """
    if not isinstance(error, RuntimeError):
        return None
    texts = " ".join(_chain(error))
    found = _LOST.search(texts)
    if found is None and not re.search(_NO_SPACE, texts):
        return None
    for pattern, meaning in _REASONS.items():
        if re.search(pattern, texts):
            return ProcessLostError(meaning)
    how = "" if found is None else " ".join(found[1].split()).removesuffix(".")
    return ProcessLostError(f"a process that decodes images {how}: give --workers 0, and report it; {_RESUME}")


def _chain(error: BaseException | None) -> Iterator[str]:
    """The texts of an error and of those that it came from: one may say "ended", and its cause the signal."""
    while error is not None:
        yield str(error)
        error = error.__cause__ or error.__context__


def unguarded(what: str) -> ProcessLostError:
    """The error of a process that is started while it still imports the script that started it."""
    return ProcessLostError(f"{what} is called while Python imports the script in a process of its own: {_GUARD}")


def not_started() -> ProcessLostError:
    """The error of a process that ended before it could do anything."""
    return ProcessLostError(_REASONS["exited unexpectedly"])
