r"""Transcript of a command in a terminal: its lines, and the progress bar every few seconds.

The transcripts of docs/first_run.md were made by

    ln -s DATA/clothing/test clothing
    ln -s DATA/clothing/train photos
    python benchmarks/release/transcript.py --every 5 -- sdclr mine clothing
    python benchmarks/release/transcript.py --file -- sdclr pretrain clothing --run runs/first --epochs 100 \
        --views.image-size 64
    python benchmarks/release/transcript.py --file -- sdclr pretrain photos --minutes 5 --run runs/five
    python benchmarks/release/transcript.py --file -- sdclr mine photos --encoder runs/five
"""

import argparse
import os
import pty
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COLUMNS = 100
CODE = re.compile(r"\x1b\[(\??)([0-9;]*)([a-zA-Z])")


class Screen:
    """A minimal terminal, sufficient for a progress bar at the bottom."""

    def __init__(self) -> None:
        self.lines = [""]
        self.row = 0
        self.column = 0

    def feed(self, text: str) -> None:
        at = 0
        while at < len(text):
            code = CODE.match(text, at)
            if code:
                self._control(code.group(2), code.group(3))
                at = code.end()
                continue
            self._put(text[at])
            at += 1

    @property
    def line(self) -> str:
        """Text in the line of the cursor."""
        return self.lines[self.row].rstrip()

    def _control(self, number: str, letter: str) -> None:
        if letter == "A":
            self.row = max(0, self.row - int(number or 1))
        elif letter == "K":
            kept = "" if number == "2" else self.lines[self.row][: self.column]
            self.lines[self.row] = kept

    def _put(self, letter: str) -> None:
        if letter == "\r":
            self.column = 0
        elif letter == "\n":
            self.row += 1
            self.column = 0
            if self.row == len(self.lines):
                self.lines.append("")
        else:
            line = self.lines[self.row].ljust(self.column)
            self.lines[self.row] = line[: self.column] + letter + line[self.column + 1 :]
            self.column += 1


def in_terminal(command: list[str], every: float) -> list[str]:
    """The lines of a command in a terminal, with the bar every `every` seconds."""
    mine, theirs = pty.openpty()
    env = os.environ | {"COLUMNS": str(COLUMNS), "LINES": "40", "TERM": "xterm-256color"}
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)
    screen, shown, told, last = Screen(), [], 0, time.monotonic()
    held = b""
    while True:
        try:
            held += os.read(mine, 65536)
        except OSError:  # the command has ended
            break
        text, held = _whole(held)
        screen.feed(text)
        settled = screen.lines[told : screen.row]
        shown += settled
        told = max(told, screen.row)
        if time.monotonic() - last >= every and re.search("━| left$| so far$", screen.line):
            shown += [screen.line] * (shown[-1:] != [screen.line])
            last = time.monotonic()
    process.wait()
    return [line.rstrip() for line in [*shown, *screen.lines[told:]]]


def _whole(data: bytes) -> tuple[str, bytes]:
    """The text up to the last complete character and code, and the rest."""
    cut = len(data)
    begun = data.rfind(b"\x1b")
    if begun >= 0 and not re.match(rb"\x1b\[\??[0-9;]*[a-zA-Z]", data[begun:]):
        cut = begun
    while cut and cut == len(data):
        try:
            return data.decode(), b""
        except UnicodeDecodeError as error:
            cut = error.start
    return data[:cut].decode(), data[cut:]


def in_file(command: list[str]) -> list[str]:
    """The lines of a command whose output goes to a file."""
    with tempfile.TemporaryFile("w+") as log:
        subprocess.run(command, stdout=log, stderr=log, check=False)
        log.seek(0)
        return log.read().splitlines()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=float, default=20.0, help="seconds between two pictures of the bar")
    parser.add_argument("--file", action="store_true", help="into a file, not a terminal")
    parser.add_argument("command", nargs="+")
    asked = parser.parse_args()
    lines = in_file(asked.command) if asked.file else in_terminal(asked.command, asked.every)
    here = str(Path.cwd())
    for line in lines:
        sys.stdout.write(line.replace(here, ".") + "\n")


if __name__ == "__main__":
    main()
