"""A fork server that carries out command lines, and the images and marks that they are about."""

import contextlib
import importlib
import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sdclr.data.sources import digits

Call = Callable[..., Any]
TRAIN = "pretrain images --run run --epochs 1 --batch-size 16 --encoder.width 4 --device cpu --amp none --no-progress"


@pytest.fixture(scope="session")
def faulty() -> Iterator[Any]:
    """The module `faulty`, which a fork server can import, too."""
    here = str(Path(__file__).parent)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(here)
        patch.setenv("PYTHONPATH", os.pathsep.join([here, os.environ.get("PYTHONPATH", "")]))
        yield importlib.import_module("faulty")


@pytest.fixture(scope="session")
def call(faulty: Any) -> Call:
    """Run a command line in a folder, under a fault; tells how it ended. A signal ends it with a negative code."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["faulty"])

    def carry_out(arguments: list[str], folder: Path, **fault: int) -> Any:
        ours, theirs = context.Pipe(duplex=False)
        args = (list(map(str, arguments)), folder, faulty.Fault(**fault), theirs)
        process = context.Process(target=faulty.carry_out, args=args)
        process.start()
        theirs.close()
        ended = None
        with contextlib.suppress(EOFError):
            ended = ours.recv()
        process.join()
        return ended or faulty.Ended(process.exitcode, "", "")

    return carry_out


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory, call: Call) -> Path:
    """A folder with 60 images in class folders, a run on them, a manifest with attributes, and marks."""
    folder = tmp_path_factory.mktemp("prepared")
    source = digits("train")
    rows, marks = ["path,attributes"], ["path,id,mark,label"]
    for index in range(60):
        digit = int(source.labels[index])
        file = folder / "images" / str(digit) / f"{index:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(source.image(index)).save(file)
        rows.append(f"{file},{'odd' if digit % 2 else 'even'};{'high' if digit > 4 else 'low'}")
        marks.append(
            f"{file},{digit}/{index:02}.png,{'drop' if index < 5 else ''},{'' if index < 5 else 'ab'[index % 2]}"
        )
    (folder / "table.csv").write_text("\n".join(rows) + "\n")
    (folder / "marks.csv").write_text("\n".join(marks) + "\n")
    ended = call(TRAIN.split(), folder)
    assert ended.code == 0, ended.err
    return folder


@pytest.fixture
def work(prepared: Path, tmp_path: Path) -> Path:
    """A copy of the prepared folder, to be written into."""
    shutil.copytree(prepared, tmp_path / "work")
    return tmp_path / "work"


class Disk:
    """A disk in memory, mounted over a folder."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def mount(self, options: str) -> None:
        """Mount it, or change its options; skips where that is not allowed."""
        again = "remount," if self.place.is_mount() else ""
        self.place.mkdir(exist_ok=True)
        asked = ["mount", "-t", "tmpfs", "-o", again + options, "tmpfs", str(self.place)]
        if os.geteuid() or subprocess.run(asked, capture_output=True, check=False).returncode:
            pytest.skip("needs permission to mount a disk")

    def unmount(self) -> None:
        """Take it away, with all that is on it."""
        if self.place.is_mount():
            subprocess.run(["umount", str(self.place)], check=True)


@pytest.fixture
def disk(work: Path) -> Iterator[Disk]:
    """A disk to mount where commands write."""
    disk = Disk(work / "out")
    yield disk
    disk.unmount()


FAULTS = Path(__file__).parents[2] / "benchmarks" / "faults"


@pytest.fixture(scope="session")
def faults() -> Path:
    """The folder of the scripts `kills.py` and `soak.py`."""
    return FAULTS


@pytest.fixture(scope="module", autouse=True)
def _scripts_import_each_other() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(FAULTS), *sys.path])
        yield
