"""Ratios that change in the course of a run."""

import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sdclr.data.sources import SubsetSource, digits
from sdclr.errors import InputError, OutOfMemoryError
from sdclr.training import guidance
from sdclr.training.config import DamageConfig
from sdclr.training.interrupts import Interrupted
from sdclr.training.pretrain import Trainer
from sdclr.training.run import Run

Train = Callable[..., Run]

ADAPTIVE: dict[str, Any] = {
    "damage": DamageConfig(ratio="adaptive", gain=5.0, independent_norm="statistics"),
    "batch_size": 32,
}


@pytest.fixture(scope="session")
def more_digits() -> SubsetSource:
    return SubsetSource(digits(), np.arange(100), name="more")


def pruned(run: Run) -> list[float]:
    """What was pruned in each epoch."""
    return list({row["epoch"]: row["pruned"] for row in run.metrics()}.values())


def test_an_adaptive_ratio_follows_the_gap(
    train: Train, more_digits: SubsetSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    gaps = iter([-0.1, 0.1, 0.1, 1.0])
    monkeypatch.setattr(guidance.Guidance, "_gap", lambda *_: next(gaps))
    run = train(more_digits, changes=ADAPTIVE)
    seen, weights = [-0.1, 0.1, 0.1, 1.0], [0.9**age for age in range(4)]
    means = [
        sum(weight * gap for weight, gap in zip(weights, reversed(seen[:count]), strict=False)) / sum(weights[:count])
        for count in range(1, 5)
    ]
    expected = [min(0.9, max(0, 5 * mean)) for mean in means]
    assert pruned(run) == pytest.approx(expected, abs=1e-3)  # whole weights
    assert run.pruned_fraction == pytest.approx(expected[-1], abs=1e-3)
    competitor = run.objective().competitor
    assert competitor is not None
    assert competitor.ratio == run.pruned_fraction


def test_images_held_out_are_never_trained_on(
    train: Train, more_digits: SubsetSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: set[int] = set()
    take_step = Trainer._take_step

    def noted(self: Trainer, batch: Any) -> None:
        drawn.update(batch.indices.tolist())
        take_step(self, batch)

    monkeypatch.setattr(Trainer, "_take_step", noted)
    train(more_digits, changes=ADAPTIVE | {"epochs": 8})
    assert len(drawn) == 90


def test_without_a_gap_it_is_a_run_without_damage(
    train: Train, more_digits: SubsetSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guidance, "generalization_gap", lambda *_, **__: 0.0)
    held = np.ones(100)

    def noted(self: guidance.Guidance, *_: Any) -> float:
        held[:] = self._objective.rebalancers[0].sampling.numpy()  # type: ignore[operator,union-attr]  # an AdaptiveRatio's
        return 0.0

    with monkeypatch.context() as patch:
        patch.setattr(guidance.Guidance, "_gap", noted)
        adaptive = train(more_digits, changes=ADAPTIVE)
    plain = train(more_digits, "plain", ADAPTIVE | {"damage": DamageConfig(kind="none")}, weights=held)
    one, two = ({row["step"]: row["loss"] for row in run.metrics()} for run in (adaptive, plain))
    assert one == pytest.approx(two, rel=1e-4)


def test_it_goes_on_at_the_ratio_of_its_epoch(
    train: Train, more_digits: SubsetSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(more_digits, changes=ADAPTIVE)
    take_step = Trainer._take_step

    def stepped(self: Trainer, batch: Any) -> None:
        take_step(self, batch)
        if self.step == 5:  # in the middle of the second epoch
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_take_step", stepped)
        with pytest.raises(Interrupted):
            train(more_digits, "cut", ADAPTIVE)
    resumed = train(more_digits, "cut", ADAPTIVE)
    assert pruned(resumed) == pruned(whole)
    assert (resumed.path / "encoder.safetensors").read_bytes() == (whole.path / "encoder.safetensors").read_bytes()


def test_memory_that_runs_out_before_the_first_step_names_half_of_the_batch(
    train: Train, more_digits: SubsetSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def hungry(*_: Any, batch_size: int, **__: Any) -> float:
        asked.append(batch_size)
        raise MemoryError

    monkeypatch.setattr(guidance, "generalization_gap", hungry)
    with pytest.raises(OutOfMemoryError, match=r"with a batch of 24 images: give --batch-size 12, or --accumulate 2"):
        train(more_digits, changes=ADAPTIVE | {"batch_size": 24})
    assert asked == [24]  # it looks at no more images at once than a step does


def test_an_adaptive_ratio_needs_images_to_hold_out(train: Train) -> None:
    with pytest.raises(InputError, match="50 are too few: give a number"):
        train(changes={"damage": DamageConfig(ratio="adaptive")})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ratio": 1.2}, "1.2"),
        ({"ratio": "adaptive", "gain": 0.0}, "positive, not 0"),
        ({"kind": "dropout", "ratio": "adaptive"}, "dropout"),
        ({"kind": "random", "ratio": "adaptive"}, "random"),
    ],
)
def test_what_contradicts_itself_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DamageConfig(**settings)
