"""Displays of progress: a bar in terminals and notebooks, lines in files.

A thread shows the state at intervals. Long stages without reports therefore show the elapsed time, and the work itself
only stores numbers.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Final, Self, TextIO

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sdclr.progress import Stage, duration, listening
from sdclr.visible import visible

Clock = Callable[[], float]

FIRST: Final = 10.0
"""Seconds until the first line of a stage."""
OFTEN: Final = 60.0
SELDOM: Final = 600.0
"""Minimum and maximum seconds between two lines of a stage."""
THINNING: Final = 20.0
"""The interval between lines is the elapsed time divided by this, within these limits."""

_WINDOW: Final = 120.0
"""Time window of the speed in seconds."""
_SAMPLES: Final = 60
_NARROW: Final = 60
"""Terminals with fewer columns show text without a bar."""
_BAR: Final = 24
"""Width of the bar in columns."""
APPEARS: Final = 0.4
"""Seconds until a stage shows a bar, so that short stages do not flicker."""
PAUSE: Final = 2.0
"""Seconds without a stage until a bar shows the command's name."""

# Worker processes may be forked while the thread below holds this lock. They get a free lock.
_LOCK: Final = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_LOCK.release)


@dataclass(eq=False)
class Going:
    """A stage that has begun, with its times."""

    stage: Stage
    begun: float
    samples: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=_SAMPLES))
    """(time, done), at least two seconds apart except the last."""
    told: float | None = None
    """Time of its last line."""
    idle: bool = False
    """Whether this is the placeholder that is shown between stages."""

    def __post_init__(self) -> None:
        self.samples.append((self.begun, self.stage.done))

    def sample(self, now: float) -> None:
        """Record the current progress."""
        spacing = _WINDOW / _SAMPLES
        if len(self.samples) > 1 and now - self.samples[-2][0] < spacing:
            self.samples.pop()
        self.samples.append((now, self.stage.done))

    def rate(self) -> float | None:
        """Items per second over the last two minutes; None if unknown."""
        (begin, before), (end, done) = self.samples[0], self.samples[-1]
        return (done - before) / (end - begin) if done > before and end > begin else None

    def left(self, now: float) -> float | None:
        """Seconds left; None if unknown."""
        rate, total = self.rate(), self.stage.total
        if rate is None or total is None:
            return None
        return max(0.0, (total - self.stage.done) / rate - (now - self.samples[-1][0]))

    def head(self) -> str:
        """Name and count of the stage."""
        stage, name, note = self.stage, visible(self.stage.name), visible(self.stage.note)
        if note and not stage.counted:
            return note
        count = ""
        if stage.total is not None:
            count = f" {stage.done:,}/{stage.total:,}"
        elif stage.done:
            count = f" {stage.done:,}"
        return f"{name}{count}" + (f" · {note}" if note else "")

    def tail(self, now: float) -> str:
        """Speed and remaining time, or elapsed time if the remaining time is unknown."""
        rate, left = self.rate(), self.left(now)
        parts = [] if rate is None else [_speed(rate, self.stage.unit)]
        parts.append(f"{duration(now - self.begun)} so far" if left is None else f"{duration(left)} left")
        return " · ".join(filter(None, parts))


def _speed(rate: float, unit: str) -> str:
    if rate >= 10:
        return f"{rate:,.0f} {unit}/s"
    return f"{rate:.1f} {unit}/s" if rate >= 0.1 else ""


class Display:
    """Base class of displays, which stores the current stages.

    Args:
        clock: Clock in seconds, for tests.
        idle: Text between stages; nothing is shown if it is empty.
    """

    period = 1.0
    """Seconds between two updates by the thread."""

    def __init__(self, clock: Clock = time.monotonic, idle: str = "") -> None:
        self.clock = clock
        self.going: list[Going] = [Going(Stage(idle), clock(), idle=True)] if idle else []
        self.since = clock()
        """Time when the last stage began or ended."""
        self._stop: threading.Event | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Start the thread."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, args=(self._stop,), name="sdclr progress", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End the thread."""
        if self._stop is not None and self._thread is not None:
            self._stop.set()
            self._thread.join()
        self._stop = self._thread = None

    def begin(self, stage: Stage) -> None:
        """See `Listener`."""
        with _LOCK:
            self.since = self.clock()
            self.going.append(Going(stage, self.since))

    def update(self, stage: Stage) -> None:
        """See `Listener`."""
        with _LOCK:
            for going in reversed(self.going):
                if going.stage is stage:
                    going.sample(self.clock())
                    return

    def end(self, stage: Stage) -> None:
        """See `Listener`."""
        with _LOCK:
            ended = [going for going in self.going if going.stage is stage]
            self.going = [going for going in self.going if going.stage is not stage]
            self.since = self.clock()
            self.ended(ended[0] if ended else None)

    def tell(self, text: str) -> None:
        """See `Listener`."""
        raise NotImplementedError

    def tick(self) -> None:
        """Show the state if due."""
        raise NotImplementedError

    def ended(self, going: Going | None) -> None:
        """A stage has ended."""

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Hide the display inside the block, so that other text can be printed."""
        yield

    def line(self, now: float) -> str:
        """The whole state in one line."""
        return " · ".join([*self.outer(), self.going[-1].head(), self.going[-1].tail(now)])

    def outer(self) -> list[str]:
        """Name and count of the stages around the innermost one."""
        return [going.head() for going in self.going[:-1] if not going.idle]

    @property
    def idles(self) -> bool:
        """Whether there is no stage."""
        return not self.going or self.going[-1].idle

    def _watch(self, stop: threading.Event) -> None:
        while not stop.wait(self.period):
            try:
                with _LOCK:
                    if not stop.is_set():
                        self.tick()
            except (OSError, ValueError):  # the stream is closed
                return


class Lines(Display):
    """Lines on a stream that is not a terminal: the first after ten seconds, then one every one to ten minutes.

    Args:
        stream: The stream; each line is flushed at once.
        clock: Clock in seconds, for tests.
        idle: As for `Display`.
    """

    def __init__(self, stream: TextIO, clock: Clock = time.monotonic, idle: str = "") -> None:
        super().__init__(clock, idle)
        self.stream = stream
        self._begun = self._last = clock()
        self._spoke = False

    def tell(self, text: str) -> None:
        """Write a line at once."""
        with _LOCK:
            self._write(text)

    def tick(self) -> None:
        """Write a line if one is due."""
        if not self.going or not self._due(now := self.clock()):
            return
        for going in self.going:
            going.told = now
        self._last, self._spoke = now, True
        self._write(self.line(now))

    def _due(self, now: float) -> bool:
        inner = self.going[-1]
        begun = self.since if inner.idle else inner.begun
        if inner.told is None and now - begun >= FIRST and now - self._last >= FIRST:
            return True
        if not self._spoke:  # many short stages
            return now - self._begun >= FIRST
        apart = min(SELDOM, max(OFTEN, (now - self._begun) / THINNING))
        return now - self._last >= apart

    def _write(self, text: str) -> None:
        with suppress(OSError, ValueError):  # the reader is gone, but the work goes on
            self.stream.write(f"{text}\n")
            self.stream.flush()


class Bar(Display):
    """One line at the bottom of a terminal, which disappears when the work is done.

    Args:
        console: Console of the terminal.
        clock: Clock in seconds, for tests.
        idle: As for `Display`.
    """

    period = 0.25

    def __init__(self, console: Console, clock: Clock = time.monotonic, idle: str = "") -> None:
        super().__init__(clock, idle)
        self.console = console
        self._live: Live | None = None

    def __exit__(self, *ended: object) -> None:
        """End the thread and clear the line."""
        super().__exit__(*ended)
        with _LOCK:
            self._clear()

    def tell(self, text: str) -> None:
        """Print a line above the bar."""
        with self.aside():
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Hide the bar inside the block, so that it does not mix with printed text."""
        with _LOCK:
            self._clear()
            yield

    def tick(self) -> None:
        """Redraw the bar."""
        if not self.going:
            return
        if self._live is None:
            if self.clock() - self.since < (PAUSE if self.idles else APPEARS):
                return
            # Redirected streams would take the console's lock in forked worker processes.
            self._live = Live(
                console=self.console,
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
                get_renderable=self.drawn,
                vertical_overflow="crop",
            )
            self._live.start()
        self._live.refresh()

    def ended(self, going: Going | None) -> None:
        """Clear the line after the outermost stage."""
        del going
        if self.idles:
            self._clear()

    def drawn(self) -> RenderableType:
        """The bar; in a narrow terminal only its text."""
        if not self.going:
            return Text("")
        now, inner = self.clock(), self.going[-1]
        outer = "".join(f"{head} · " for head in self.outer())
        head = Text(outer + inner.head(), no_wrap=True, overflow="ellipsis")
        tail = Text(inner.tail(now), no_wrap=True, overflow="ellipsis", style="dim")
        if self.console.width < _NARROW:
            return Text.assemble(head, " · ", tail, no_wrap=True, overflow="ellipsis")
        row = Table.grid(padding=(0, 1))
        row.add_column(no_wrap=True, overflow="ellipsis", max_width=self.console.width - _BAR - len(tail.plain) - 4)
        row.add_column(width=_BAR)
        row.add_column(no_wrap=True, overflow="ellipsis")
        stage = inner.stage
        bar = ProgressBar(
            total=None if stage.total is None else float(max(stage.total, 1)),
            completed=float(stage.done),
            width=_BAR,
            pulse=stage.total is None,
            animation_time=now,
        )
        row.add_row(head, bar, tail)
        return row

    def _clear(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


def display_for(stream: TextIO, *, idle: str = "") -> Display:
    """The display for a stream: a bar in a notebook or terminal, otherwise lines.

    Args:
        stream: The output stream.
        idle: Text between stages.

    Returns:
        The display, a context manager that is active inside its block.
    """
    from sdclr.progress_notebook import notebook_display  # noqa: PLC0415  # imports this module

    notebook = notebook_display(idle)
    if notebook is not None:
        return notebook
    if stream.isatty() and os.environ.get("TERM") not in {"dumb", "unknown"}:
        return Bar(Console(file=stream, force_terminal=True, highlight=False), idle=idle)
    return Lines(stream, idle=idle)


def aside() -> AbstractContextManager[None]:
    """Hide the progress bar inside the context, so that text can be printed."""
    listener = listening()
    return listener.aside() if isinstance(listener, Display) else nullcontext()
