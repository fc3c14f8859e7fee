"""Ratios that change in the course of a run."""

import signal
from collections.abc import Callable
from typing import Any

import pytest

from sdclr.errors import InputError
from sdclr.method import SelfCompetitors, forgetting
from sdclr.training import masks
from sdclr.training.config import DamageConfig
from sdclr.training.interrupts import Interrupted
from sdclr.training.pretrain import Trainer
from sdclr.training.run import Run

Train = Callable[..., Run]


def pruned(run: Run) -> list[float]:
    """What was pruned in each epoch."""
    return list({row["epoch"]: row["pruned"] for row in run.metrics()}.values())


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (DamageConfig(ratio=0.8, schedule="ramp"), [0, 0.2, 0.4, 0.6]),
        (DamageConfig(ratio=0.8, schedule="cyclic", cycles=2), [0, 0.8, 0, 0.8]),
    ],
)
def test_a_schedule_is_kept_and_logged(train: Train, damage: DamageConfig, expected: list[float]) -> None:
    run = train(changes={"damage": damage})
    assert pruned(run) == pytest.approx(expected, abs=1e-4)  # whole weights
    assert run.pruned == pytest.approx(expected[-1], abs=1e-4)
    competitor = run.objective().competitor
    assert competitor is not None
    assert competitor.ratio == run.pruned


def test_an_adaptive_ratio_holds_the_forgetting(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[float] = []

    def noted(competitor: Any, damage: DamageConfig, images: Any, progress: float) -> None:
        masks.refresh_masks(competitor, damage, images, progress)
        held.append(float(forgetting(competitor, images).median()))

    monkeypatch.setattr("sdclr.training.pretrain.refresh_masks", noted)
    run = train(changes={"damage": DamageConfig(ratio="adaptive", forgetting=0.2)})
    assert len(held) == 4
    assert all(0.1 < value <= 0.2 for value in held)
    assert len(set(pruned(run))) > 1


def test_it_goes_on_at_the_ratio_of_its_epoch(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"damage": DamageConfig(ratio="adaptive", forgetting=0.2)}
    whole = train(changes=changes)
    take_step = Trainer._take_step

    def stepped(self: Trainer, batch: Any) -> None:
        take_step(self, batch)
        if self.step == 5:  # in the middle of the second epoch
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_take_step", stepped)
        with pytest.raises(Interrupted):
            train(folder="cut", changes=changes)
    resumed = train(folder="cut", changes=changes)
    assert pruned(resumed) == pruned(whole)
    assert (resumed.path / "encoder.safetensors").read_bytes() == (whole.path / "encoder.safetensors").read_bytes()


def test_several_competitors_train(train: Train) -> None:
    run = train(changes={"damage": DamageConfig(ratio=0.3, also=(0.6, 0.9))})
    competitor = run.objective().competitor
    assert isinstance(competitor, SelfCompetitors)
    assert [twin.removed() for twin in (competitor, *competitor.others)] == pytest.approx([0.3, 0.6, 0.9], abs=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ratio": 0.3, "also": (1.2,)}, "1.2"),
        ({"ratio": "adaptive", "forgetting": 0.0}, "between 0 and 1, not 0"),
        ({"ratio": "adaptive", "schedule": "ramp"}, "leave out --damage.schedule"),
        ({"ratio": "adaptive", "also": (0.3,)}, "leave out --damage.also"),
        ({"schedule": "cyclic", "cycles": 0.0}, "cycles"),
        ({"kind": "dropout", "schedule": "ramp"}, "dropout"),
        ({"kind": "random", "ratio": "adaptive"}, "random"),
        ({"kind": "dropout", "also": (0.3,)}, "--damage.also"),
    ],
)
def test_what_contradicts_itself_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DamageConfig(**settings)
