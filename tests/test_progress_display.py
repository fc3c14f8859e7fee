"""What is shown of stages: in a terminal, in files, in notebooks."""

import io
import itertools
import os
import pty
import re
import subprocess
import sys
import types

import pytest
from rich.console import Console

import sdclr.progress_display as display
from sdclr.progress import bar_by_default, listening, reporting_to, show_progress, stage, tell
from sdclr.progress_display import Bar, Display, Lines, display_for
from sdclr.progress_notebook import Notebook


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def seconds(clock: Clock, shown: Display, count: float, each=lambda: None) -> None:
    """Let time pass: whatever works reports, and the thread looks, once a second."""
    for _ in range(int(count)):
        clock.now += 1
        each()
        shown.tick()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def lines(clock):
    return Lines(io.StringIO(), clock)


def written(lines: Lines) -> list[str]:
    return lines.stream.getvalue().splitlines()


def test_short_stages_print_nothing(lines, clock):
    with reporting_to(lines), stage("reading images", 9) as update:
        seconds(clock, lines, 9, lambda: update(int(clock.now)))
    assert written(lines) == []


def test_the_first_line_comes_after_ten_seconds_and_the_next_a_minute_later(lines, clock):
    with reporting_to(lines), stage("reading images", 5000) as update:
        seconds(clock, lines, 10, lambda: update(int(31 * clock.now)))
        assert written(lines) == ["reading images 310/5,000 · 31 images/s · 3 min left"]
        seconds(clock, lines, 59, lambda: update(int(31 * clock.now)))
        assert len(written(lines)) == 1
        seconds(clock, lines, 1, lambda: update(int(31 * clock.now)))
        assert written(lines)[1] == "reading images 2,170/5,000 · 31 images/s · 91 s left"


def test_hours_give_at_most_a_line_a_minute_and_at_least_one_in_ten_minutes(lines, clock):
    at = []
    with reporting_to(lines), stage("training", 10**6) as update:
        for _ in range(5 * 3600):
            clock.now += 1
            update(int(clock.now))
            before = len(written(lines))
            lines.tick()
            at += [clock.now] * (len(written(lines)) - before)
    gaps = [late - early for early, late in itertools.pairwise(at)]
    assert at[0] == 10
    assert min(gaps) >= 60
    assert max(gaps) <= 600
    assert len(at) < 120


def test_a_note_stands_in_place_of_the_count(lines, clock):
    with reporting_to(lines), stage("training", 200 * 1000, counted=False) as update:
        seconds(clock, lines, 10, lambda: update(int(310 * clock.now), note="epoch 12/200 · loss 4.21"))
    assert written(lines) == ["epoch 12/200 · loss 4.21 · 310 images/s · 11 min left"]


def test_what_reports_nothing_shows_the_time(lines, clock):
    with reporting_to(lines), stage("searching neighbors of 100,000 images"):
        seconds(clock, lines, 70)
    assert written(lines) == [
        "searching neighbors of 100,000 images · 10 s so far",
        "searching neighbors of 100,000 images · 70 s so far",
    ]


def test_a_line_names_the_stages_around_it(lines, clock):
    with reporting_to(lines), stage("runs", 12, unit="runs") as outer:
        outer(2)
        with stage("reading images", 100) as update:
            seconds(clock, lines, 12, lambda: update(int(clock.now)))
    assert written(lines) == ["runs 2/12 · reading images 10/100 · 1.0 images/s · 90 s left"]


def test_many_short_stages_are_not_silent(lines, clock):
    for number in range(20):
        with reporting_to(lines), stage(f"part {number}"):
            seconds(clock, lines, 7)
    assert written(lines) == ["part 1 · 3 s so far", "part 9 · 7 s so far", "part 18 · 4 s so far"]


def test_what_was_done_before_does_not_count_as_speed(lines, clock):
    with reporting_to(lines), stage("reading images", 2000, done=1000) as update:
        seconds(clock, lines, 10, lambda: update(1000 + int(10 * clock.now)))
    assert written(lines) == ["reading images 1,100/2,000 · 10 images/s · 90 s left"]


def test_lines_are_flushed_at_once(clock):
    class Stream(io.StringIO):
        flushed = 0

        def flush(self) -> None:
            self.flushed = len(self.getvalue())

    lines = Lines(Stream(), clock)
    with reporting_to(lines):
        tell("about 43 min for 200 epochs (310 images/s)")
    assert lines.stream.flushed == len(lines.stream.getvalue()) > 40


def console(width: int) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)


def screen(bar: Bar) -> str:
    """The text of the last line that was drawn."""
    drawn = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", bar.console.file.getvalue())
    return re.split(r"[\r\n]+", drawn.rstrip("\r\n"))[-1]


@pytest.mark.parametrize("width", [200, 80, 59, 30])
def test_the_bar_is_one_line_however_narrow_the_terminal(width, clock):
    bar = Bar(console(width), clock)
    with reporting_to(bar), stage("runs", 12, unit="runs") as outer:
        outer(3)
        with stage("reading images", 5000) as update:
            seconds(clock, bar, 20, lambda: update(int(31 * clock.now)))
            said = screen(bar)
            assert "\n" not in bar.console.file.getvalue()
    assert len(said) <= width
    assert said.startswith("runs 3/12 · reading imag")
    if width >= 80:
        assert "━" in said
        assert "31 images/s · 2 min left" in said


def test_the_bar_goes_and_lets_others_speak(clock):
    bar = Bar(console(80), clock)
    with reporting_to(bar), stage("training", 100) as update:
        seconds(clock, bar, 2, lambda: update(int(clock.now)))
        tell("about 2 min")
        assert screen(bar) == "about 2 min"
        seconds(clock, bar, 1, lambda: update(int(clock.now)))
        assert screen(bar).startswith("training 3/100")
    assert bar.console.file.getvalue().endswith("\x1b[1A\x1b[2K") or bar.console.file.getvalue().endswith("\x1b[2K")


def test_short_stages_draw_no_bar(clock):
    bar = Bar(console(80), clock)
    with reporting_to(bar), stage("reading images", 5) as update:
        clock.now += 0.3
        update(5)
        bar.tick()
    assert bar.console.file.getvalue() == ""


def test_a_notebook_shows_a_bar_without_widgets(clock):
    cells: list[list[dict[str, str]]] = []

    class Cell:
        def __init__(self, versions):
            self.versions = versions

        def update(self, data, *, raw):
            assert raw
            self.versions.append(data)

    def show(data, *, raw, display_id=False):
        assert raw
        cells.append([data])
        return Cell(cells[-1]) if display_id else None

    notebook = Notebook(show, clock)
    with reporting_to(notebook), stage("reading <images>", 100) as update:
        seconds(clock, notebook, 20, lambda: update(int(clock.now)))
        tell("a & b")
        update(100)
    assert len(cells) == 2
    assert cells[0][-2]["text/html"] == (
        '<div><progress value="20" max="100"></progress> reading &lt;images&gt; 20/100 · 1.0 images/s · 80 s left</div>'
    )
    assert cells[0][-1]["text/plain"] == "reading <images> 100/100 · 20 s"
    assert cells[1][0]["text/plain"] == "a & b"


def test_notebooks_are_known_by_their_kernel(monkeypatch):
    shell = types.SimpleNamespace(kernel=object())
    ipython, screen_module = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    ipython.get_ipython = lambda: shell
    screen_module.display = lambda *_, **__: None
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", screen_module)
    assert isinstance(display_for(io.StringIO()), Notebook)
    del shell.kernel
    assert isinstance(display_for(io.StringIO()), Lines)


def test_a_dumb_terminal_gets_lines(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(display_for(Terminal()), Bar)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(display_for(Terminal()), Lines)


def test_training_shows_a_bar_in_a_terminal_unless_somebody_decides(monkeypatch, told):
    with bar_by_default(wanted=True):
        assert listening() is told
    with bar_by_default(wanted=False):
        assert listening() is None
    monkeypatch.setattr(sys, "stderr", type("Terminal", (io.StringIO,), {"isatty": lambda _: True})())
    with reporting_to(None), bar_by_default(wanted=True):
        assert listening() is None


SCRIPT = """
import time
import sdclr.progress_display as display
from sdclr.progress import show_progress, stage
display.FIRST, display.Lines.period, display.Bar.period = 0.3, 0.05, 0.05
with show_progress(), stage("reading images", 4) as update:
    for number in range(5):
        update(number)
        time.sleep(0.2)
print("done")
"""


def script(**how) -> subprocess.Popen:
    code = [sys.executable, "-c", SCRIPT]
    return subprocess.Popen(code, env=os.environ | {"TERM": "xterm", "COLUMNS": "100"}, **how)


def test_a_file_gets_lines(tmp_path):
    with (tmp_path / "log").open("wb") as log:
        assert script(stdout=log, stderr=log).wait() == 0
    first, *rest = (tmp_path / "log").read_text().splitlines()
    assert re.fullmatch(r"reading images [1-3]/4 · [\d.]+ images/s · \d s left", first)
    assert rest == ["done"]


def test_a_terminal_gets_a_bar():
    mine, theirs = pty.openpty()
    process = script(stdout=theirs, stderr=theirs, stdin=theirs)
    os.close(theirs)
    seen = b""
    while True:
        try:
            seen += os.read(mine, 4096)
        except OSError:  # the other side is closed
            break
    assert process.wait() == 0
    text = seen.decode()
    assert "━" in text
    assert "images/s" in text
    assert text.rstrip().endswith("done")
    assert "\x1b[?25h" in text  # the cursor is shown again


def test_the_thread_ends_with_the_context(monkeypatch):
    monkeypatch.setattr(display.Lines, "period", 0.01)
    stream = io.StringIO()
    with show_progress(stream):
        thread = listening()._thread
        assert thread.is_alive()
    assert not thread.is_alive()


def test_a_closed_stream_does_not_stop_the_work():
    stream = io.StringIO()
    with show_progress(stream), stage("reading images"):
        stream.close()
        tell("about 2 min")


def test_between_stages_the_command_is_named(clock):
    lines = Lines(io.StringIO(), clock, idle="mine")
    with reporting_to(lines):
        seconds(clock, lines, 4)
        with stage("reading images"):
            seconds(clock, lines, 12)
        seconds(clock, lines, 70)
    assert written(lines) == ["reading images · 6 s so far", "mine · 70 s so far"]


def test_a_bar_names_the_command_only_while_nothing_else_does(clock):
    bar = Bar(console(80), clock, idle="mine")
    with reporting_to(bar):
        seconds(clock, bar, 1)
        assert bar.console.file.getvalue() == ""
        seconds(clock, bar, 3)
        assert screen(bar).startswith("mine ")
        with stage("reading images", 10) as update:
            seconds(clock, bar, 2, lambda: update(int(clock.now)))
            assert screen(bar).startswith("reading images 6/10")
