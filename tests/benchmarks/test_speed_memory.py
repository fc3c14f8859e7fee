"""The measurement of memory: that it would see what it looks for."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def steps():
    return importlib.import_module("speed_steps")


@pytest.fixture
def memory():
    return importlib.import_module("speed_memory")


@pytest.fixture
def size(steps):
    return steps.StepSize(width=4, batch=4, image_size=16)


def test_a_second_copy_of_the_weights_would_be_seen(steps, memory, size, monkeypatch):
    ours, plain = (memory.measure(method, size) for method in ("sdclr", "simclr"))
    assert ours.unexplained == plain.unexplained == 0
    for method, usage in (("sdclr", ours), ("simclr", plain)):
        objective = steps.Training(method, size).objective
        parameters = sum(parameter.nbytes for parameter in objective.parameters())
        assert usage.between == 2 * parameters + sum(buffer.nbytes for buffer in objective.buffers())  # 2: momentum

    class Hoarder(steps.Training):
        def step(self, *views):
            super().step(*views)
            self.copies = [parameter.detach().clone() for parameter in self.objective.network.parameters()]

    monkeypatch.setattr(memory, "Training", Hoarder)
    assert memory.measure("sdclr", size).unexplained == ours.weights


def test_options_reach_the_training(memory, size, monkeypatch):
    made = []

    class Noted(memory.Training):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            made.append(self)

    monkeypatch.setattr(memory, "Training", Noted)
    assert memory.measure("sdclr", size, amp="bf16", checkpoint=True).unexplained == 0
    (training,) = made
    assert training.amp == "bf16"
    blocks = [module for module in training.objective.network.modules() if type(module).__name__ == "BasicBlock"]
    assert all("forward" in vars(block) for block in blocks)
    assert len(blocks) == 8


def test_each_way_is_asked_for_in_a_process_of_its_own(memory, size, monkeypatch):
    commands = []

    def fake(command, **_options):
        commands.append(command[2:])
        peak = {"sdclr": 30, "simclr": 20}[command[2]] - 20 * ("--checkpoint" in command)
        usage = memory.Usage(peak=peak * memory.MIB, between=2, unexplained=memory.MIB, weights=1)
        return type("Done", (), {"stdout": memory.json.dumps(memory.asdict(usage))})

    monkeypatch.setattr(memory.subprocess, "run", fake)
    found = memory.compare_memory(size, "bf16", repeats=2, threads=3)
    shared = ["4", "4", "16", "--amp", "bf16", "--threads", "3"]
    assert commands == [["sdclr", *shared], ["simclr", *shared], ["sdclr", *shared, "--checkpoint"]] * 2
    ratio, unexplained = found.findings().targets
    assert (ratio.measured, ratio.met) == (1.5, False)
    assert (unexplained.measured, unexplained.met) == (1, False)
    (table,) = found.findings().tables
    assert [row[:2] for row in table.rows] == [(memory.SDCLR, 30), (memory.SIMCLR, 20), (memory.AGAIN, 10)]


def test_no_kernel_that_tells_no_measurement(memory, size, monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "STATUS", tmp_path / "absent")
    assert memory.compare_memory(size, "none", repeats=1, threads=1) is None


LOOK = """
import speed_resident
before = speed_resident.resident()
kept = bytearray(64 * speed_resident.MIB)
print(speed_resident.resident() - before)
"""


def test_memory_is_that_of_this_process(memory):
    # In a fresh one: here, what earlier tests have freed may be given back to the system in between.
    folder = Path(memory.__file__).parent
    output = subprocess.run(
        [sys.executable, "-c", LOOK], cwd=folder, check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    assert 0.9 * 64 * memory.MIB < int(output) < 1.5 * 64 * memory.MIB
