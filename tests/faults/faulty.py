"""Command lines in processes of their own, with a limit on files or an error at a certain one.

A module of its own, and not a conftest, so that a fork server can import it: a command then takes no time to load.
"""

import csv
import hashlib
import io
import json
import os
import resource
import signal
import sys
from dataclasses import dataclass, replace
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdclr.cli import main
from sdclr.cli.catalog import CATALOG
from sdclr.data.sources import SubsetSource, digits
from sdclr.encoders import EncoderConfig
from sdclr.longtail.published import PaperSplit
from sdclr.longtail.splits import long_tail_split
from sdclr.paper import experiments, runner

KILLED = -signal.SIGKILL

VOLATILE = ("metrics.jsonl", "sessions.jsonl", ".training", ".mining", ".embedding", ".lock", "results.parquet")
"""Files that hold times or numbers of processes; the same table is in a CSV file, too."""
TIMED = {"memory_free", "free", "free_here"}

for _entry in CATALOG.values():  # what commands would load is loaded once
    import_module(f"sdclr.cli.actions.{_entry.module}")
for _name in ("faiss", "jinja2", "matplotlib.figure", "openTSNE", "scipy.optimize", "sklearn.neighbors", "sknetwork"):
    import_module(_name)
for _name in ("tensorboard.summary.writer.record_writer", "timm.layers", "torchvision.transforms", "onnxscript"):
    import_module(_name)


@dataclass(frozen=True)
class Fault:
    """What goes wrong."""

    largest: int | None = None
    """Bytes that a file may have: `ulimit -f`."""
    files: int | None = None
    """Files that the process may have open: `ulimit -n`."""
    at: int | None = None
    """The number of the complete file, from 1, whose rename raises an error."""
    code: int = 0
    """The error of that; `KILLED` ends the process by SIGKILL instead."""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int | None
    out: str
    err: str
    synced: int = 0
    """Files that were written and synced."""


def carry_out(arguments: list[str], folder: Path, fault: Fault, reply: Connection) -> None:
    """Run a command line in a folder, in this process."""
    os.chdir(folder)
    torch.set_num_threads(1)
    _small_paper()
    sys.stdout = io.TextIOWrapper(io.BytesIO(), write_through=True)
    sys.stderr = io.TextIOWrapper(io.BytesIO(), write_through=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if fault.largest is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault.largest, resource.RLIM_INFINITY))
    if fault.files is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (fault.files, fault.files))
    synced = _watched(fault.at, fault.code)
    code: int | None = 0
    try:
        main(arguments)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    out, err = (stream.buffer.getvalue().decode() for stream in (sys.stdout, sys.stderr))
    reply.send(Ended(code, out, err, len(synced)))
    reply.close()
    os._exit(0)


def _watched(at: int | None, code: int, real=os.fsync) -> list[str]:
    """Names of the files that are synced: each that is written is, once. The system refuses the one at a place."""
    synced = []

    def fsync(number: int) -> None:
        name = os.readlink(f"/proc/self/fd/{number}")  # noqa: PTH115
        if not Path(name).is_dir():
            synced.append(name)
            if len(synced) == at and code == KILLED:
                os.kill(os.getpid(), signal.SIGKILL)
            if len(synced) == at:
                raise OSError(code, os.strerror(code))
        real(number)

    os.fsync = fsync
    return synced


def _small_paper() -> None:
    """Let `bench` and `reproduce` train on some embedded digits, with networks of a second."""

    def opened(dataset, split, _place, _lists):
        train = digits("train")
        drawn = long_tail_split(
            train.labels, max_count=20, imbalance=10, seed=split, pool=np.arange(1000), few_shot_fraction=0.02
        )
        return PaperSplit(
            name=dataset,
            split=split,
            long_tail=SubsetSource(train, drawn.long_tail),
            balanced=SubsetSource(train, drawn.balanced),
            few_shot=SubsetSource(train, drawn.few_shot),
            full=SubsetSource(train, np.arange(200)),
            validation=SubsetSource(train, np.arange(1000, 1100)),
            test=SubsetSource(digits("test"), np.arange(100)),
            counts=drawn.counts,
            rule="thirds",
        )

    def small(config, real=experiments._small):
        views = replace(real(config).views, image_size=8)
        return replace(real(config), encoder=EncoderConfig(width=4), views=views, batch_size=16)

    runner._opened, experiments._small = opened, small


def contents(folder: Path) -> dict[str, str]:
    """Digest of each file below a folder."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file() or file.is_symlink())
    return {str(file.relative_to(folder)): _digest(file) for file in files}


def results(folder: Path) -> dict[str, str]:
    """Digest of each file below a folder, but for times that differ from call to call."""
    kept = {}
    for name, digest in contents(folder).items():
        file = folder / name
        timed = file.name in VOLATILE or (file.name.startswith("leaderboard") and file.suffix == ".md")
        timed |= file.suffix == ".sha256"  # of the checkpoint beside it
        if not timed and "tensorboard" not in file.parts:
            kept[name] = _TIMELESS.get(file.suffix, lambda _, digest=digest: digest)(file)
    return kept


def _digest(file: Path) -> str:
    if file.is_symlink():
        return f"link to {file.readlink()}"
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _of_json(file: Path) -> str:
    return json.dumps(_timeless(json.loads(file.read_text())), sort_keys=True)


def _of_csv(file: Path) -> str:
    rows = list(csv.DictReader(file.read_text().splitlines()))
    return json.dumps([{key: value for key, value in row.items() if "second" not in str(key)} for row in rows])


def _of_checkpoint(file: Path) -> str:
    """Of the tensors, to the bit."""
    state = _timeless(torch.load(file, weights_only=True))
    with torch.no_grad():
        return hashlib.sha256(_plain(state).encode()).hexdigest()


def _plain(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} {tuple(value.shape)} {hashlib.sha256(value.contiguous().numpy().tobytes()).hexdigest()}"
    if isinstance(value, dict):
        return str({str(key): _plain(one) for key, one in value.items()})
    return str([_plain(one) for one in value]) if isinstance(value, list | tuple) else repr(value)


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(one) for key, one in value.items() if not (isinstance(key, str) and _tells_time(key))}
    return [_timeless(one) for one in value] if isinstance(value, list) else value


def _tells_time(key: str) -> bool:
    return key in TIMED or "second" in key


_TIMELESS = {".json": _of_json, ".csv": _of_csv, ".pt": _of_checkpoint}
