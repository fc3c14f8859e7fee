"""The rebalancers of a run, from its configuration."""

from collections.abc import Callable

from sdclr.errors import InputError
from sdclr.method.rebalancing import (
    Density,
    Harmonization,
    IndividualTemperature,
    Memorization,
    Rebalancer,
    TemperatureSchedule,
)
from sdclr.training.config import PretrainConfig, RebalancerName


def create_rebalancers(config: PretrainConfig, samples: int) -> list[Rebalancer]:
    """What is added to the framework, in the order in which it sees the losses.

    Args:
        config: Names them.
        samples: Images in the set.

    Raises:
        InputError: If a number in their configuration makes no sense.
    """
    makers: dict[RebalancerName, Callable[[], Rebalancer]] = {
        "individual_temperature": lambda: IndividualTemperature(samples, config=config.individual_temperature),
        "temperature": lambda: TemperatureSchedule(config.epochs, config=config.temperature_schedule),
        "memorization": lambda: Memorization(samples, config=config.memorization),
        "density": lambda: Density(samples, epochs=config.epochs, config=config.density),
        "harmonization": lambda: Harmonization(
            samples, dim=config.head.dim, epochs=config.epochs, config=config.harmonization
        ),
    }
    try:
        return [make() for name, make in makers.items() if name in config.rebalance]
    except ValueError as error:
        raise InputError(f"--rebalance {' '.join(config.rebalance)}: {error}") from error
