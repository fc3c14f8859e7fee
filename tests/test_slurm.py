"""The variables of `srun`, as torch reads them."""

import pytest

from sdclr.errors import InputError
from sdclr.slurm import torch_variables

STEP = {
    "SLURM_STEP_NUM_TASKS": "5",
    "SLURM_PROCID": "4",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "2",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2),1",
    "SLURM_STEP_NODELIST": "gpu[08-09,12]",
    "SLURM_JOB_ID": "4000123",
}


def test_a_task_of_several_gets_what_torchrun_would_set():
    assert torch_variables(STEP) == {
        "RANK": "4",
        "WORLD_SIZE": "5",
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": "gpu08",
        "MASTER_PORT": "20123",
    }


@pytest.mark.parametrize(("node", "tasks"), [("0", "2"), ("1", "2"), ("2", "1")])
def test_tasks_of_each_node(node, tasks):
    assert torch_variables(STEP | {"SLURM_NODEID": node})["LOCAL_WORLD_SIZE"] == tasks


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("one", "one"),
        ("one,two", "one"),
        ("gpu[3-4]", "gpu3"),
        ("gpu[003,007],login", "gpu003"),
        ("rack2-n[1-4]-ib", "rack2-n1-ib"),
        ("10.0.0.1", "10.0.0.1"),
    ],
)
def test_the_first_node_is_where_processes_meet(nodes, first):
    assert torch_variables(STEP | {"SLURM_STEP_NODELIST": nodes})["MASTER_ADDR"] == first


def test_variables_that_are_set_stay():
    found = torch_variables(STEP | {"MASTER_ADDR": "10.1.1.1", "MASTER_PORT": "29500"})
    assert not {"MASTER_ADDR", "MASTER_PORT"} & found.keys()
    assert torch_variables(STEP | {"WORLD_SIZE": "1"}) == {}


def test_a_batch_script_is_one_process():
    job = {"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_JOB_ID": "1", "SLURM_JOB_NODELIST": "gpu[1-2]"}
    assert torch_variables(job) == {}
    assert torch_variables(job | {"SLURM_STEP_NUM_TASKS": "1"}) == {}
    assert torch_variables({}) == {}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"SLURM_PROCID": None}, "SLURM_PROCID"),
        ({"SLURM_STEP_NODELIST": "[1-2]"}, "SLURM_STEP_NODELIST"),
        ({"SLURM_STEP_TASKS_PER_NODE": "many"}, "SLURM_STEP_TASKS_PER_NODE"),
        ({"SLURM_NODEID": "3"}, "SLURM_STEP_TASKS_PER_NODE"),
    ],
)
def test_variables_that_cannot_be_read_are_named(changes, named):
    environ = {name: value for name, value in (STEP | changes).items() if value is not None}
    with pytest.raises(InputError, match=f"Slurm started 5 tasks, .*{named}.*: start the processes with torchrun"):
        torch_variables(environ)
