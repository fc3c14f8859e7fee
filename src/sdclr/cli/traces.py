"""Tracebacks of unexpected errors, stored in files for a bug report."""

import os
import platform
import re
import time
import traceback
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from sdclr.errors import InputError
from sdclr.files import remove, user_cache_folder, write_atomically
from sdclr.version import __version__

KEPT: Final = 20
"""Number of newest files that are kept."""
_PACKAGES: Final = ("torch", "torchvision", "timm", "numpy", "pyarrow", "pillow", "opencv-python-headless")
_SECRET: Final = re.compile(
    r"(?i)([\w-]*(?:token|secret|password|passwd|api[-_]?key|credential)[\w-]*[=: ]+)\S+|\bhf_\w+"
)
_USER_IN_URL: Final = re.compile(r"(?<=://)[^/@\s]+@")


def save_trace(error: BaseException, arguments: Sequence[str]) -> Path | None:
    """Write the traceback of an error, the command line and the versions of packages into the cache folder.

    Args:
        error: The error.
        arguments: The command line. Anything that looks like a password or a token is replaced.

    Returns:
        The file, or None if it cannot be written.
    """
    command = next((word for word in arguments if re.fullmatch(r"[a-z]+", word)), "sdclr")
    lines = [
        f"sdclr {__version__}",
        f"command: sdclr {' '.join(arguments)}",
        f"Python {platform.python_version()} on {platform.platform()}, {os.cpu_count()} CPUs",
        f"packages: {', '.join(_versions())}",
        "",
        *traceback.format_exception(error),
    ]
    text = without_secrets("\n".join(line.rstrip("\n") for line in lines) + "\n")
    try:
        folder = user_cache_folder() / "errors"
        path = folder / f"{time.strftime('%Y-%m-%d-%H%M%S')}-{command}-{os.getpid()}.txt"
        write_atomically(path, text.encode("utf-8", "backslashreplace"))
        for old in sorted(folder.glob("*.txt"), key=lambda file: file.name)[:-KEPT]:
            if old != path:
                remove(old)
    except (OSError, InputError):
        return None
    return path


def without_secrets(text: str) -> str:
    """A text without anything that looks like a password, a token, or a user name in an address."""
    return _USER_IN_URL.sub("", _SECRET.sub(lambda found: f"{found[1] or ''}***", text))


def _versions() -> list[str]:
    found = []
    for package in _PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue

    return found
