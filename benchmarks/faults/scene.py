"""A small collection of pictures, and commands on it, for the benchmarks of faults."""

import contextlib
import io
import traceback
from pathlib import Path

import cv2
import numpy as np

SIDE = 112
"""Longer side of a picture in pixels: large enough that worker processes decode it."""
NETWORK = ["--start", "scratch", "--encoder.name", "resnet20", "--views.image-size", "32", "--head.dim", "8"]
"""Options of a network that trains in a second."""


def write_pictures(folder: Path, count: int, *, classes: int = 3, seed: int = 0) -> None:
    """Write smooth pictures into one folder per class. Each class has one weaker color."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        kind = number % classes
        coarse = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        coarse[..., kind % 3] //= 3
        picture = cv2.resize(coarse, (SIDE, SIDE - 12), interpolation=cv2.INTER_CUBIC)
        place = folder / f"class{kind}"
        place.mkdir(parents=True, exist_ok=True)
        if not cv2.imwrite(str(place / f"{number:04d}.jpg"), picture):
            raise OSError(f"{place} cannot be written")


def pretraining(images: Path, run: Path, *, epochs: int = 2, workers: int = 2, batch_size: int = 16) -> list[str]:
    """The command that trains a tiny network."""
    length = ["--epochs", str(epochs), "--batch-size", str(batch_size), "--checkpoint-minutes", "0", "--log-steps", "1"]
    machine = ["--device", "cpu", "--amp", "none", "--workers", str(workers)]
    return ["pretrain", str(images), "--run", str(run), *NETWORK, *length, *machine]


def do(arguments: list[str]) -> tuple[int, str]:
    """Run a command in this process. Returns its exit code and its output."""
    from sdclr.cli import main  # noqa: PLC0415  # slow to load

    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            main([*arguments, "--quiet"])
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
            return code, said.getvalue()
        except BaseException:  # noqa: BLE001  # `main` raises nothing else, so this is a fault
            return 70, said.getvalue() + traceback.format_exc()
    return 0, said.getvalue()
