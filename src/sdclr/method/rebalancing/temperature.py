"""A temperature that oscillates over the run (Kukleva et al., *Temperature Schedules for …*, ICLR 2023)."""

import math

from sdclr.method.rebalancing.config import TemperatureConfig
from sdclr.method.rebalancing.rebalancer import Rebalancer


class TemperatureSchedule(Rebalancer):
    """`τ(e) = low + (high - low) (1 + cos(2πe/T)) / 2` in epoch e, with period T.

    Args:
        epochs: Epochs of the run.
        config: Bounds and periods.
    """

    def __init__(self, epochs: int, *, config: TemperatureConfig | None = None) -> None:
        super().__init__()
        self.config = config or TemperatureConfig()
        self.period = epochs / self.config.periods
        self.epoch = 0

    def enter_epoch(self, epoch: int) -> None:
        """Remember the epoch."""
        self.epoch = epoch

    @property
    def temperature(self) -> float:
        """The temperature in the current epoch."""
        low, high = self.config.low, self.config.high
        return low + (high - low) * (1 + math.cos(2 * math.pi * self.epoch / self.period)) / 2
