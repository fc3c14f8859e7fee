"""Error messages for lost worker processes. Does not import torch, because the command line uses it, too."""

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
"""Message for each pattern in the texts of torch's errors."""


def as_lost(error: BaseException | None) -> ProcessLostError | None:
    """Convert torch's error about a lost worker process to one line with a remedy; None for other errors.

    A signal tells torch that a worker ended, so torch can raise the error anywhere in the main thread.
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
    """Texts of an error and its causes. The error may say only "ended" while its cause names the signal."""
    while error is not None:
        yield str(error)
        error = error.__cause__ or error.__context__


def unguarded(what: str) -> ProcessLostError:
    """Error for a child process that starts processes while it still imports the main script."""
    return ProcessLostError(f"{what} is called while Python imports the script in a process of its own: {_GUARD}")


def not_started() -> ProcessLostError:
    """Error for a process that ended before it did any work."""
    return ProcessLostError(_REASONS["exited unexpectedly"])
