"""Progress in a notebook: a bar in the cell's output. It needs IPython, but no widgets."""

import html
import importlib
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

from sdclr.progress import duration
from sdclr.progress_display import APPEARS, PAUSE, Clock, Display, Going


class Handle(Protocol):
    """A cell's replaceable output, from `IPython.display.display(display_id=True)`."""

    def update(self, data: dict[str, str], *, raw: bool) -> None:
        """Replace the output."""


class Notebook(Display):
    """A bar in a notebook's cell, without widgets.

    Args:
        show: `IPython.display.display`.
        clock: Clock in seconds, for tests.
        idle: As for `Display`.
    """

    period = 0.5

    def __init__(self, show: Callable[..., Handle | None], clock: Clock = time.monotonic, idle: str = "") -> None:
        super().__init__(clock, idle)
        self._show = show
        self._handle: Handle | None = None

    def tell(self, text: str) -> None:
        """Show a permanent line."""
        self._show({"text/plain": text, "text/html": f"<div>{html.escape(text)}</div>"}, raw=True)

    def tick(self) -> None:
        """Show the current state instead of the last one."""
        if not self.going or self.clock() - self.since < (PAUSE if self.idles else APPEARS):
            return
        stage, line = self.going[-1].stage, self.line(self.clock())
        share = f' value="{stage.done}" max="{max(stage.total, 1)}"' if stage.total is not None else ""
        self._put(line, f"<div><progress{share}></progress> {html.escape(line)}</div>")

    def ended(self, going: Going | None) -> None:
        """Leave a line with the work done and its duration."""
        if self._handle is None or not self.idles or going is None:
            return
        line = f"{going.head()} · {duration(self.clock() - going.begun)}"
        self._put(line, f"<div>{html.escape(line)}</div>")
        self._handle = None

    def _put(self, line: str, page: str) -> None:
        data = {"text/plain": line, "text/html": page}
        if self._handle is None:
            self._handle = self._show(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)


def notebook_display(idle: str = "") -> Notebook | None:
    """Display of the current notebook; None outside of notebooks.

    Args:
        idle: As for `Display`.
    """
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    if shell is None or not hasattr(shell, "kernel"):
        return None
    module: Any = importlib.import_module("IPython.display")
    return Notebook(module.display, idle=idle)
