"""What the arms mean that damage differently."""

import importlib

import pytest

from sdclr.data.sources import digits
from sdclr.training.config import DamageConfig


@pytest.fixture
def adaptive():
    return importlib.import_module("adaptive")


@pytest.mark.parametrize(
    ("arm", "expected"),
    [
        ("simclr", DamageConfig(kind="none")),
        ("simclr-again", DamageConfig(kind="none")),
        ("simclr-held", DamageConfig(kind="none")),
        ("0", DamageConfig(ratio=0.0)),
        ("0.5", DamageConfig(ratio=0.5)),
        ("0.5-statistics", DamageConfig(ratio=0.5, independent_norm="statistics")),
        ("adaptive", DamageConfig(ratio="adaptive", independent_norm="statistics")),
        ("adaptive-own", DamageConfig(ratio="adaptive")),
    ],
)
def test_an_arm_is_what_its_name_says(adaptive, arm, expected):
    assert adaptive.damage(arm) == expected


def test_a_tenth_is_held_out_as_a_control(adaptive):
    source = digits()
    weights = adaptive.weigh("simclr-held", source)
    assert sorted(set(weights)) == [0, 1]
    assert (weights == 0).sum() == len(source) // 10
    assert adaptive.weigh("simclr", source) is None
