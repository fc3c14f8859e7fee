"""Fine-tuning in so many minutes, by a clock that ticks when it is looked at."""

import itertools
import json

import pytest

from sdclr.downstream import loop
from sdclr.downstream.finetune import finetune
from sdclr.errors import InputError
from sdclr.time_budget import Budget


def ticking(minutes: float, seconds: float = 0.5) -> Budget:
    ticks = itertools.count()
    return Budget(minutes, clock=lambda: seconds * next(ticks))


@pytest.mark.parametrize(("method", "epochs", "second"), [("ce", 9, 10), ("crt", 8, 1)])
def test_a_training_on_a_budget_is_that_of_its_epochs(  # noqa: PLR0917  # fixtures
    few_digits, test_digits, changed, tmp_path, method, epochs, second
):
    how = {"start": "scratch", "amp": "none"}
    config = changed(method=method, second_epochs=10)
    given = finetune(few_digits, test_digits, config, out=tmp_path / "budget", minutes=ticking(0.5), **how)
    chosen = given.description["config"]
    assert (chosen["epochs"], chosen["second_epochs"]) == (epochs, second)
    same = changed(method=method, epochs=epochs, second_epochs=second)
    plain = finetune(few_digits, test_digits, same, out=tmp_path / "plain", **how)
    assert given.score.per_class == plain.score.per_class
    logged = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("budget", "plain")]
    losses = [[json.loads(line)["loss"] for line in lines] for lines in logged]
    assert losses[0] == losses[1]


def test_it_is_resumed_with_the_epochs_that_were_chosen(few_digits, test_digits, changed, tmp_path, monkeypatch):
    how = {"start": "scratch", "amp": "none", "checkpoint_minutes": 0, "out": tmp_path / "out"}
    take = loop.Trainer._take_step

    def some(trainer, stage, *rest):
        if trainer.step == 20 and (tmp_path / "out/config.json").exists():
            raise KeyboardInterrupt
        take(trainer, stage, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "_take_step", some)
        with pytest.raises(KeyboardInterrupt):
            finetune(few_digits, test_digits, changed(method="ce"), minutes=ticking(0.5), **how)
    result = finetune(few_digits, test_digits, changed(method="ce"), minutes=ticking(0.5, seconds=5), **how)
    assert result.description["config"]["epochs"] == 9
    with pytest.raises(InputError, match=r"begun with a budget of 0.5 min, not with 2 min: .* with --out"):
        finetune(few_digits, test_digits, changed(method="ce"), minutes=2, **how)


def test_one_epoch_is_the_least(few_digits, test_digits, changed, tmp_path):
    how = {"start": "scratch", "amp": "none"}
    result = finetune(few_digits, test_digits, changed(method="ride"), out=tmp_path, minutes=ticking(0.05), **how)
    chosen = result.description["config"]
    assert (chosen["epochs"], chosen["second_epochs"]) == (1, 1)
