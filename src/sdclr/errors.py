"""Errors that the user can correct. The message is one line with the file or value, and a remedy."""

import os
from collections.abc import Sequence
from typing import Final

from sdclr.visible import one_line

_LONGEST: Final = 2_000
"""Maximum length of a message. Longer ones are shortened in the middle, so that the remedy stays."""


class InputError(Exception):
    """An input of `sdclr` (a path, an option, a data set) cannot be used.

    The message is one line with the problem, the value, and a remedy. The command line prints it without a traceback.
    Characters in names and values that would break or reverse the line, or control a terminal, are replaced by their
    codes. A very long message is shortened in the middle.

    Examples:
        >>> sdclr.open_source("no_such_folder")
        Traceback (most recent call last):
            ...
        sdclr.errors.InputError: no_such_folder does not exist; ...
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(one_line(message, _LONGEST))


class SettingError(InputError):
    """One or more settings cannot be used.

    Args:
        message: The problem, with names and values of the settings.
        keys: The full name of each setting, as its sequence of keys: `(("optim", "lr"),)`.
    """

    def __init__(self, message: str, keys: Sequence[tuple[str, ...]] = ()) -> None:
        super().__init__(message)
        self.keys = tuple(keys)


class StorageError(InputError):
    """A file cannot be written: the disk is full, the folder is read-only, a quota or a size limit is reached.

    Existing files do not change. The message gives the path, the needed and the free space if known, and a remedy. The
    command line ends with exit code 1, because the command was correct.
    """


class DamagedFileError(InputError):
    """A file of this package cannot be read: it is truncated, changed, or of another type.

    The message gives the file, the problem, and how to create the file again.
    """


class ProcessLostError(InputError):
    """A worker process was lost: it was killed, ran out of shared memory, or could not start.

    Saved data stays. The message gives a remedy. The command line ends with exit code 1.
    """


class OutOfMemoryError(InputError):
    """There is not enough memory for a batch. The message gives the option, and a value that would fit.

    The command line ends with exit code 1, because the command may work on another machine.
    """


class BadImageError(InputError):
    """An image cannot be decoded. It is skipped and listed, and does not end a run.

    Args:
        image_id: The image's stable id in its source.
        reason: The reason in a few words ("truncated", "zero bytes", "not an image", …).

    Examples:
        >>> from pathlib import Path
        >>> Path("images/star/empty.jpg").touch()
        >>> source = sdclr.open_source("images")
        >>> source.image(source.ids.index("star/empty.jpg"))
        Traceback (most recent call last):
            ...
        sdclr.errors.BadImageError: star/empty.jpg: zero bytes
    """

    def __init__(self, image_id: str, reason: str) -> None:
        super().__init__(f"{image_id}: {reason}")
        self.image_id = image_id
        self.reason = reason

    def __reduce__(self) -> tuple[type["BadImageError"], tuple[str, str]]:
        return type(self), (self.image_id, self.reason)


def not_a_text(values: object, name: str, what: str) -> None:
    """Raise an error for one text or path in place of a list, whose characters would be taken as its members.

    Args:
        values: The argument.
        name: Its name.
        what: Its members, for the error: "ids".

    Raises:
        InputError: The argument is a text or a path.
    """
    if isinstance(values, str | os.PathLike):
        raise InputError(f"{name} is the text {str(values)!r}: give a list of {what}")
