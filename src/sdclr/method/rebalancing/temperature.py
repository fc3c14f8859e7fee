"""A temperature that swings over the run (Kukleva et al., *Temperature Schedules for …*, ICLR 2023)."""

import math
from dataclasses import dataclass

from sdclr.method.rebalancing.rebalancer import Rebalancer


@dataclass(frozen=True, kw_only=True)
class TemperatureConfig:
    """A temperature that swings between telling groups apart (high) and telling images apart (low)."""

    low: float = 0.1
    """Lowest temperature."""
    high: float = 1.0
    """Highest temperature, which a run starts with."""
    periods: float = 5.0
    """Swings in a run: the paper's period is 400 of 2000 epochs."""

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high:
            raise ValueError(f"a temperature swings between 0 < low <= high, not {self.low} and {self.high}")
        if not self.periods > 0:
            raise ValueError(f"a run has more than 0 periods of the temperature, not {self.periods}")


class TemperatureSchedule(Rebalancer):
    """`τ(e) = low + (high - low) (1 + cos(2πe/T)) / 2` over epochs e with T the length of a period.

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
        """Of the epoch entered."""
        low, high = self.config.low, self.config.high
        return low + (high - low) * (1 + math.cos(2 * math.pi * self.epoch / self.period)) / 2
