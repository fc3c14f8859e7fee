"""The sessions of a run: settings outside the configuration, which may differ between sessions."""

import torch

from sdclr.files import append_json
from sdclr.precision import device_name
from sdclr.training.distributed import Processes
from sdclr.training.machine import Settled
from sdclr.training.run import Run
from sdclr.version import __version__


def note_session(run: Run, step: int, settled: Settled, *, compiled: bool, place: Processes) -> None:
    """Add a line to the run's list of sessions, on the first process only.

    Args:
        run: The run.
        step: The step at which the session starts.
        settled: Number format and threads.
        compiled: Whether the forward pass is compiled.
        place: The rank of this process.
    """
    if not place.first:
        return
    values = {
        "step": step,
        "device": device_name(place.device),
        "device_type": place.device.type,
        "processes": place.world,
        "threads": settled.threads,
        "precision": settled.precision,
        "compile": compiled,
        "torch": torch.__version__,
        "sdclr": __version__,
    }
    append_json(run.sessions_file, values)
