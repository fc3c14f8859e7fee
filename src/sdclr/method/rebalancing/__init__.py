"""Label-free rebalancers: what is added to a framework to serve rare images better."""

from sdclr.method.rebalancing.rebalancer import Outputs, Rebalancer
from sdclr.method.rebalancing.temperature import TemperatureConfig, TemperatureSchedule

__all__ = ["Outputs", "Rebalancer", "TemperatureConfig", "TemperatureSchedule"]
