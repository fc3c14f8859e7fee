"""The errors a user can mend. They carry one line that names the file or value, and the mend."""

from collections.abc import Sequence
from typing import Final

from sdclr.visible import one_line

_LONGEST: Final = 2_000
"""Characters of a message. What is cut stands in its middle, so that the remedy stays."""


class InputError(Exception):
    """Something given to `sdclr` (a path, an option, a data set) cannot be used as it is.

    The message is one line: what is wrong, with the offending value, and how to mend it. The command line prints it
    without a traceback. Letters of names and values that would break or turn the line, or command a terminal, are
    written as their codes. The middle of a very long message is left out.

    Example:
        >>> sdclr.open_source("no_such_folder")
        Traceback (most recent call last):
            ...
        sdclr.errors.InputError: no_such_folder: ...
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(one_line(message, _LONGEST))


class SettingError(InputError):
    """One or several settings cannot be used as they are.

    Args:
        message: What is wrong, with names and values of the settings.
        keys: Their names in full, each as the keys that lead to it: `(("optim", "lr"),)`.
    """

    def __init__(self, message: str, keys: Sequence[tuple[str, ...]] = ()) -> None:
        super().__init__(message)
        self.keys = tuple(keys)


class StorageError(InputError):
    """A file cannot be written: the disk is full, the folder is read-only, a quota or a size limit is reached.

    What was there before is intact. The message names the path, the space that is needed and the space that is free
    where they are known, and what to do. The command line ends with exit code 1, because the command was right.
    """


class DamagedFileError(InputError):
    """A file that this package wrote cannot be read: it is cut short, changed, or of another kind.

    The message names the file, what is wrong with it, and how to make it again.
    """


class ProcessLostError(InputError):
    """A process that works for this one was lost: it was killed, ran out of shared memory, or could not start.

    What is saved stays. The message names the remedy. The command line ends with exit code 1.
    """


class OutOfMemoryError(InputError):
    """There is not enough memory for a batch. The message names the option, and a value that would fit.

    The command line ends with exit code 1, because another machine could do it.
    """


class BadImageError(InputError):
    """One image cannot be decoded. It is skipped and listed; it never ends a run.

    Args:
        image_id: The image's stable id in its source.
        reason: Why, in a few words ("truncated", "zero bytes", "not an image", …).

    Example:
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
