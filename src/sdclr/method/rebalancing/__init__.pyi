from .config import (
    CurationConfig,
    DensityConfig,
    HarmonizationConfig,
    IndividualTemperatureConfig,
    KoLeoConfig,
    MemorizationConfig,
    OutsideConfig,
    TemperatureConfig,
)
from .curation import Curation, curated_weights
from .density import Density
from .harmonization import Harmonization
from .individual_temperature import IndividualTemperature
from .koleo import KoLeo
from .memorization import Memorization
from .outside import Outside
from .rebalancer import Outputs, Rebalancer
from .temperature import TemperatureSchedule
from .weights import SampleWeights

__all__ = [
    "Curation",
    "CurationConfig",
    "Density",
    "DensityConfig",
    "Harmonization",
    "HarmonizationConfig",
    "IndividualTemperature",
    "IndividualTemperatureConfig",
    "KoLeo",
    "KoLeoConfig",
    "Memorization",
    "MemorizationConfig",
    "Outputs",
    "Outside",
    "OutsideConfig",
    "Rebalancer",
    "SampleWeights",
    "TemperatureConfig",
    "TemperatureSchedule",
    "curated_weights",
]
