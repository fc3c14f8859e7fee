"""The log of a run: metrics.jsonl, TensorBoard and progress; and the list of its sessions."""

import json
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import torch

from sdclr.files import append_json, read_json_lines, write_atomically
from sdclr.precision import device_name
from sdclr.progress import duration, stage, tell
from sdclr.training.board import Board
from sdclr.training.distributed import Processes
from sdclr.training.machine import Settled
from sdclr.training.run import Run
from sdclr.version import __version__
from sdclr.visible import counted

SLOW: Final = (
    "This takes more than an hour on a CPU. For a shorter run stop it, and give --minutes 30, which chooses how many "
    "epochs fit, or fewer --epochs, in a new folder."
)
"""Advice for a long run on a CPU."""

_SETTLED: Final = 5.0
_STEPS: Final = 3
"""Minimum seconds and steps, after the first step, for the time estimate."""
_WORTH: Final = 30.0
"""No estimate is shown if fewer seconds are left."""
_LONG: Final = 3600.0


class Log:
    """Writes metrics, on the first process only.

    Args:
        folder: The run's folder.
        step: Number of steps done. Lines of later steps, from an interrupted session, are removed.
        total: Steps of the whole run.
        epochs: Epochs of the whole run.
        images_per_step: Batch size, for the speed in images per second.
        active: False on the other processes, which write nothing.
        slow: Message if the run will take more than an hour.
    """

    def __init__(
        self, folder: Path, *, step: int, total: int, epochs: int, images_per_step: int, active: bool, slow: str = ""
    ) -> None:
        self._file = folder / "metrics.jsonl"
        self._active = active
        self._total, self._epochs = total, epochs
        self._images_per_step = images_per_step
        self._last = (time.perf_counter(), step)
        self._first: tuple[float, int] | None = None
        self._begun, self._estimated, self._slow = step, False, slow
        self._loss = ""
        self._board: Board | None = None
        if active:
            self._take_back(step)
            self._board = Board(folder / "tensorboard", step)
        self._open = ExitStack()
        if active:
            self._update = self._open.enter_context(stage("preparing the first step"))

    def write(self, *, step: int, epoch: int, **values: float) -> None:
        """Log the state after `step` steps, with the speed since the last call."""
        now = time.perf_counter()
        before, steps = self._last
        speed = (step - steps) * self._images_per_step / max(now - before, 1e-9)
        self._last = (now, step)
        if not self._active or self._board is None:
            return
        row: dict[str, Any] = {"step": step, "epoch": epoch, **values, "images_per_second": round(speed, 1)}
        append_json(self._file, row)
        self._board.add(step, {name: value for name, value in row.items() if name != "step"})
        self._loss = f" · loss {values['loss']:.3g}" if "loss" in values else ""
        self.advance(step)

    def advance(self, step: int) -> None:
        """Show the progress without logging."""
        if not self._active:
            return
        if self._first is None:  # the first step also prepares, so it does not count for the speed
            self._open.close()
            of, done = self._total * self._images_per_step, step * self._images_per_step
            self._update = self._open.enter_context(stage("training", of, done=done, counted=False))
        epoch = min(self._epochs, max(0, step - 1) * self._epochs // max(1, self._total) + 1)
        self._update(step * self._images_per_step, note=f"epoch {epoch}/{self._epochs}{self._loss}")
        self._estimate(step)

    def close(self) -> None:
        """End the progress display."""
        self._open.close()

    def _estimate(self, step: int) -> None:
        """Show once how long the run will take. The first step, which also prepares, does not count."""
        now = time.perf_counter()
        if self._first is None:
            self._first = (now, step)
        begun, steps = self._first
        if self._estimated or now - begun < _SETTLED or step - steps < _STEPS:
            return
        self._estimated = True
        rate = (step - steps) / (now - begun)
        seconds = (self._total - step) / rate
        if seconds < _WORTH:
            return
        epochs = counted(self._epochs, "epoch")
        what = epochs if self._begun == 0 else f"the rest of {epochs}"
        tell(f"about {duration(seconds)} for {what} ({rate * self._images_per_step:,.0f} images/s)")
        if self._slow and seconds > _LONG:
            tell(self._slow)

    def _take_back(self, step: int) -> None:
        """Rewrite the log without lines after `step`, from an interrupted session, and without damaged lines."""
        if self._file.exists():
            lines = read_json_lines(self._file, keys={"step": int}, skip=True)
            kept = [json.dumps(line) for line in lines if line["step"] <= step]
            write_atomically(self._file, "".join(f"{line}\n" for line in kept).encode())


def note_session(run: Run, step: int, settled: Settled, *, compiled: bool, place: Processes) -> None:
    """Add a line to the run's list of sessions, on the first process only.

    It holds the settings outside the configuration, which may differ between sessions.

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
