"""What rebalancers change in a run: what is drawn, how it is changed, and that a run goes on as if never stopped."""

import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sdclr.data.sources import ArraySource, SubsetSource
from sdclr.errors import InputError
from sdclr.method.rebalancing import (
    CurationConfig,
    DensityConfig,
    HarmonizationConfig,
    Rebalancer,
    TemperatureConfig,
)
from sdclr.training.config import DamageConfig, RebalancerName
from sdclr.training.interrupts import Interrupted
from sdclr.training.pretrain import Trainer
from sdclr.training.run import Run

Train = Callable[..., Run]

EARLY = {
    "curation": CurationConfig(every=2, start=0.25, share=0.3),
    "density": DensityConfig(every=2, start=0.25, neighbors=3, effective=0.4),
    "harmonization": HarmonizationConfig(clusters=5, warmup=0.25, iterations=20),
    "temperature_schedule": TemperatureConfig(periods=1.0),
}
ALONE: tuple[tuple[RebalancerName, ...], ...] = (
    ("density",),
    ("temperature",),
    ("memorization",),
    ("harmonization",),
    ("individual_temperature",),
    ("curation",),
    ("koleo",),
    ("density", "temperature", "memorization", "harmonization", "focal", "curation", "koleo"),
)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The samples of each step."""
    steps: list[list[int]] = []
    take_step = Trainer._take_step

    def noted(self: Trainer, batch: Any) -> None:
        steps.append(batch.indices.tolist())
        take_step(self, batch)

    monkeypatch.setattr(Trainer, "_take_step", noted)
    return steps


def stopped_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    take_step = Trainer._take_step

    def stepped(self: Trainer, batch: Any) -> None:
        take_step(self, batch)
        if self.step == step:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Trainer, "_take_step", stepped)


@pytest.mark.parametrize("names", ALONE, ids="+".join)
@pytest.mark.parametrize("step", [5, 6])  # in the middle of an epoch, and between two
def test_it_goes_on_as_if_never_stopped(
    train: Train, monkeypatch: pytest.MonkeyPatch, names: tuple[RebalancerName, ...], step: int
) -> None:
    changes = EARLY | {"rebalance": names, "damage": DamageConfig(ratio=0.3)}
    whole = train(changes=changes)
    with monkeypatch.context() as patch:
        stopped_after(step, patch)
        with pytest.raises(Interrupted):
            train(folder="cut", changes=changes)
    resumed = train(folder="cut", changes=changes)
    assert (resumed.path / "encoder.safetensors").read_bytes() == (whole.path / "encoder.safetensors").read_bytes()


@pytest.mark.parametrize("names", ALONE, ids="+".join)
def test_each_changes_the_run(train: Train, finished: Run, names: tuple[RebalancerName, ...]) -> None:
    run = train(changes=EARLY | {"rebalance": names})
    assert (run.path / "encoder.safetensors").read_bytes() != (finished.path / "encoder.safetensors").read_bytes()
    assert not any(name.startswith("rebalancers") for name in run.objective().state_dict())


@pytest.mark.parametrize("name", ["density", "curation"])
def test_some_are_drawn_more_often(train: Train, drawn: list[list[int]], large_images: ArraySource, name: str) -> None:
    train(large_images, changes=EARLY | {"rebalance": (name,)})
    steps = len(drawn) // 4
    first, later = drawn[:steps], drawn[-steps:]
    assert max(np.bincount(np.concatenate(first))) == 1
    assert max(np.bincount(np.concatenate(later))) > 1


def test_weights_of_ones_own_say_how_often_an_image_comes(
    train: Train, drawn: list[list[int]], few_digits: SubsetSource
) -> None:
    weights = np.ones(len(few_digits))
    weights[7], weights[8] = 5.0, 0.0
    train(weights=weights)
    counts = np.bincount(np.concatenate(drawn), minlength=len(few_digits))
    assert counts[8] == 0
    assert counts[7] >= 4 * 4  # about five in each of four epochs, but for those in what is left over
    with pytest.raises(InputError, match="other sampling weights"):
        train()


@pytest.mark.parametrize(
    ("weights", "message"),
    [(np.ones(3), r"shape \(3,\) for 50 images"), (np.full(50, np.nan), "finite"), (np.zeros(50), "not all zero")],
)
def test_weights_that_make_no_sense_are_refused(train: Train, weights: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        train(weights=weights)


def test_strength_changes_the_views_of_those_samples_alone(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    changed: list[tuple[int, bool]] = []

    class Strong(Rebalancer):
        @property
        def strength(self) -> Tensor:
            return (torch.arange(50) < 25).float()

    take_step, made = Trainer._take_step, []

    def noted(self: Trainer, batch: Any) -> None:
        for before, after in zip((batch.view1, batch.view2), self.guidance.views(batch), strict=True):
            differs = (before != after).flatten(1).any(1).tolist()
            changed.extend(zip(batch.indices.tolist(), differs, strict=True))
        take_step(self, batch)

    monkeypatch.setattr(Trainer, "_take_step", noted)
    monkeypatch.setattr("sdclr.training.pretrain.create_rebalancers", lambda *_: made or [Strong()])
    train(changes={"epochs": 2})
    assert not any(differs for sample, differs in changed if sample >= 25)
    strong = [differs for sample, differs in changed if sample < 25]
    assert sum(strong) > 0.8 * len(strong)  # an operation may leave a view as it is


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"framework": "vicreg", "rebalance": ("memorization",)}, "has no loss per image"),
        ({"framework": "byol", "rebalance": ("temperature",)}, "is not contrastive"),
        ({"framework": "moco", "rebalance": ("individual_temperature",)}, "use it with --framework simclr"),
        ({"rebalance": ("individual_temperature", "focal")}, "which focal would change"),
        ({"rebalance": ("density", "density")}, "names one twice"),
    ],
)
def test_what_does_not_go_together_is_refused(train: Train, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        train(changes=changes)
