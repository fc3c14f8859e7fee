"""The spread of outputs, and the warning when a network gives the same for every image."""

import json
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn

from sdclr.training.collapse import CollapseWatch, spread
from sdclr.training.run import Run


def test_the_spread_is_its_formula() -> None:
    z = torch.randn(20, 5, dtype=torch.float64)
    directions = torch.stack([row / row.norm() for row in z])
    deviations = [float((column - column.mean()).square().mean().sqrt()) for column in directions.T]
    assert spread(z) == pytest.approx(5**0.5 * sum(deviations) / 5, rel=1e-5)


def test_random_directions_have_a_spread_of_about_one() -> None:
    assert spread(torch.randn(4096, 128)) == pytest.approx(1, abs=0.02)
    assert spread(torch.ones(10, 4)) == pytest.approx(0, abs=1e-6)


def test_a_collapse_is_told_once() -> None:
    network = nn.Linear(3, 4)
    watch = CollapseWatch(network)
    assert watch.spread() is None
    nn.init.zeros_(network.weight)
    network(torch.randn(8, 3))
    with pytest.warns(UserWarning, match="collapsed"):
        assert watch.spread() == pytest.approx(0, abs=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watch.spread()
    watch.close()
    assert not network._forward_hooks


def test_a_healthy_run_logs_its_spread_without_a_warning(train: Callable[..., Run]) -> None:
    run = train()
    rows = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
    assert all(0.1 < row["feature_std"] < 1.5 for row in rows)


def test_a_run_that_collapses_is_told(train: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdclr.training.collapse.COLLAPSED", 10.0)
    with pytest.warns(UserWarning, match="collapsed"):
        train(folder="collapsed")
