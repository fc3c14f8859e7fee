"""Label-free rebalancers: what is added to a framework to serve rare images better."""

from sdclr.method.rebalancing.density import Density, DensityConfig
from sdclr.method.rebalancing.harmonization import Harmonization, HarmonizationConfig
from sdclr.method.rebalancing.individual_temperature import IndividualTemperature, IndividualTemperatureConfig
from sdclr.method.rebalancing.memorization import Memorization, MemorizationConfig
from sdclr.method.rebalancing.rebalancer import Outputs, Rebalancer
from sdclr.method.rebalancing.temperature import TemperatureConfig, TemperatureSchedule

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
