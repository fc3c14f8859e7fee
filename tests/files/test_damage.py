"""A run with everything that commands write; then every file of it is damaged in every way, and read by every command.

A command must end well, with the result that it has without damage, or in one line that names the file and the remedy.
It must not hang, show a traceback, or give another result without a word.

Every damage of every file, with counts of how commands ended:

    SDCLR_ALL_FAULTS=1 pytest -s tests/files/test_damage.py
"""

import functools
import importlib
import json
import os
import random
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sys, "path", [*sys.path, str(Path(__file__).parent)])
    world: Any = importlib.import_module("world")

FREE = {".json", ".jsonl", ".csv", ".txt", ".npy"}
"""Text that people may edit: a change that leaves it well-formed is no damage. NumPy's format has no checksums."""
GUARDED = {"encoder.json", "duplicates.json", "reading.json", "features.npy"}
"""Files with a checksum, in them or beside, or compared as a whole."""
SLOW = {"report", "states"}
"""Commands that take long: these meet some damages of each file."""
SOME = 5

Damage = Callable[[Path], object]


def flipped(at: float, path: Path) -> None:
    """Change one bit, at a byte or at a share of the file."""
    data = bytearray(path.read_bytes())
    if data:
        place = int(at * (len(data) - 1)) if isinstance(at, float) else at % len(data)
        data[place] ^= 1 << (place % 7)
        path.write_bytes(data)


def replaced(make: Callable[[Path], object], path: Path) -> None:
    path.unlink()
    make(path)


def cut(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))] if share else b"")


PLACES = random.Random(0)
DAMAGES: dict[str, Damage] = {
    "half": functools.partial(cut, share=0.5),
    "deleted": Path.unlink,
    "pipe": functools.partial(replaced, os.mkfifo),
    "flip middle": functools.partial(flipped, 0.5),
    "flip header": functools.partial(flipped, 9),
    "zeros": lambda path: path.write_bytes(b"\0" * path.stat().st_size),
    "last byte lost": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "empty": functools.partial(cut, share=0.0),
    "text": lambda path: path.write_text("some text\n" * 20),
    "folder": functools.partial(replaced, Path.mkdir),
    "flip first": functools.partial(flipped, 0),
    "flip end": functools.partial(flipped, -9),
    **{f"flip {share:.3f}": functools.partial(flipped, share) for share in sorted(PLACES.random() for _ in range(6))},
}
KINDS = list(DAMAGES)[:6]
"""One damage of each kind."""

counts: Counter[str] = Counter()
met: dict[str, int] = {}
"""How many commands have met a file."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The world without damage."""
    folder = tmp_path_factory.mktemp("world") / "root"
    folder.mkdir()
    world.build(folder)
    yield folder
    sys.stdout.write(f"\ndamage: {json.dumps(dict(sorted(counts.items())))}\n")


@pytest.fixture(scope="module")
def whole(root: Path) -> Callable[[str], tuple[Any, set[str]]]:
    """What a command gives without damage, and the files that it reads."""

    @functools.cache
    def found(name: str) -> tuple[Any, set[str]]:
        command = world.COMMANDS[name]
        with copied(root, command) as folder:
            ended = world.run(*command.argv)
            assert ended.code == 0, ended.err
            there = {path for path in ended.seen if (root / path).is_file() and path not in command.lost}
            assert folder
            return command.result(ended.out), there | {path for path in command.argv if (root / path).is_file()}

    return found


class copied:  # noqa: N801  # a context
    """A copy of the world, to work in."""

    def __init__(self, root: Path, command: Any) -> None:
        self.root, self.folder, self.command = root, root.with_name("copy"), command

    def __enter__(self) -> Path:
        shutil.rmtree(self.folder, ignore_errors=True)
        big = shutil.ignore_patterns("imgs", "tensorboard", "report.html")
        shutil.copytree(self.root, self.folder, symlinks=True, ignore=big)
        (self.folder / "imgs").symlink_to(self.root / "imgs")
        for file in self.command.lost:
            (self.folder / file).unlink()
        self.inside = world.inside(self.folder)
        self.inside.__enter__()
        return self.folder

    def __exit__(self, *error: object) -> None:
        self.inside.__exit__(None, None, None)
        shutil.rmtree(self.folder, ignore_errors=True)


def outcome(root: Path, name: str, file: str, damage: str, result: Any) -> str:
    """How a command ends on a damaged file: in a word, or what is wrong with that after an exclamation mark."""
    command = world.COMMANDS[name]
    with copied(root, command) as folder:
        DAMAGES[damage](folder / file)
        try:
            ended = world.run(*command.argv)
        except world.HangsError:
            return "! hangs"
        if ended.code:
            return ended_in_error(ended, file)
        try:
            same = command.result(ended.out) == result
        except OSError as error:
            return f"! no result: {error}"
        free = Path(file).suffix in FREE and Path(file).name not in GUARDED
        if same or free:
            return "same result" if same else "text changed, another result"
        return f"! another result without a word: {ended.err[-300:]}"


def ended_in_error(ended: Any, file: str) -> str:
    before, _, line = ended.err.partition("error: ")
    named = (
        file.endswith(".txt") or Path(file).name in line or f"{Path(file).parent}" in line
    )  # a list: what is wrong in it
    wrong = {
        "unexpected": "unexpected " in ended.err or "Traceback" in ended.err,
        "code": ended.code not in {1, 2},
        "lines": len(line.strip().splitlines()) != 1,
        "not named": not named,
        "no remedy": ": " not in line and "; " not in line,
    }
    return (
        f"! {[what for what, is_so in wrong.items() if is_so]} {before[-200:]} {line[:500]}"
        if any(wrong.values())
        else f"one line, exit code {ended.code}"
    )


def check(root: Path, whole: Callable[[str], tuple[Any, set[str]]], name: str, files: dict[str, list[str]]) -> None:
    """Damage files, one at a time, in some ways each."""
    result, _ = whole(name)
    wrong = []
    for file, damages in sorted(files.items()):
        for damage in damages:
            ended = outcome(root, name, file, damage, result)
            counts["cases"] += 1
            counts[ended if ended[0] != "!" else "WRONG"] += 1
            if ended[0] == "!":
                wrong.append(f"{name} · {file} · {damage}: {ended}")
    assert not wrong, "\n" + "\n".join(wrong)


FEW = {
    "resume": "half/checkpoints/step-000000006.pt",
    "evaluate": "run/encoder.safetensors",
    "mine": "run/mine/reading/chunk-000000.npz",
    "select": "run/mine/scores.parquet",
    "near": "e.parquet",
}


@pytest.mark.parametrize("name", FEW)
def test_some_files(name: str, root: Path, whole: Callable[[str], tuple[Any, set[str]]]) -> None:
    assert FEW[name] in whole(name)[1]
    check(root, whole, name, {FEW[name]: ["half", "flip middle"]})


def some_of(name: str, files: list[str]) -> dict[str, list[str]]:
    """Every file of a command with one damage at least, and every kind of damage with one file."""
    chosen: dict[str, list[str]] = {file: [] for file in files}
    first = list(world.COMMANDS).index(name)
    for turn in range(max(len(files), len(KINDS))):
        chosen[files[turn % len(files)]].append(KINDS[(first + turn) % len(KINDS)])
    return chosen


def all_of(name: str, files: list[str]) -> dict[str, list[str]]:
    """Every damage of a file for one command, and some for each further command that reads the file."""
    chosen, damages = {}, list(DAMAGES)
    for file in files:
        counts["files"] += file not in met
        turn = met.setdefault(file, 0)
        few = (damages * 3)[SOME * turn : SOME * (turn + 1)]
        chosen[file] = damages if turn == 0 and name not in SLOW else few
        met[file] += 1
    return chosen


@pytest.mark.slow
@pytest.mark.parametrize("name", list(world.COMMANDS))
def test_every_file(name: str, root: Path, whole: Callable[[str], tuple[Any, set[str]]]) -> None:
    files = sorted(whole(name)[1])
    assert files
    counts["commands"] += 1
    choose = all_of if os.environ.get("SDCLR_ALL_FAULTS") else some_of
    check(root, whole, name, choose(name, files))
