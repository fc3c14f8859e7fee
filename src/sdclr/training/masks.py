"""The competitor's masks in the course of a run: how much is pruned is settled before it is decided what."""

from torch import Tensor

from sdclr.method import SelfCompetitor, find_ratio, scheduled_ratio
from sdclr.training.config import DamageConfig


def refresh_masks(competitor: SelfCompetitor, damage: DamageConfig, images: Tensor, progress: float) -> None:
    """Choose the masks anew, at the ratio that is due. All processes call this together.

    Args:
        competitor: The pruned twin.
        damage: Its configuration.
        images: `(N, 3, H, W)`, views that this process is about to train on: what an adaptive ratio is found with.
        progress: Share of the run's steps that are taken, in [0, 1).
    """
    if damage.ratio == "adaptive":
        competitor.ratio = find_ratio(competitor, images, damage.forgetting, highest=damage.highest)
    elif damage.changes:
        competitor.ratio = scheduled_ratio(damage.ratio, progress, damage.schedule, cycles=damage.cycles)
    competitor.refresh()
