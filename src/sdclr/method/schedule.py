"""The schedule of the pruning ratio. Imports no torch."""

import math
from typing import Literal

Schedule = Literal["constant", "ramp", "cyclic"]


def scheduled_ratio(ratio: float, progress: float, schedule: Schedule = "constant", *, cycles: float = 5.0) -> float:
    """The pruning ratio at a point of the run.

    Args:
        ratio: The largest ratio of the run.
        progress: Completed share of the run, in [0, 1].
        schedule: `"constant"`; `"ramp"`, linearly from 0 to `ratio`; or `"cyclic"`, from 0 to `ratio` and back along a
            cosine, several times.
        cycles: Number of cycles.
    """
    if schedule == "ramp":
        return ratio * progress
    if schedule == "cyclic":
        return ratio * (1 - math.cos(2 * math.pi * cycles * progress)) / 2
    return ratio
