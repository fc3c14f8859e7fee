"""What a run says while it goes: metrics.jsonl, TensorBoard, a progress bar."""

import json
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sdclr.files import write_atomically


class Log:
    """Writes what is measured, on the first process only.

    Args:
        folder: The run's folder.
        step: Steps already taken: lines of later steps, from a sitting that was cut off, are taken back.
        total: Steps of the whole run.
        images_per_step: For the speed, in images a second.
        active: False writes nothing, as the other processes should.
        progress: Show a bar on standard error.
    """

    def __init__(
        self, folder: Path, *, step: int, total: int, images_per_step: int, active: bool, progress: bool
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._file = folder / "metrics.jsonl"
        self._active = active
        self._images_per_step = images_per_step
        self._last = (time.perf_counter(), step)
        self._board: SummaryWriter | None = None
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]} · {task.fields[speed]} img/s ·"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not (active and progress and console.is_terminal),
        )
        self._task = self._bar.add_task("train", total=total, completed=step, epoch="-", loss="-", speed="-")
        if active:
            self._take_back(step)
            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        self._bar.start()

    def write(self, *, step: int, epoch: int, **values: float) -> None:
        """Log the state after `step` steps, with the speed since the last call."""
        now = time.perf_counter()
        before, steps = self._last
        speed = (step - steps) * self._images_per_step / max(now - before, 1e-9)
        self._last = (now, step)
        if not self._active or self._board is None:
            return
        row: dict[str, Any] = {"step": step, "epoch": epoch, **values, "images_per_second": round(speed, 1)}
        with self._file.open("a") as file:
            file.write(json.dumps(row) + "\n")
        for name, value in row.items():
            if name != "step":
                self._board.add_scalar(name, value, step)
        loss = f"{values['loss']:.4f}" if "loss" in values else "-"
        self._bar.update(self._task, completed=step, epoch=epoch, loss=loss, speed=f"{speed:.0f}")

    def advance(self, step: int) -> None:
        """Move the bar without logging."""
        self._bar.update(self._task, completed=step)

    def close(self) -> None:
        """End the bar and flush the files."""
        self._bar.stop()
        if self._board is not None:
            self._board.close()

    def _take_back(self, step: int) -> None:
        if self._file.exists():
            lines = self._file.read_text().splitlines()
            kept = [line for line in lines if _step_of(line) <= step]
            if len(kept) < len(lines):
                write_atomically(self._file, "".join(f"{line}\n" for line in kept).encode())


def _step_of(line: str) -> float:
    """The step of a line; a line that a crash cut short counts as later than any."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
