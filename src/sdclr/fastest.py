"""The fastest settings for a network on this machine, measured once for about a second, and then stored.

The type of hardware is not enough. On a CPU with AMX tiles, bfloat16 trains a ResNet-18 more than twice as fast, and
networks of depthwise convolutions half as fast. A CPU with `avx512_bf16` but no tiles gains, too. Therefore `auto`
measures. Results are stored in memory, and in the user's cache folder for other processes (`cache_folder`).
"""

import contextlib
import functools
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from sdclr.choices import Amp
from sdclr.errors import DamagedFileError, InputError
from sdclr.files import read_json, user_cache_folder, with_checksum, write_json
from sdclr.precision import autocast_dtype, device_name
from sdclr.progress import tell

GAIN: Final = 1.1
"""Minimum speed ratio at which bfloat16 is used: a smaller gain is not worth the rounding."""
SECONDS: Final = 1.0
"""Maximum duration of the repeats of one measurement in seconds, without the first run of each candidate."""
LONG_ENOUGH: Final = 0.05
"""Duration of a pass in seconds that is long enough for timing."""
_PATIENCE: Final = 10.0  # if the first round takes this many seconds, it is not repeated
_REPEATS: Final = 5
_GROWTH: Final = 8  # large, because kernels are compiled for each batch size, which takes as long as a pass

Dtype = torch.dtype | None
K = TypeVar("K")

_remembered: dict[str, dict[str, Any]] = {}
_of_module: WeakKeyDictionary[nn.Module, dict[tuple[int, ...], Amp]] = WeakKeyDictionary()


def forward_amp(amp: Amp, network: nn.Module, shape: tuple[int, ...], device: torch.device) -> Amp:
    """The precision of forward passes without gradients, with `auto` replaced by the faster one on this machine.

    On a GPU `auto` depends on the generation. On a CPU with instructions for bfloat16 the network is timed once in both
    formats, on random images.

    Args:
        amp: The setting.
        network: Called with images `(N, *shape)`, float32 in [0, 1], in its current mode.
        shape: Shape of one image, such as `(3, 224, 224)`.
        device: Device of the network.

    Examples:
        >>> import torch
        >>> forward_amp("none", torch.nn.Flatten(), (3, 8, 8), torch.device("cpu"))
        'none'
    """
    if amp != "auto":
        return amp
    if not worth_measuring(device):
        return name_of(autocast_dtype("auto", device))
    known = _of_module.setdefault(network, {})
    if shape not in known:
        known[shape] = name_of(_forward_dtype(network, shape))
    return known[shape]


def worth_measuring(device: torch.device) -> bool:
    """Whether to measure if bfloat16 is faster: on a CPU with instructions for it. On a GPU the generation decides."""
    return device.type == "cpu" and any("bf16" in name and has for name, has in torch.cpu.get_capabilities().items())


def name_of(dtype: Dtype) -> Amp:
    """The explicit setting for a type."""
    names: dict[Dtype, Amp] = {None: "none", torch.bfloat16: "bf16", torch.float16: "fp16"}
    return names[dtype]


def _forward_dtype(network: nn.Module, shape: tuple[int, ...]) -> Dtype:
    def run(images: Tensor) -> None:
        with torch.inference_mode():
            network(images)

    def measure() -> dict[str, Any]:
        images = grown(run, lambda count: random_images(count, shape), at_first=1, most=64)
        return by_dtype(run, images)

    with kept_randomness(), threads(1):
        found = remembered({"mode": "inference", "shape": shape, "network": structure(network)}, measure)
    return faster_dtype(found)


def by_dtype(run: Callable[[Tensor], object], images: Tensor) -> dict[str, Any]:
    """CPU time of a pass in seconds, by the name of the type. CPU time depends less on other processes than wall time.

    Args:
        run: The pass, which runs under autocast.
        images: Its input.
    """

    def cast(dtype: torch.dtype | None) -> None:
        with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
            run(images)

    calls = {name: functools.partial(cast, dtype) for name, dtype in (("float32", None), ("bfloat16", torch.bfloat16))}
    return fastest_of(calls, clock=time.process_time)


def faster_dtype(seconds: Mapping[str, float]) -> Dtype:
    """bfloat16 if it is clearly faster than float32."""
    return torch.bfloat16 if GAIN * seconds["bfloat16"] < seconds["float32"] else None


@contextlib.contextmanager
def threads(number: int) -> Iterator[None]:
    """Use this number of threads inside the block, and restore the caller's number afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def random_images(count: int, shape: tuple[int, ...]) -> Tensor:
    """Random images `(count, *shape)`, float32 in [0, 1); equal for equal arguments."""
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(0))


def structure(module: nn.Module) -> str:
    """Digest of a module's layers and their sizes, independent of the weights."""
    sizes = [(name, tuple(value.shape), value.stride()) for name, value in module.named_parameters()]
    return hashlib.sha256(f"{module}{sizes}".encode()).hexdigest()


def grown(run: Callable[[Tensor], object], make: Callable[[int], Tensor], *, at_first: int, most: int) -> Tensor:
    """A batch that is large enough for timing a pass, with at most `most` images.

    Args:
        run: The pass.
        make: Creates a given number of images.
        at_first: Initial number of images.
        most: Maximum number of images.
    """
    count = min(at_first, most)
    while True:
        batch = make(count)
        run(batch)  # the first pass allocates memory and chooses kernels
        if count == most or seconds_of(functools.partial(run, batch), time.process_time) >= LONG_ENOUGH:
            return batch
        count = min(_GROWTH * count, most)


def fastest_of(
    candidates: Mapping[K, Callable[[], object]], *, clock: Callable[[], float] | None = None
) -> dict[K, float]:
    """Seconds of each candidate: the minimum of interleaved repeats, which other processes affect least.

    Args:
        candidates: Calls to time, by any name.
        clock: The clock; by default wall time.
    """
    clock = clock or time.perf_counter
    start = time.perf_counter()
    seconds = {name: seconds_of(call, clock) for name, call in candidates.items()}  # also chooses kernels
    if time.perf_counter() - start >= _PATIENCE:
        return seconds
    seconds = dict.fromkeys(candidates, float("inf"))
    start = time.perf_counter()
    for _ in range(_REPEATS):
        for name, call in candidates.items():
            seconds[name] = min(seconds[name], seconds_of(call, clock))
        if time.perf_counter() - start >= SECONDS:
            break
    return seconds


def seconds_of(call: Callable[[], object], clock: Callable[[], float]) -> float:
    """Duration of one call."""
    start = clock()
    call()
    return clock() - start


@contextlib.contextmanager
def kept_randomness() -> Iterator[None]:
    """Restore the state of the CPU's generator after the block: a measurement must not change results."""
    with torch.random.fork_rng(devices=[]):
        yield


def remembered(
    what: Mapping[str, Any],
    measure: Callable[[], dict[str, Any]],
    *,
    lasting: Callable[[dict[str, Any]], bool] = lambda _: True,
) -> dict[str, Any]:
    """A measurement of this process or of an earlier one on such a machine; if there is none, a new one.

    Args:
        what: Everything that determines the result, except the machine and torch, as plain JSON.
        measure: Measures, and returns a plain JSON object.
        lasting: Whether a result is reliable enough to be stored for other processes.
    """
    machine = {
        "cpu": device_name(torch.device("cpu")),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
    }
    asked = json.loads(json.dumps({**machine, **what}))
    key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:32]
    if key not in _remembered:
        file = None
        with contextlib.suppress(OSError):  # no home folder
            file = cache_folder() / f"{key}.json"
        found = None if file is None else _read(file, asked)
        if found is None:
            found = measure()
            if file is not None and lasting(found):
                # Without space or permission, the next process measures again.
                with contextlib.suppress(OSError, InputError):
                    write_json(file, with_checksum({"asked": asked, "found": found}))
        _remembered[key] = found
    return _remembered[key]


def cache_folder() -> Path:
    """Folder of measurements for other processes: `speed` in the user's cache folder.

    Raises:
        OSError: If the user has no home folder.
    """
    return user_cache_folder() / "speed"


def _read(file: Path, asked: dict[str, Any]) -> dict[str, Any] | None:
    """An earlier measurement of the same; None if there is none or it cannot be read."""
    try:
        values = read_json(file, keys={"asked": dict, "found": dict}) if file.exists() else {}
    except DamagedFileError:
        tell(f"{file} is damaged and measured again")
        return None
    except (InputError, OSError):  # no permission
        return None
    found: dict[str, Any] | None = values["found"] if values.get("asked") == asked else None
    return found
