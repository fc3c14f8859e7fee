"""Two hosts, each with a network of its own: namespaces of Linux, joined by a virtual cable."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sdclr.training.run import Run

HOSTS = {"sdclr-test-0": "10.213.7.1", "sdclr-test-1": "10.213.7.2"}
OPTIONS = [
    *("--encoder.width", "4", "--head.dim", "8", "--views.image-size", "8", "--damage.ratio", "0.3"),
    *("--epochs", "1", "--batch-size", "256", "--device", "cpu", "--amp", "none", "--threads", "1", "--workers", "0"),
]


def configure(command: str) -> None:
    subprocess.run(["ip", *command.split()], check=True, capture_output=True)


@pytest.fixture
def hosts() -> Iterator[dict[str, str]]:
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("network namespaces need iproute2 and root")
    try:
        configure("netns add sdclr-test-0")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
    try:
        configure("netns add sdclr-test-1")
        configure("link add cable netns sdclr-test-0 type veth peer name cable netns sdclr-test-1")
        for name, address in HOSTS.items():
            configure(f"-n {name} address add {address}/24 dev cable")
            configure(f"-n {name} link set cable up")
            configure(f"-n {name} link set lo up")
        yield HOSTS
    finally:
        for name in HOSTS:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


@pytest.mark.slow
def test_srun_trains_one_run_on_two_hosts(hosts: dict[str, str], tmp_path: Path) -> None:
    run, jobs = tmp_path / "run", []
    for rank, name in enumerate(hosts):
        step = {
            "SLURM_STEP_NUM_TASKS": "2",
            "SLURM_PROCID": str(rank),
            "SLURM_LOCALID": "0",
            "SLURM_NODEID": str(rank),
            "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
            "SLURM_STEP_NODELIST": ",".join(hosts.values()),
            "SLURM_JOB_ID": "77",
            "GLOO_SOCKET_IFNAME": "cable",
            "OMP_NUM_THREADS": "1",
        }
        command = ["ip", "netns", "exec", name, sys.executable, "-m", "sdclr", "pretrain", "digits", "--run", str(run)]
        how = {"env": os.environ | step, "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        jobs.append(subprocess.Popen([*command, *OPTIONS], **how))  # type: ignore[call-overload]  # of the dictionary
    said = [job.communicate(timeout=240) for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], said
    assert Run(run).finished
    own = [line for line in "".join(said[1]).splitlines() if not line.startswith("[W")]  # torch warns of host names
    assert own == []  # only the first process speaks
    alone = [sys.executable, "-m", "sdclr", "pretrain", "digits", "--run", str(tmp_path / "one"), *OPTIONS]
    subprocess.run(alone, check=True, capture_output=True, timeout=240)
    steps = [[row["step"] for row in Run(path).metrics()] for path in (run, tmp_path / "one")]
    assert steps[0] == steps[1]
