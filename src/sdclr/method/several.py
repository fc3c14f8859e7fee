"""Several competitors at once, lightly and heavily pruned."""

from typing import Any

import torch
from torch import nn

from sdclr.method.competitor import Criterion, IndependentNorm, Prunable, SelfCompetitor
from sdclr.method.pruning import magnitude_masks


class SelfCompetitors(SelfCompetitor):
    """Pruned twins of one network at several ratios, which share the images of a batch.

    In training mode each twin runs an equal part of the batch, so that several cost no more than one; a sample meets
    another twin whenever it stands elsewhere in the order. Masks, normalisation and eval mode are those of the first:
    to everything else this is that one competitor.

    Args:
        network: As for `SelfCompetitor`.
        ratios: Shares to remove, one a twin; the first is that of evaluations.
        prunable: As for `SelfCompetitor`.
        independent_norm: As for `SelfCompetitor`: every twin has its own.
        criterion: As for `SelfCompetitor`.

    Raises:
        ValueError: If no ratio is given, or one is outside [0, 1).
    """

    def __init__(
        self,
        network: nn.Module,
        ratios: tuple[float, ...] = (0.3, 0.6, 0.9),
        *,
        prunable: Prunable | None = None,
        independent_norm: IndependentNorm = True,
        criterion: Criterion = magnitude_masks,
    ) -> None:
        if not ratios:
            raise ValueError("several competitors need at least one ratio")
        how: dict[str, Any] = {"prunable": prunable, "independent_norm": independent_norm, "criterion": criterion}
        super().__init__(network, ratios[0], **how)
        self.others = nn.ModuleList([SelfCompetitor(network, ratio, **how) for ratio in ratios[1:]])

    def refresh(self) -> None:
        """Choose the masks of every twin anew."""
        super().refresh()
        for other in getattr(self, "others", ()):  # the first is made before there are others
            other.refresh()

    def forward(self, images: torch.Tensor) -> Any:
        """Outputs `(N, D)` for images `(N, …)`: in training mode an equal part of them by each twin."""
        if not self.training:
            return super().forward(images)
        first, *rest = images.tensor_split(1 + len(self.others))
        return torch.cat([super().forward(first), *(twin(part) for twin, part in zip(self.others, rest, strict=True))])
