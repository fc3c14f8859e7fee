"""The command for a short lease of a GPU, rehearsed end to end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

LEASE = Path(__file__).parents[2] / "benchmarks" / "gpu" / "lease"


@pytest.mark.slow
def test_all_parts_end_and_are_not_done_again(cifar10_dir, tmp_path):
    out = tmp_path / "out"
    options = ["--data", str(cifar10_dir), "--out", str(out), "--runs", str(tmp_path / "runs"), "--device", "cpu"]
    command = [str(LEASE), *options, "--rehearse"]
    env = os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    for _ in range(2):
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stderr
    found = json.loads((out / "lease.json").read_text())
    assert [found[f"{part}_ended"] for part in ("smoke", "speed", "learning")] == ["whole"] * 3
    assert {line.partition(" ")[0] for line in found["smoke"].values()} == {"passed"}
    assert found["learning"]["images"] == 242
    for method in ("simclr", "sdclr"):
        assert found["learning"][method]["linear"]["all"] > 0
    assert {"steps", "memory"} <= json.loads((out / "speed.json").read_text())["sections"].keys()
    assert sum(file.stat().st_size for file in out.rglob("*")) < 10**6
