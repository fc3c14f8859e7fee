"""The rebalancers of a run, from its configuration."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from sdclr.errors import InputError
from sdclr.method import AdaptiveRatio
from sdclr.method.rebalancing import (
    Curation,
    Density,
    Harmonization,
    IndividualTemperature,
    KoLeo,
    Memorization,
    Outside,
    Rebalancer,
    TemperatureSchedule,
)
from sdclr.training.config import PretrainConfig, RebalancerName


def create_rebalancers(
    config: PretrainConfig, samples: int, outside: NDArray[np.bool_] | None = None
) -> list[Rebalancer]:
    """The rebalancers, in the order in which they get the losses, and the adaptive ratio if there is one.

    Args:
        config: Settings of the run.
        samples: Number of images.
        outside: `(samples,)` whether an image is an outside image; None if there are none.

    Raises:
        InputError: If a number in their configuration is invalid.
    """
    of_outside = torch.zeros(samples, dtype=torch.bool) if outside is None else torch.from_numpy(outside)
    makers: dict[RebalancerName, Callable[[], Rebalancer]] = {
        "individual_temperature": lambda: IndividualTemperature(samples, config=config.individual_temperature),
        "temperature": lambda: TemperatureSchedule(config.epochs, config=config.temperature_schedule),
        "memorization": lambda: Memorization(samples, config=config.memorization),
        "density": lambda: Density(samples, epochs=config.epochs, config=config.density),
        "curation": lambda: Curation(samples, epochs=config.epochs, config=config.curation),
        "harmonization": lambda: Harmonization(
            samples, dim=config.head.dim, epochs=config.epochs, config=config.harmonization
        ),
        "koleo": lambda: KoLeo(config=config.koleo),
        "outside": lambda: Outside(
            of_outside, epochs=config.epochs, temperature=config.temperature, config=config.outside
        ),
    }
    damage = config.damage
    try:
        chosen = [make() for name, make in makers.items() if name in config.rebalance]
        if damage.prunes and damage.ratio == "adaptive":
            own = samples - int(of_outside.sum())
            chosen.append(AdaptiveRatio(samples, gain=damage.gain, highest=damage.highest, seed=config.seed, own=own))
    except ValueError as error:
        raise InputError(str(error)) from error
    return chosen
