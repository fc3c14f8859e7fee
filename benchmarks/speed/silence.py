"""Time that a command writes nothing to a log file: before its first line, and the longest time between lines.

    python benchmarks/speed/silence.py --source before=../before/src --source now=src -- \
        pretrain clothing --epochs 12 --optim.warmup-epochs 1 --views.image-size 32

Each source tree runs the command once, in a separate folder, with both streams in one pipe.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple


class Silence(NamedTuple):
    """Times without output of one command, in seconds."""

    first: float
    longest: float
    total: float
    lines: int
    code: int


def silence(command: list[str], source: Path, folder: Path) -> Silence:
    """Run the command and measure the times between its lines."""
    env = os.environ | {"PYTHONPATH": str(source.resolve()), "PYTHONUNBUFFERED": "1"}
    begun = last = time.monotonic()
    first, longest, lines = 0.0, 0.0, 0
    with subprocess.Popen(
        [sys.executable, "-m", "sdclr", *command],
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        for _ in process.stdout or ():
            now = time.monotonic()
            first = first or now - begun
            longest, last, lines = max(longest, now - last), now, lines + 1
        code = process.wait()
    end = time.monotonic()
    return Silence(first or end - begun, max(longest, end - last), end - begun, lines, code)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", action="append", required=True, help="NAME=FOLDER of a source tree")
    parser.add_argument("command", nargs="+", help="a command of sdclr; images by their path from here")
    asked = parser.parse_args()
    words = [str(Path(word).resolve()) if Path(word).exists() else word for word in asked.command]
    print("| source | first line | longest silence | in all | lines |\n|---|---|---|---|---|")
    for spec in asked.source:
        name, _, folder = spec.partition("=")
        with tempfile.TemporaryDirectory() as place:
            found = silence(words, Path(folder), Path(place))
        failed = "" if found.code == 0 else f" (exit code {found.code})"
        print(
            f"| {name}{failed} | {found.first:.0f} s | {found.longest:.0f} s | {found.total:.0f} s | {found.lines} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
