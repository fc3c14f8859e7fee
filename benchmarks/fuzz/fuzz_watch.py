"""Watch a reader by Python's audit events. It may write only in its own folder.

It must not connect, start programs or unpickle. Compiled libraries raise no events; for them the caller compares
listings of the surrounding folders.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

_WRITES: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES: Final = {
    "os.remove": (0,),
    "os.rename": (0, 1),
    "os.rmdir": (0,),
    "os.mkdir": (0,),
    "os.link": (1,),
    "os.symlink": (1,),
    "os.truncate": (0,),
    "os.chmod": (0,),
}
"""Positions of arguments that are changed paths, by event."""
_NEVER: Final = frozenset(
    {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.bind", "os.system"}
    | {"subprocess.Popen", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.startfile", "pickle.find_class"}
    | {"ctypes.dlopen", "urllib.Request", "ftplib.connect", "webbrowser.open"}
)

_watched: list["Watch"] = []
_hooked: list[bool] = []


class Watch:
    """Collects forbidden events."""

    def __init__(self, root: Path) -> None:
        self.root = os.path.realpath(root)
        self.found: list[str] = []

    def see(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Check one audit event."""
        if event in _NEVER:
            self.found.append(f"{event} {arguments[:2]!r}"[:300])
        elif event == "open":
            path, mode, flags = arguments
            if isinstance(flags, int) and flags & _WRITES and not isinstance(path, int):
                self._check("write", path, mode)
        else:
            for place in _CHANGES[event]:
                self._check(event, arguments[place])

    def _check(self, event: str, path: Any, mode: Any = None) -> None:
        if isinstance(path, int) or path is None:
            return
        named = Path(os.fsdecode(path))
        place = Path(os.path.realpath(named.parent), named.name)  # the place of the name itself, not of a link's target
        if str(place) != os.devnull and not place.is_relative_to(self.root):
            self.found.append(f"{event} {str(place)!r} {mode or ''}"[:300])


@contextmanager
def watching(root: Path) -> Iterator[Watch]:
    """Collect forbidden events inside the block: writes outside `root`, connections, programs, unpickling."""
    if not _hooked:
        _hooked.append(True)
        sys.addaudithook(_hook)
    watch, before = Watch(root), sys.dont_write_bytecode
    _watched.append(watch)
    sys.dont_write_bytecode = True
    try:
        yield watch
    finally:
        sys.dont_write_bytecode = before
        _watched.remove(watch)


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _watched and (event == "open" or event in _NEVER or event in _CHANGES):
        for watch in tuple(_watched):
            watch.see(event, arguments)
