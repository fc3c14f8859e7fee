"""Resident memory of this process, from the kernel. Linux only.

`getrusage` is not suitable: its peak starts at the size of the parent process.
"""

import contextlib
from pathlib import Path

STATUS = Path("/proc/self/status")
"""If this file does not exist, memory cannot be measured."""

_PEAK_RESET = Path("/proc/self/clear_refs")
MIB, GIB = 2**20, 2**30


def resident() -> int:
    """Current memory in bytes. Resets the peak, so that it does not include the memory of imports."""
    with contextlib.suppress(OSError):  # without permission the peak may be too high
        _PEAK_RESET.write_text("5")
    return _status("VmRSS")


def peak() -> int:
    """Peak memory in bytes since the last call of `resident`."""
    return _status("VmHWM")


def _status(field: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return 1024 * int(line.split()[1])
