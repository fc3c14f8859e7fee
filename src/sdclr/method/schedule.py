"""How the pruning ratio changes over a run. Imports no torch."""

import math
from typing import Literal

Schedule = Literal["constant", "ramp", "cyclic"]


def scheduled_ratio(ratio: float, progress: float, schedule: Schedule = "constant", *, cycles: float = 5.0) -> float:
    """The pruning ratio at a point of the run.

    Args:
        ratio: The largest of the run.
        progress: Share of the run that is over, in [0, 1].
        schedule: `"constant"`; `"ramp"`, from 0 evenly up to `ratio`; or `"cyclic"`, from 0 to `ratio` and back along a
            cosine, several times.
        cycles: How often.
    """
    if schedule == "ramp":
        return ratio * progress
    if schedule == "cyclic":
        return ratio * (1 - math.cos(2 * math.pi * cycles * progress)) / 2
    return ratio
