"""A small complete world of files, the commands that read them, and ways to damage a file."""

import json
import os
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from importlib import import_module
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from sdclr.cli import main
from sdclr.cli.actions import pretrain as actions

reading = import_module("sdclr.files.reading")

SECONDS = 60
"""Above which a command counts as one that hangs."""
QUIET = ("--device", "cpu", "--workers", "0")
TRAIN = (
    *("--recipe", "digits_demo", "--encoder.width", "4", "--batch-size", "16", "--optim.warmup-epochs", "0"),
    *("--device", "cpu", "--workers", "0", "--no-progress", "--amp", "none", "--threads", "1"),
    *("--checkpoint-minutes", "0", "--max-bad-fraction", "0.1"),
)


_FINETUNE = (
    *("finetune", "--train", "imgs/test", "--test", "imgs/test", "--start", "run", "--method", "ce"),
    *("--epochs", "2", "--batch-size", "16", "--out", "tuned"),
    *("--device", "cpu", "--workers", "0", "--amp", "none"),
)


@dataclass(frozen=True)
class Command:
    """A command line that reads files of the world."""

    name: str
    argv: tuple[str, ...]
    result: Callable[[str], Any]
    """What it gives, from what it printed and wrote; equal for equal results."""
    lost: tuple[str, ...] = ()
    """Files that are removed before, so that it has something to do."""


def table(path: str) -> Callable[[str], Any]:
    """The contents of a Parquet file, without what tells of versions and times."""
    return lambda _: pq.read_table(path).replace_schema_metadata(None).to_pylist()


def text(path: str) -> Callable[[str], Any]:
    return lambda _: Path(path).read_text()


def numbers(path: str, *names: str) -> Callable[[str], Any]:
    def read(_: str) -> Any:
        values = json.loads(Path(path).read_text())
        return [values[name] for name in names]

    return read


def data(*paths: str) -> Callable[[str], Any]:
    return lambda _: [Path(path).read_bytes() for path in paths]


def page(path: str) -> Callable[[str], Any]:
    """Of a report: that it is there, and its table of figures."""
    return lambda _: [line for line in Path(path).read_text().splitlines() if "<td" in line]


COMMANDS = {
    command.name: command
    for command in (
        Command("finished", ("pretrain", "imgs/train", "--run", "run", "--epochs", "2", *TRAIN), lambda _: "finished"),
        Command(
            "resume",
            ("pretrain", "imgs/train", "--run", "half", "--epochs", "2", *TRAIN),
            data("half/encoder.safetensors"),
        ),
        Command("report", ("report", "run", "--out", "new.html"), page("new.html")),
        Command(
            "evaluate",
            ("evaluate", "--encoder", "run", "--train", "imgs/train", "--test", "imgs/test", *QUIET, "--out", "new"),
            numbers("new/dense.json", "linear", "few_shot", "knn", "class_counts"),
        ),
        Command(
            "sparse",
            ("embed", "imgs/test", "--encoder", "run", "--branch", "sparse", "--out", "new.parquet", *QUIET),
            table("new.parquet"),
        ),
        Command(
            "mine",
            ("mine", "imgs/train", "--encoder", "run", "--no-page", "--no-map", *QUIET),
            table("run/mine/scores.parquet"),
        ),
        Command(
            "states",
            (
                *("mine", "imgs/test", "--encoder", "run", "--no-page", "--no-map", *QUIET, "--out", "new"),
                *("--score", "forgetting", "--checkpoints", "2", "--views", "1"),
            ),
            table("new/scores.parquet"),
        ),
        Command(
            "duplicates", ("duplicates", "imgs/train", "--encoder", "run", "--out", "new.csv", *QUIET), text("new.csv")
        ),
        Command(
            "select",
            (
                "select",
                "imgs/train",
                "--encoder",
                "run",
                "--budget",
                "5",
                "--out",
                "new.csv",
                "--labeled",
                "ids.txt",
                *QUIET,
            ),
            text("new.csv"),
        ),
        Command(
            "export", ("export", "run", "new", "--formats", "timm"), data("new/model.safetensors", "new/encoder.json")
        ),
        Command(
            "exported",
            ("embed", "imgs/test", "--encoder", "exported", "--out", "new.parquet", *QUIET),
            table("new.parquet"),
        ),
        Command(
            "embedded",
            ("mine", "e.parquet", "--no-page", "--no-map", *QUIET, "--out", "new"),
            table("new/scores.parquet"),
        ),
        Command("near", ("neighbors", "e.parquet", "--queries", "a/00.png", "--k", "3", *QUIET), lambda out: out),
        Command(
            "array",
            ("mine", "imgs/test", "--encoder", "e.npy", "--no-page", "--no-map", *QUIET, "--out", "new"),
            table("new/scores.parquet"),
        ),
        Command(
            "start",
            (
                *("pretrain", "imgs/train", "--run", "new", "--epochs", "1", *TRAIN),
                *("--start", "run/snapshots/epoch-00001.pt"),
            ),
            data("new/encoder.safetensors"),
        ),
        Command(
            "finetune",
            _FINETUNE,
            numbers("tuned/result.json", "balance", "per_class"),
        ),
        Command(
            "tuned",
            _FINETUNE,
            numbers("tuned/result.json", "balance", "per_class"),
            lost=("tuned/result.json",),
        ),
        Command("apply", ("apply", "marks.csv", "imgs/train", "--drop-list", "new.txt"), text("new.txt")),
        Command(
            "undo",
            ("apply", "--undo", "dropped/moved.csv"),
            lambda _: sorted(path.name for path in Path("movable/a").iterdir()),
        ),
    )
}


def build(root: Path) -> None:
    """Make the world in a folder."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = (digits.images * 15.9).astype(np.uint8)
    for part, take in (("train", slice(0, 13)), ("test", slice(13, 19))):
        for label, name in enumerate("abcd"):
            place = root / "imgs" / part / name
            place.mkdir(parents=True)
            for number, pixels in enumerate(images[digits.target == label][take]):
                Image.fromarray(pixels).resize((16, 16)).convert("RGB").save(place / f"{number:02d}.png")
    (root / "imgs" / "train" / "a" / "bad.png").write_bytes(b"no image")
    (root / "imgs" / "train" / "b" / "copy.png").write_bytes((root / "imgs" / "train" / "b" / "01.png").read_bytes())
    shutil.copytree(root / "imgs" / "test", root / "movable")
    with inside(root):
        run("pretrain", "imgs/train", "--run", "run", "--epochs", "2", *TRAIN, "--snapshot-epochs", "1")
        shutil.copytree("run", "half")
        for name in ("encoder.json", "encoder.safetensors"):
            Path("half", name).unlink()
        for branch in ("dense", "sparse"):
            how = ("--branch", branch)
            run("evaluate", "--encoder", "run", "--train", "imgs/train", "--test", "imgs/test", *how, *QUIET)
        run("diagnose", "imgs/train", "--encoder", "run", *QUIET)
        run("mine", "imgs/train", "--encoder", "run", "--no-page", "--no-map", *QUIET)
        run("export", "run", "exported", "--formats", "timm")
        run("embed", "imgs/test", "--encoder", "exported", "--out", "e.parquet", *QUIET)
        np.save("e.npy", np.array(pq.read_table("e.parquet")["embedding"].to_pylist(), dtype=np.float32))
        run(*COMMANDS["finetune"].argv)
        Path("ids.txt").write_text("a/00.png\nb/01.png\n")
        Path("marks.csv").write_text("id,mark,label\na/00.png,drop,\nb/01.png,keep,b\n")
        Path("moves.csv").write_text("id,mark,label\na/00.png,drop,\n")
        run("apply", "moves.csv", "movable", "--move-dropped", "dropped")
        run("report", "run")


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Work in a folder."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@dataclass
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str
    seen: set[str] = field(default_factory=set)
    """Files that it checked or read, relative to the folder."""


class HangsError(BaseException):
    """A command took too long."""


def run(*argv: str) -> Ended:
    """Carry out a command in this process, with what it reads."""
    out, err, seen = TextIOWrapper(BytesIO()), TextIOWrapper(BytesIO()), set[str]()
    check = reading.check_file

    def noted(path: Path, *arguments: Any) -> int:
        seen.add(os.path.relpath(path))
        return check(path, *arguments)

    def late(*_: object) -> None:
        raise HangsError(" ".join(argv))

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    reading.check_file = noted
    actions.report, written = lambda *_, **__: "none", actions.report  # a command of its own
    try:
        with redirect_stdout(out), redirect_stderr(err), warnings.catch_warnings():
            warnings.simplefilter("always")
            code = 0
            try:
                main(list(argv))
            except SystemExit as stop:
                code = stop.code if isinstance(stop.code, int) else int(bool(stop.code))
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        reading.check_file, actions.report = check, written
    texts = [stream.buffer.getvalue().decode(errors="replace") for stream in (out, err) if not stream.flush()]
    return Ended(code, *texts, seen)
