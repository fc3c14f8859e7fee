"""Where commands write: checked before anything that takes long."""

import dataclasses
import stat
from pathlib import Path
from typing import Any, Final

from sdclr.errors import InputError

_FILES: Final = {"csv", "json", "fiftyone", "marks", "manifest", "drop_list"}
"""Options that name a file to write."""
_FOLDERS: Final = {"run", "figures", "folder", "links", "classes", "move_dropped"}
"""Options that name a folder to write into."""
_OUT: Final = {
    **dict.fromkeys(("select", "diagnose", "duplicates", "neighbors", "report"), "file"),
    **dict.fromkeys(("mine", "evaluate", "attributes", "finetune", "reproduce", "bench"), "folder"),
    "embed": "either",
}
"""What the option --out of a command names."""


def check_places(name: str, command: Any) -> None:
    """Check that what a command is to write can be there.

    Args:
        name: The command's name.
        command: Its options.

    Raises:
        InputError: A file is named where a folder is needed, or the other way round.
    """
    for field in dataclasses.fields(command):
        path = getattr(command, field.name)
        if not isinstance(path, Path):
            continue
        kind = "file" if field.name in _FILES else "folder" if field.name in _FOLDERS else None
        kind = _OUT.get(name) if field.name == "out" else kind
        if kind is not None:
            _check(path.expanduser(), f"--{field.name.replace('_', '-')} {path}", kind)


def _check(path: Path, said: str, kind: str) -> None:
    try:
        for parent in path.parents:
            if parent.exists():
                if not parent.is_dir():
                    raise InputError(f"{said}: {parent} is a file, so that nothing can lie in it; name another place")
                break
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"{said}: cannot be written ({error.strerror}); name another place") from error
    if kind == "file" and not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "no regular file"
        raise InputError(f"{said}: is {what}; name a file to write")
    if kind == "folder" and not stat.S_ISDIR(mode):
        raise InputError(f"{said}: is a file; name a folder to write into")
