"""Kills at random moments and hours of work, in little: `benchmarks/faults` does more of both."""

import importlib
import json
import os
import subprocess
import sys

import pytest

SOURCE = "src"


def script(faults, name, *arguments, timeout):
    env = os.environ | {"PYTHONPATH": str(faults.parents[1] / SOURCE), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(faults / name), *map(str, arguments)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout, check=False)


@pytest.mark.slow
def test_killed_commands_end_as_if_they_had_not_been(faults, tmp_path):
    """A few kills; `kills.py --kills 500` is the long one."""
    out = tmp_path / "kills.jsonl"
    cheap = ["apply", "apply --move-dropped", "embed", "evaluate", "pretrain"]
    done = script(faults, "kills.py", "--kills", "8", "--seed", "7", "--out", out, "--only", *cheap, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    trials = [json.loads(line) for line in out.read_text().splitlines()]
    assert sum(trial["kills"] for trial in trials) >= 8
    assert len({trial["command"] for trial in trials}) > 1


@pytest.mark.slow
def test_memory_and_open_files_stay(faults, tmp_path):
    """For five rounds; `soak.py --minutes 60` is the long one."""
    out, figure = tmp_path / "soak.csv", tmp_path / "soak.svg"
    done = script(faults, "soak.py", "--minutes", "0", "--out", out, "--figure", figure, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(out.read_text().splitlines()) == 6  # a line of names, and as many rounds as count at least
    assert figure.read_text().startswith("<?xml")


@pytest.fixture
def soak():
    return importlib.import_module("soak")


def samples(soak, **changes):
    """Ten samples, the last four of them changed."""
    usual = {
        "memory_mb": 100.0,
        "open_files": 8,
        "threads": 4,
        "processes": 0,
        "shared_memory": 0,
        "temporary_files": 1,
    }
    return [soak.Sample(float(n), **(usual | (changes if n > 5 else {}))) for n in range(10)]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, []),
        ({"memory_mb": 104.0}, []),
        ({"memory_mb": 120.0}, ["memory_mb from 100.0 to 120.0"]),
        ({"open_files": 9, "threads": 3}, ["open_files from 8 to 9"]),
    ],
)
def test_what_rises_is_named(soak, changes, said):
    assert soak.rising(samples(soak, **changes)) == said


def test_torn_files_are_found(tmp_path):
    scenarios = importlib.import_module("scenarios")
    (tmp_path / "a.json").write_text('{"x": 1')
    (tmp_path / "b.json").write_text('{"x": 1}')
    (tmp_path / "c.parquet").write_bytes(b"PAR1")
    (tmp_path / "d.html").write_text("<html><p>half")
    (tmp_path / ".e.json.tmp").write_text("half")
    assert sorted(line.partition(":")[0] for line in scenarios.torn(tmp_path)) == ["a.json", "c.parquet", "d.html"]


def test_results_are_compared_but_for_times(tmp_path):
    scenarios = importlib.import_module("scenarios")
    one, two, three = (tmp_path / f"{n}.json" for n in range(3))
    one.write_text('{"seconds": 1, "of": [{"x": 1}]}')
    two.write_text('{"of": [{"x": 1}], "seconds": 2}')
    three.write_text('{"of": [{"x": 2}], "seconds": 1}')
    assert scenarios.digest(one) == scenarios.digest(two) != scenarios.digest(three)
