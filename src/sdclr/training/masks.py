"""The competitor's masks in the course of a run: how much is pruned is settled before it is decided what."""

from sdclr.method import AdaptiveRatio, Objective, scheduled_ratio
from sdclr.training.config import DamageConfig


def refresh_masks(objective: Objective, damage: DamageConfig, progress: float) -> None:
    """Choose the competitor's masks anew, at the ratio that is due.

    Args:
        objective: With a competitor; and with an `AdaptiveRatio` if the ratio is adaptive.
        damage: Its configuration.
        progress: Share of the run's steps that are taken, in [0, 1).
    """
    competitor = objective.competitor
    if competitor is None:
        return
    if damage.ratio != "adaptive":
        if damage.changes:
            competitor.ratio = scheduled_ratio(damage.ratio, progress, damage.schedule, cycles=damage.cycles)
    else:
        competitor.ratio = next(each.ratio for each in objective.rebalancers if isinstance(each, AdaptiveRatio))
    competitor.refresh()
