"""Values of the options of the research commands."""

from typing import Literal

Ratio = float | Literal["adaptive"]


SortKey = Literal[
    "linear.all",
    "linear.many",
    "linear.medium",
    "linear.few",
    "linear.std",
    "few_shot.all",
    "few_shot.many",
    "few_shot.medium",
    "few_shot.few",
    "few_shot.std",
    "knn.all",
    "seconds",
]
"""Sort keys of a leaderboard: a probe and a measure, or the training time."""
