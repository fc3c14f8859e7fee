from .config import (
    DensityConfig,
    HarmonizationConfig,
    IndividualTemperatureConfig,
    MemorizationConfig,
    TemperatureConfig,
)
from .density import Density
from .harmonization import Harmonization
from .individual_temperature import IndividualTemperature
from .memorization import Memorization
from .rebalancer import Outputs, Rebalancer
from .temperature import TemperatureSchedule

__all__ = [
    "Density",
    "DensityConfig",
    "Harmonization",
    "HarmonizationConfig",
    "IndividualTemperature",
    "IndividualTemperatureConfig",
    "Memorization",
    "MemorizationConfig",
    "Outputs",
    "Rebalancer",
    "TemperatureConfig",
    "TemperatureSchedule",
]
