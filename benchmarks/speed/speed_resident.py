"""Resident memory of this very process, as the kernel tells it. Linux only.

What `getrusage` tells would not do: it starts at the size of the process that launched this one.
"""

import contextlib
from pathlib import Path

STATUS = Path("/proc/self/status")
"""Not there: memory cannot be measured here."""

_PEAK_RESET = Path("/proc/self/clear_refs")
MIB, GIB = 2**20, 2**30


def resident() -> int:
    """Bytes now. The peak begins anew, so that what imports took does not hide what comes."""
    with contextlib.suppress(OSError):  # where that is forbidden, the peak may be too high
        _PEAK_RESET.write_text("5")
    return _status("VmRSS")


def peak() -> int:
    """Most bytes since `resident` was called."""
    return _status("VmHWM")


def _status(field: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return 1024 * int(line.split()[1])
