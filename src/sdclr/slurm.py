"""Environment variables of torch for a process that `srun` started."""

import os
import re
from collections.abc import Mapping

from sdclr.errors import InputError

FIRST_PORT = 20_000
"""First port of the rendezvous; the number of the job selects the port."""


def torch_variables(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables that `torchrun` would set, from those of a Slurm step with several tasks.

    Variables of the step are used, not those of the job, which a batch script also has although it is one process.

    Args:
        environ: Variables of the environment.

    Returns:
        `RANK`, `WORLD_SIZE`, `LOCAL_RANK`, `LOCAL_WORLD_SIZE`, `MASTER_ADDR` and `MASTER_PORT`, without those that are
        already set. Empty if `torchrun` has set its variables, or this is not a step with several tasks.

    Raises:
        InputError: If a variable of Slurm is missing or cannot be parsed.

    Examples:
        >>> step = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "7"}
        >>> torch_variables(step | {"SLURM_STEP_TASKS_PER_NODE": "2(x2)", "SLURM_STEP_NODELIST": "gpu[08-09]"})
        {'RANK': '3', 'WORLD_SIZE': '4', 'LOCAL_RANK': '1', 'LOCAL_WORLD_SIZE': '2', 'MASTER_ADDR': 'gpu08', \
'MASTER_PORT': '20007'}
    """
    tasks = environ.get("SLURM_STEP_NUM_TASKS", "1")
    if "WORLD_SIZE" in environ or tasks == "1":
        return {}
    try:
        found = {
            "RANK": environ["SLURM_PROCID"],
            "WORLD_SIZE": tasks,
            "LOCAL_RANK": environ["SLURM_LOCALID"],
            "LOCAL_WORLD_SIZE": _tasks_of_node(environ["SLURM_STEP_TASKS_PER_NODE"], environ.get("SLURM_NODEID", "0")),
            "MASTER_ADDR": _first_host(environ["SLURM_STEP_NODELIST"]),
            "MASTER_PORT": str(FIRST_PORT + int(environ["SLURM_JOB_ID"]) % FIRST_PORT),
        }
    except (KeyError, ValueError) as error:
        raise InputError(
            f"Slurm started {tasks} tasks, but its variables cannot be read ({error}): start the processes with "
            "torchrun, or set WORLD_SIZE=1 for a process on its own"
        ) from error
    return {name: value for name, value in found.items() if name not in environ}


def _first_host(nodes: str) -> str:
    """The first host of a list such as `gpu[08-09,12],login1`."""
    found = re.match(r"([^\[\],]+)(?:\[([^\],-]+)[^\]]*\]([^\[\],]*))?(?:,|$)", nodes)
    if found is None:
        raise ValueError(f"SLURM_STEP_NODELIST is {nodes!r}")
    return "".join(part or "" for part in found.groups())


def _tasks_of_node(counts: str, node: str) -> str:
    """Number of tasks on a node, from a list such as `2(x3),1`: three nodes with two tasks, and one with one."""
    nodes: list[str] = []
    for part in counts.split(","):
        found = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if found is None or len(nodes) > int(node):
            break
        nodes += [found[1]] * min(int(found[2] or 1), int(node) + 1)
    if len(nodes) <= int(node):
        raise ValueError(f"SLURM_STEP_TASKS_PER_NODE is {counts!r}")
    return nodes[int(node)]
