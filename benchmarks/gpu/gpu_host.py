"""Work of the host in a step: launched kernels, copies and waits, and whether the device has to stop."""

import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from gpu_runs import Steps, synchronize
from speed_harness import quartiles

RANGE = "measured steps"
WAITS = {"cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy"}
"""Calls by which the host waits for the device."""
WAITING = "called a synchronizing CUDA operation"
"""torch's message in its synchronization debug mode."""
LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch", "cudaLaunchCooperativeKernel")


class Range(Protocol):
    start: float
    end: float


class Event(Protocol):
    """The used attributes of the profiler's events; times in microseconds."""

    name: str
    device_type: DeviceType
    is_user_annotation: bool
    time_range: Range


@dataclass(frozen=True, kw_only=True)
class Activity:
    """Activity per step, as a mean over several steps."""

    waits: dict[str, float]
    """Calls that wait for the device, by name."""
    launches: float
    """Kernels and graphs that the host launched."""
    pageable: float
    """Copies from or to memory that is not pinned, for which the host waits, too."""
    copies: float
    """All copies, including those within the device."""
    kernels: float
    """Kernels that ran."""
    busy: float
    """Seconds of the device's kernels and copies."""
    top: list[tuple[str, float, float]]
    """The kernels that took longest: name, number of calls, seconds."""


def profile_steps(steps: Steps, count: int, *, top: int = 15) -> Activity | None:
    """Profile some steps; None on a CPU."""
    if steps.device.type != "cuda":
        return None
    steps.prepare()
    steps.take(2)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA], acc_events=True) as watched:
        with record_function(RANGE):
            for _ in range(count):
                steps.step()
        synchronize(steps.device)  # waits for all kernels, outside the measured range
    return summarize(watched.events(), count, top=top)


def summarize(events: Iterable[Event], count: int, *, top: int) -> Activity:
    """Calls of the host within the range, and all work of the device for them."""
    events = list(events)
    span = next(e.time_range for e in events if e.name == RANGE and e.device_type == DeviceType.CPU)
    host = [e for e in events if e.device_type == DeviceType.CPU and span.start <= e.time_range.start < span.end]
    # The profiler repeats the host's ranges on the device's timeline.
    device = [e for e in events if e.device_type == DeviceType.CUDA and not e.is_user_annotation and e.name != RANGE]
    copies = [event for event in device if event.name.startswith(("Memcpy", "Memset"))]
    kernels = [event for event in device if not event.name.startswith(("Memcpy", "Memset"))]
    taken: Counter[str] = Counter()
    for event in kernels:
        taken[event.name] += _seconds(event)
    often = Counter(event.name for event in kernels)
    return Activity(
        waits={name: n / count for name, n in Counter(e.name for e in host if e.name in WAITS).items()},
        launches=sum(event.name.startswith(LAUNCHES) for event in host) / count,
        pageable=sum("Pageable" in event.name for event in copies) / count,
        copies=sum(event.name.startswith("Memcpy") for event in copies) / count,
        kernels=len(kernels) / count,
        busy=sum(map(_seconds, device)) / count,
        top=[(name[:90], often[name] / count, seconds / count) for name, seconds in taken.most_common(top)],
    )


def _seconds(event: Event) -> float:
    return (event.time_range.end - event.time_range.start) / 1e6


def first_wait(steps: Steps, count: int) -> str | None:
    """The first operation in some steps for which the host waits, according to torch; empty if there is none.

    None on a CPU.
    """
    if steps.device.type != "cuda":
        return None
    steps.prepare()
    steps.take(2)
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that the mode is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(count):
            steps.step()
    except RuntimeError as error:
        if WAITING not in str(error):
            raise
        return str(error).partition("\n")[0]
    finally:
        torch.cuda.set_sync_debug_mode(before)
        synchronize(steps.device)
    return ""


@contextmanager
def waits_by_place(device: torch.device) -> Iterator[Counter[str]]:
    """Count the host's waits by file and line, according to torch; nothing on a CPU."""
    found: Counter[str] = Counter()
    if device.type != "cuda":
        yield found
        return
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode(before)
    for warning in caught:
        if WAITING in str(warning.message):
            path = "/".join(warning.filename.split("/")[-2:])
            found[f"{path}:{warning.lineno}"] += 1


def host_seconds(steps: Steps, count: int, clock: Callable[[], float] = time.perf_counter) -> tuple[float, float]:
    """Median seconds until the host has queued a step, and until the device has finished it.

    Each step starts with an idle device. If the first number is much smaller, the host stays ahead.
    """
    steps.prepare()
    steps.take(1)
    asked, done = [], []
    for _ in range(count):
        start = clock()
        steps.step()
        asked.append(clock() - start)
        synchronize(steps.device)
        done.append(clock() - start)
    return quartiles(asked).median, quartiles(done).median
