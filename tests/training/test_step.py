"""How a step is carried out: what it costs beyond the arithmetic, and what it may not change."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

from sdclr.errors import InputError
from sdclr.method.frameworks import MoCoConfig
from sdclr.training.config import DamageConfig, Runtime
from sdclr.training.interrupts import Interrupted
from sdclr.training.pretrain import Trainer
from sdclr.training.run import Run

Train = Callable[..., Run]


def losses(run: Run) -> list[float]:
    return [row["loss"] for row in run.metrics()]


MOCO = {"framework": "moco", "moco": MoCoConfig(queue=64)}
PRUNED, PLAIN = {"damage": DamageConfig(ratio=0.3)}, {"damage": DamageConfig(kind="none")}
DROPPED_MOCO = {"damage": DamageConfig(kind="dropout", ratio=0.3), **MOCO}
SAVING = {"checkpoint_activations": True}


@pytest.mark.parametrize(
    ("changes", "how"),
    [
        *((changes, {"amp": amp}) for changes in (PRUNED, PLAIN, DROPPED_MOCO) for amp in ("none", "bf16")),
        (PRUNED, SAVING),
        (PLAIN, SAVING),
    ],
)
def test_a_step_never_makes_the_host_wait_for_the_device(
    train: Train,
    no_synchronization: Any,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    how: dict[str, Any],
) -> None:
    take_step, found, watched_steps = Trainer._take_step, list[str](), list[int]()

    def watched(self: Trainer, batch: Any) -> None:
        refreshes = self.step % self.steps_per_epoch == 0  # choosing masks reads a count: once an epoch
        with no_synchronization() as watch:
            take_step(self, batch)
        if not refreshes:
            found.extend(watch.found)
            watched_steps.append(self.step)

    monkeypatch.setattr(Trainer, "_take_step", watched)
    train(changes={"epochs": 2, **changes}, **how)
    assert watched_steps == [2, 3, 5, 6]
    assert found == []


def test_checkpointed_activations_are_refused_with_dropout(train: Train) -> None:
    with pytest.raises(InputError, match="dropout"):
        train(changes={"damage": DamageConfig(kind="dropout")}, checkpoint_activations=True)


def test_checkpointed_activations_change_nothing(train: Train) -> None:
    plain, saving = train(folder="plain"), train(folder="saving", checkpoint_activations=True)
    assert losses(plain) == losses(saving)
    weights = [(run.path / "encoder.safetensors").read_bytes() for run in (plain, saving)]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"cuda_graphs": True}, "give both"),
        ({"compile": True, "checkpoint_activations": True}, "leave out --checkpoint-activations"),
    ],
)
def test_what_excludes_each_other_is_refused(how: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Runtime(**how)


@pytest.mark.parametrize(("began", "expected"), [("none", "float32"), ("bf16", "bfloat16")])
def test_each_sitting_notes_how_it_was_carried_out_and_auto_goes_on_so(
    train: Train, monkeypatch: pytest.MonkeyPatch, began: Any, expected: str
) -> None:
    take_step = Trainer._take_step

    def stopped(self: Trainer, batch: Any) -> None:
        take_step(self, batch)
        if self.step == 5:
            raise Interrupted(15, "enough for today")

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_take_step", stopped)
        with pytest.raises(Interrupted):
            train(checkpoint_minutes=0, amp=began)
    run = train(amp="auto")
    first, second = (json.loads(line) for line in run.sessions_file.read_text().splitlines())
    assert (first["step"], second["step"]) == (0, 4)
    assert first["precision"] == second["precision"] == expected
    assert second["device_type"] == "cpu"
    assert second["processes"] == 1
    assert second["threads"] == torch.get_num_threads()
    assert second["torch"] == torch.__version__


@pytest.mark.parametrize(
    ("device", "world", "minutes", "asked"),
    [
        ("cpu", 2, 5.0, [1, 2, 3, 4, 5, 6]),
        ("cuda", 1, 5.0, [1, 2, 3, 4, 5, 6]),
        ("cuda", 2, 5.0, [3, 6]),
        ("cuda", 2, 0.0, [1, 2, 3, 4, 5, 6]),
    ],
)
def test_processes_on_gpus_ask_each_other_seldom(device: str, world: int, minutes: float, asked: list[int]) -> None:
    trainer = Trainer.__new__(Trainer)
    trainer.place = type("Place", (), {"device": torch.device(device), "world": world})()
    trainer.runtime = Runtime(log_steps=3, checkpoint_minutes=minutes)
    found = []
    for step in range(1, 7):
        trainer.step = step
        found += [step] if trainer._compare_notes() else []
    assert found == asked
