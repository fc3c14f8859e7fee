"""What is fastest on this very machine for one network: timed once for about a second, then remembered.

Hardware does not tell. On a CPU with AMX tiles bfloat16 makes a ResNet-18 train more than twice as fast, and networks
of depthwise convolutions half as fast; a CPU with `avx512_bf16` and no tiles gains, too. So `auto` means: measure.
Results are kept in memory, and in the user's cache folder for other processes (`cache_folder`).
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
"""How many times as fast bfloat16 must be to be taken: for less it is not worth its rounding."""
SECONDS: Final = 1.0
"""What the repeats of one measurement may take together, beyond the first of each candidate."""
LONG_ENOUGH: Final = 0.05
"""Seconds of a pass from which on timing a larger batch tells nothing more."""
_PATIENCE: Final = 10.0  # seconds of the first round after which there is no other
_REPEATS: Final = 5
_GROWTH: Final = 8  # kernels are compiled for each size of a batch, which takes as long as a pass

Dtype = torch.dtype | None
K = TypeVar("K")

_remembered: dict[str, dict[str, Any]] = {}
_of_module: WeakKeyDictionary[nn.Module, dict[tuple[int, ...], Amp]] = WeakKeyDictionary()


def forward_amp(amp: Amp, network: nn.Module, shape: tuple[int, ...], device: torch.device) -> Amp:
    """The precision of forward passes without gradients, `auto` replaced by what is faster on this machine.

    On a GPU `auto` goes by its generation. On a CPU that has instructions for bfloat16 the network is timed with both
    formats, on random images, the first time that it is asked about.

    Args:
        amp: What is asked.
        network: Called with images `(N, *shape)`, float32 in [0, 1]. It is in the mode in which it will run.
        shape: Of one image, such as `(3, 224, 224)`.
        device: Where the network is.

    Example:
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
    """Whether bfloat16 may be the faster format: on a CPU that has instructions for it. A GPU's generation tells."""
    return device.type == "cpu" and any("bf16" in name and has for name, has in torch.cpu.get_capabilities().items())


def name_of(dtype: Dtype) -> Amp:
    """The explicit setting that gives a type."""
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
    """Seconds of a pass on a CPU by the name of its type: of the processor's time, which a busy machine stretches less.

    Args:
        run: The pass, which autocast makes one or the other.
        images: What it is given.
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
    """Run inside with so many threads; the caller's number is put back outside."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def random_images(count: int, shape: tuple[int, ...]) -> Tensor:
    """`(count, *shape)` float32 in [0, 1), the same every time."""
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(0))


def structure(module: nn.Module) -> str:
    """Digest of a module's layers and their sizes, whatever the weights are."""
    sizes = [(name, tuple(value.shape), value.stride()) for name, value in module.named_parameters()]
    return hashlib.sha256(f"{module}{sizes}".encode()).hexdigest()


def grown(run: Callable[[Tensor], object], make: Callable[[int], Tensor], *, at_first: int, most: int) -> Tensor:
    """A batch so large that a pass takes long enough to be timed, or of `most` images.

    Args:
        run: The pass.
        make: Images by their number.
        at_first: The number to begin with.
        most: The largest number.
    """
    count = min(at_first, most)
    while True:
        batch = make(count)
        run(batch)  # the first pass allocates, and chooses kernels
        if count == most or seconds_of(functools.partial(run, batch), time.process_time) >= LONG_ENOUGH:
            return batch
        count = min(_GROWTH * count, most)


def fastest_of(
    candidates: Mapping[K, Callable[[], object]], *, clock: Callable[[], float] | None = None
) -> dict[K, float]:
    """Seconds of each candidate: the least of interleaved repeats, which others on the machine disturb least.

    Args:
        candidates: What to time, by any name.
        clock: Tells the time; by default that of the wall.
    """
    clock = clock or time.perf_counter
    start = time.perf_counter()
    seconds = {name: seconds_of(call, clock) for name, call in candidates.items()}  # kernels are chosen, too
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
    """What one call takes."""
    start = clock()
    call()
    return clock() - start


@contextlib.contextmanager
def kept_randomness() -> Iterator[None]:
    """Leave the CPU's generator as it was: a measurement must change no result."""
    with torch.random.fork_rng(devices=[]):
        yield


def remembered(
    what: Mapping[str, Any],
    measure: Callable[[], dict[str, Any]],
    *,
    lasting: Callable[[dict[str, Any]], bool] = lambda _: True,
) -> dict[str, Any]:
    """What was measured: in this process, else by an earlier one on such a machine, else now.

    Args:
        what: What decides the result beside the machine and torch, as plain JSON.
        measure: Measures; a plain JSON object.
        lasting: Whether a result is good enough to be kept for other processes.
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
        with contextlib.suppress(OSError):  # no home
            file = cache_folder() / f"{key}.json"
        found = None if file is None else _read(file, asked)
        if found is None:
            found = measure()
            if file is not None and lasting(found):
                # No space, no permission: it is measured again next time.
                with contextlib.suppress(OSError, InputError):
                    write_json(file, with_checksum({"asked": asked, "found": found}))
        _remembered[key] = found
    return _remembered[key]


def cache_folder() -> Path:
    """Where measurements are kept for other processes: `speed` in the user's cache folder.

    Raises:
        OSError: The user has no home folder.
    """
    return user_cache_folder() / "speed"


def _read(file: Path, asked: dict[str, Any]) -> dict[str, Any] | None:
    """An earlier measurement; None if there is none that can be read and is of the same."""
    try:
        values = read_json(file, keys={"asked": dict, "found": dict}) if file.exists() else {}
    except DamagedFileError:
        tell(f"{file} is damaged and measured again")
        return None
    except (InputError, OSError):  # no permission
        return None
    found: dict[str, Any] | None = values["found"] if values.get("asked") == asked else None
    return found
