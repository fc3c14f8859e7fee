"""Time budget of a whole command in minutes, and the time left. Imports no torch."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sdclr.errors import InputError

_AFTERWARDS: Final = 0.05
_AFTERWARDS_SECONDS: Final = (6.0, 120.0)
"""Share of the budget for encoder and report, with minimum and maximum in seconds."""
_CAUTION: Final = 0.97
"""Share of the remaining time that is planned, because the speed varies."""


def check_budget(minutes: float) -> None:
    """Check a number of minutes.

    Raises:
        InputError: If it is not positive.
    """
    if not 0 < minutes < math.inf:
        raise InputError(f"the budget must be more than 0 minutes, not {minutes:g}: give 30, for example")


@dataclass(frozen=True)
class Budget:
    """A number of minutes with a start time.

    Args:
        minutes: Wall time in minutes.
        clock: Clock in seconds.
        began: Start time by the clock; by default now.

    Raises:
        InputError: If the number of minutes is not positive.
    """

    minutes: float
    clock: Callable[[], float] = time.monotonic
    began: float | None = None

    def __post_init__(self) -> None:
        check_budget(self.minutes)
        if self.began is None:
            object.__setattr__(self, "began", self.clock())

    @property
    def seconds(self) -> float:
        """The whole budget in seconds."""
        return 60 * self.minutes

    @property
    def used(self) -> float:
        """Elapsed time in seconds."""
        return self.clock() - (self.began or 0.0)

    @classmethod
    def of(cls, minutes: "float | Budget | None") -> "Budget | None":
        """A budget from a number of minutes, starting now. A budget or None is returned unchanged."""
        return cls(minutes) if isinstance(minutes, int | float) else minutes

    @property
    def left(self) -> float:
        """Seconds left for training, without the time for encoder and report."""
        least, most = _AFTERWARDS_SECONDS
        afterwards = min(most, max(least, _AFTERWARDS * self.seconds))
        return _CAUTION * (self.seconds - self.used - afterwards)
