"""The masks of the twin over a run."""

from sdclr.encoders.digest import tensors_digest
from sdclr.method import AdaptiveRatio, Objective
from sdclr.training.config import DamageConfig
from sdclr.training.distributed import Processes


def refresh_masks(objective: Objective, damage: DamageConfig, place: Processes) -> None:
    """Choose the twin's masks from the current weights, at the current ratio. All processes call this together.

    Args:
        objective: Without a competitor nothing is done. An adaptive ratio needs an `AdaptiveRatio`.
        damage: Configuration of the competitor.
        place: The rank of this process.

    Raises:
        InputError: Two processes chose different masks.
    """
    competitor = objective.competitor
    if competitor is None:
        return
    if damage.ratio == "adaptive":
        competitor.ratio = next(each.ratio for each in objective.rebalancers if isinstance(each, AdaptiveRatio))
    competitor.refresh()
    if place.world > 1:  # gradients of differently pruned twins must not be averaged
        place.check_alike(tensors_digest(competitor.masks), f"the masks at ratio {competitor.ratio:g}")
