"""Two processes of one group, for tests that compare them with a single process."""

import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch


def results_of_two(work: Callable[[int, Path], Any], folder: Path) -> list[Any]:
    """What `work(rank, folder)` returns in each of two processes; `work` is a function of a module."""
    torch.multiprocessing.spawn(_run, (work, folder), nprocs=2)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


def _run(rank: int, work: Callable[[int, Path], Any], folder: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=timedelta(minutes=2)
    )
    torch.save(work(rank, folder), folder / f"rank{rank}.pt")
    time.sleep(0.5)  # gloo lets go of the last collective, as in `sdclr.training.distributed`
    torch.distributed.destroy_process_group()
