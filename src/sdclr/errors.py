"""The errors a user can mend. They carry one line that names the file or value, and the mend."""

from collections.abc import Sequence


class InputError(Exception):
    """Something given to `sdclr` (a path, an option, a data set) cannot be used as it is.

    The message is one line: what is wrong, with the offending value, and how to mend it. The command line prints it
    without a traceback.
    """


class SettingError(InputError):
    """One or several settings cannot be used as they are.

    Args:
        message: What is wrong, with names and values of the settings.
        keys: Their names in full, each as the keys that lead to it: `(("optim", "lr"),)`.
    """

    def __init__(self, message: str, keys: Sequence[tuple[str, ...]] = ()) -> None:
        super().__init__(message)
        self.keys = tuple(keys)


class BadImageError(InputError):
    """One image cannot be decoded. It is skipped and listed; it never ends a run.

    Args:
        image_id: The image's stable id in its source.
        reason: Why, in a few words ("truncated", "zero bytes", "not an image", …).
    """

    def __init__(self, image_id: str, reason: str) -> None:
        super().__init__(f"{image_id}: {reason}")
        self.image_id = image_id
        self.reason = reason

    def __reduce__(self) -> tuple[type["BadImageError"], tuple[str, str]]:
        return type(self), (self.image_id, self.reason)
