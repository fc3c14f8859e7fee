"""Packages that load their names when they are asked for."""

import pickle
from importlib import import_module

import pytest

import sdclr

LAZY = ["sdclr", "sdclr.encoders", "sdclr.method", "sdclr.method.frameworks", "sdclr.method.rebalancing"]


@pytest.mark.parametrize("name", LAZY)
def test_every_name_is_there_and_listed(name):
    package = import_module(name)
    assert set(package.__all__) <= set(dir(package))
    for exported in package.__all__:
        found = getattr(package, exported)
        where = getattr(found, "__module__", None)
        assert where is None or not where.startswith("sdclr.") or where.startswith(("sdclr", name))
        assert found is getattr(package, exported)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = package.no_such_name


def test_names_are_those_of_their_modules():
    from sdclr import PretrainConfig, mine
    from sdclr.mining.mine import mine as original
    from sdclr.training.config import PretrainConfig as Original

    assert mine is original is sdclr.mine
    assert PretrainConfig is Original


def test_what_was_loaded_lazily_can_be_pickled():
    config = sdclr.PretrainConfig(epochs=20)
    assert pickle.loads(pickle.dumps(config)) == config  # noqa: S301  # our own
    for thing in (sdclr.mine, sdclr.Encoder, sdclr.SelfCompetitor, sdclr.InputError):
        assert pickle.loads(pickle.dumps(thing)) is thing  # noqa: S301  # our own
