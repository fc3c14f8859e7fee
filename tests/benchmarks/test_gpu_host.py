"""What the GPU benchmark says of the host: counted from events that are known here, and seen where there is a GPU."""

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch.autograd import DeviceType

from sdclr.encoders import EncoderConfig
from sdclr.views.parameters import ViewConfig

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def load():
    """Imports scripts, which import each other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(BENCHMARKS / "speed"), str(BENCHMARKS / "gpu"), *sys.path])
        yield importlib.import_module


@pytest.fixture(scope="module")
def host(load):
    return load("gpu_host")


@pytest.fixture
def runs(load):
    module = load("gpu_runs")
    yield module
    module.set_numerics("bf16", tuned=False)


@pytest.fixture
def job(runs):
    return runs.Job(encoder=EncoderConfig(name="resnet18", width=4), views=ViewConfig(image_size=16), batch=8)


@pytest.fixture
def images():
    return torch.randint(256, (24, 3, 16, 16), dtype=torch.uint8)


@dataclass
class Span:
    start: float
    end: float


@dataclass
class Event:
    name: str
    device_type: DeviceType
    time_range: Span
    is_user_annotation: bool = False


def test_the_profile_counts_what_happened_in_the_steps(host):
    cpu, gpu = DeviceType.CPU, DeviceType.CUDA

    def event(name, kind, start, end):
        return Event(name, kind, Span(start, end))

    events = [
        event("cudaStreamSynchronize", cpu, 0, 5),  # before the steps
        Event(host.RANGE, cpu, Span(10, 100), is_user_annotation=True),
        Event(host.RANGE, gpu, Span(12, 300), is_user_annotation=True),  # its shadow on the device
        event("cudaLaunchKernel", cpu, 11, 12),
        event("cudaLaunchKernelExC", cpu, 13, 14),
        event("cudaGraphLaunch", cpu, 20, 21),
        event("aten::mm", cpu, 20, 22),
        event("cudaStreamSynchronize", cpu, 30, 40),
        event("cudaMemcpyAsync", cpu, 41, 42),
        event("cudaDeviceSynchronize", cpu, 101, 300),  # our own, after them
        event("gemm", gpu, 15, 35),
        event("gemm", gpu, 40, 60),
        event("relu", gpu, 60, 70),
        event("Memcpy HtoD (Pageable -> Device)", gpu, 70, 72),
        event("Memcpy HtoD (Pinned -> Device)", gpu, 72, 74),
        event("Memset (Device)", gpu, 74, 75),
    ]
    seen = host.summarize(events, 2, top=1)
    assert seen.waits == {"cudaStreamSynchronize": 0.5}
    assert (seen.launches, seen.kernels, seen.copies, seen.pageable) == (1.5, 1.5, 1, 0.5)
    assert seen.busy == pytest.approx(55e-6 / 2)
    assert seen.top == [("gemm", 1.0, pytest.approx(20e-6))]


def test_the_profiler_gives_what_is_counted(host):
    """Its events have the fields that are read; here there is no device to fill the counts."""
    profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], acc_events=True)
    with profiler as watched, torch.profiler.record_function(host.RANGE):
        torch.ones(3).sum()
    seen = host.summarize(watched.events(), 1, top=3)
    assert seen == host.Activity(waits={}, launches=0, pageable=0, copies=0, kernels=0, busy=0, top=[])


def test_on_a_cpu_nothing_is_said_of_a_device(runs, host, job, images):
    steps = runs.Steps(runs.Arm(name="a"), job, images)
    assert host.profile_steps(steps, 1) is None
    assert host.first_wait(steps, 1) is None
    with host.waits_by_place(CPU) as waits, runs.PeakMemory(CPU) as memory:
        steps.step()
    assert not waits
    assert memory.bytes is None


def test_the_clock_is_read_when_the_host_is_through_and_when_the_device_is(runs, host, job, images):
    steps = runs.Steps(runs.Arm(name="a"), job, images)
    readings = iter([0, 1, 3, 10, 12, 16, 20, 21, 22])
    assert host.host_seconds(steps, 3, clock=lambda: next(readings)) == (1, 3)


gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@gpu
def test_a_gpu_shows_its_kernels_and_memory(runs, host, job, images):
    steps = runs.Steps(runs.Arm(name="a"), job, images.cuda())
    with runs.PeakMemory(steps.device) as memory:
        steps.take(1)
    assert memory.bytes > 0
    seen = host.profile_steps(steps, 2)
    assert seen.kernels > 50
    assert 0 < seen.launches <= seen.kernels
    assert seen.busy > 0


@gpu
def test_a_gpu_that_is_waited_for_is_seen(runs, host, job, images):
    class Waiting(runs.Steps):
        def differentiate(self, view1, view2):
            super().differentiate(view1, view2)
            view1.sum().item()

    steps = Waiting(runs.Arm(name="a"), job, images.cuda())
    assert sum(host.profile_steps(steps, 2).waits.values()) >= 1
    with host.waits_by_place(steps.device) as waits:
        steps.step()
    assert any("test_gpu_host.py" in place for place in waits)
    assert "synchronizing" in host.first_wait(steps, 1)


@gpu
def test_a_gpu_takes_steps_without_being_waited_for(runs, host, job, images):
    steps = runs.Steps(runs.Arm(name="a"), job, images.cuda())
    assert host.first_wait(steps, 2) == ""
