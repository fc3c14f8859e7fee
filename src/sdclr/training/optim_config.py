"""Settings of the optimizer and its schedule. Imports no torch."""

from dataclasses import dataclass
from typing import Final, Literal

from sdclr.config import check_numbers
from sdclr.errors import InputError

LONGEST_WARMUP: Final = 10.0
"""Longest automatic warm-up in epochs, as in the paper."""
WARMUP_SHARE: Final = 0.1
"""Largest share of the run for an automatic warm-up."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The optimizer and its schedule: linear warm-up, then a cosine, set at every step.

    Example:
        >>> optim = sdclr.OptimConfig(name="adamw", lr=0.001)
        >>> optim.weight_decay
        0.0001
    """

    name: Literal["sgd", "lars", "adamw"] = "sgd"
    """SGD as in the paper; LARS for batches of thousands; AdamW for transformers."""
    lr: float = 0.5
    """Peak learning rate, not scaled by the batch size."""
    momentum: float = 0.9
    """Momentum of SGD and LARS; the first beta of AdamW."""
    weight_decay: float = 1e-4
    """Weight decay: of every parameter with SGD, as in the paper; not of biases and normalization with the others."""
    warmup_epochs: float | None = None
    """Epochs of linear warm-up, fractions included, at most the whole run. By default a tenth of the run, 10 epochs at
    most."""
    final_lr: float = 1e-6
    """Learning rate at the end of the cosine."""
    joint: float | None = None
    """Share of the run at which a second cosine begins, where the first has reached joint_lr: the published schedule of
    geometric harmonization (0.5, from 0.5 to 0.3), also for its control. By default there is one cosine."""
    joint_lr: float = 0.3
    """Learning rate at the joint."""
    layer_decay: float = 1.0
    """Learning rate of a block of the encoder as a share of that of the next deeper block, so that early layers of a
    trained encoder change least; 1 gives all the same rate. The deepest block and the head have the full rate."""

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise InputError(f"the learning rate must be positive, not {self.lr}")
        if not 0 <= self.final_lr <= self.lr:
            raise InputError(f"the final learning rate must lie between 0 and the peak {self.lr}, not {self.final_lr}")
        if self.joint is not None and not (0 < self.joint < 1 and self.final_lr <= self.joint_lr <= self.lr):
            raise InputError(
                f"two cosines join within the run, at a rate between the final one and the peak, not at a share of "
                f"{self.joint} and a rate of {self.joint_lr}"
            )
        if not 0 < self.layer_decay <= 1:
            raise InputError(
                f"the layer decay must be in (0, 1], not {self.layer_decay}: 0.75 is usual, 1 turns it off"
            )
        check_numbers(self, joint_lr=0)
        if (self.warmup_epochs or 0) < 0 or self.weight_decay < 0 or not 0 <= self.momentum < 1:
            raise InputError("warm-up and weight decay cannot be negative, and momentum lies in [0, 1)")

    def warmup(self, epochs: float) -> float:
        """Epochs of warm-up in a run of a given length.

        Example:
            >>> sdclr.OptimConfig().warmup(2000), sdclr.OptimConfig().warmup(5)
            (10.0, 0.5)
            >>> sdclr.OptimConfig(warmup_epochs=2).warmup(5)
            2
        """
        return min(LONGEST_WARMUP, WARMUP_SHARE * epochs) if self.warmup_epochs is None else self.warmup_epochs
