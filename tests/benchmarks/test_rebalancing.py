"""What the arms mean that rebalance."""

import importlib

import numpy as np
import pytest

from sdclr.data.sources import SubsetSource, digits
from sdclr.method.rebalancing import CurationConfig, DensityConfig
from sdclr.recipes import digits_demo
from sdclr.training.config import DamageConfig


@pytest.fixture
def rebalancing():
    return importlib.import_module("rebalancing")


@pytest.mark.parametrize(
    ("arm", "expected"),
    [
        ("density-0.5", DensityConfig(effective=0.5)),
        ("shuffled-0.2", DensityConfig(effective=0.2, control="shuffled")),
        ("clusters-0.2", DensityConfig(effective=0.2, control="clusters")),
    ],
)
def test_an_arm_of_density_is_what_its_name_says(rebalancing, arm, expected):
    for prefix, damage in (("", DamageConfig(kind="none")), ("sdclr-", DamageConfig(ratio=0.5))):
        config = rebalancing.configure(digits_demo(), prefix + arm)
        assert (config.rebalance, config.density, config.damage) == (("density",), expected, damage)


@pytest.mark.parametrize(
    ("arm", "expected"),
    [
        ("curation-0.1", CurationConfig(share=0.1)),
        ("curation-flat-0.2", CurationConfig(share=0.2, levels=1)),
        ("curation-shuffled-0.2", CurationConfig(share=0.2, control="shuffled")),
    ],
)
def test_an_arm_of_curation_is_what_its_name_says(rebalancing, arm, expected):
    config = rebalancing.configure(digits_demo(), arm)
    assert (config.rebalance, config.curation, config.damage.kind) == (("curation",), expected, "none")


def test_every_arm_is_a_configuration_of_its_own(rebalancing):
    made = {arm: rebalancing.configure(digits_demo(), arm) for arm in rebalancing.ARMS}
    alike = {"simclr", "simclr-again", "oracle"}  # they differ in their seed and in what weighs the images
    assert len({repr(made[arm]) for arm in alike}) == 1
    assert len({repr(config) for config in made.values()}) == len(made) - 2
    assert made["joint"].optim.joint == 0.5
    assert made["memorization-constant"].memorization.constant == 0.5


def test_the_oracle_draws_classes_alike(rebalancing):
    source = SubsetSource(digits(), np.arange(30), name="few")
    weights, labels = rebalancing.weigh("oracle", source), np.asarray(source.labels)
    totals = [weights[labels == label].sum() for label in np.unique(labels)]
    assert np.allclose(totals, totals[0])
    assert rebalancing.weigh("density-0.3", source) is None
