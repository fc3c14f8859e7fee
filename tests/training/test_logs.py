"""What a run says while it goes."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sdclr.training.logs import Log


def log(folder: Path, step: int, *, active: bool = True) -> Log:
    return Log(folder, step=step, total=4, epochs=2, images_per_step=8, active=active)


def test_it_takes_back_what_is_later_than_the_state(tmp_path: Path) -> None:
    first = log(tmp_path, 0)
    for step in (1, 2, 3):
        first.write(step=step, epoch=0, loss=1.0 / step)
    first.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1, "lo')  # cut off by a crash
    second = log(tmp_path, 2)
    second.write(step=3, epoch=0, loss=9.0)
    second.advance(4)
    second.close()
    log(tmp_path, 4).close()  # nothing is left to do
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 1.0), (2, 0.5), (3, 9.0)]
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [(event.step, event.value) for event in board.Scalars("loss")] == [(1, 1.0), (2, 0.5), (3, 9.0)]


def test_the_speed_counts_images(tmp_path: Path) -> None:
    one = log(tmp_path, 0)
    one.write(step=2, epoch=0, loss=1.0)
    one.write(step=2, epoch=0, loss=1.0)
    one.close()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["images_per_second"] > 0
    assert rows[1]["images_per_second"] == 0


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    other = log(tmp_path, 0, active=False)
    other.write(step=1, epoch=0, loss=1.0)
    other.close()
    assert list(tmp_path.iterdir()) == []


def test_it_says_how_far_the_run_is(tmp_path: Path, told: Any) -> None:
    going = log(tmp_path, 1)
    going.advance(2)
    going.write(step=3, epoch=1, loss=4.2149)
    going.advance(4)
    going.close()
    assert told.begun == told.ended == ["preparing the first step", "training"]
    assert told.counts() == [(16, 32), (24, 32), (32, 32)]
    assert told.notes == ["epoch 1/2", "epoch 2/2 · loss 4.21", "epoch 2/2 · loss 4.21"]


def estimated(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, seconds: float, begun: int = 0, epochs: int = 10
) -> None:
    """A run of 1,000 steps that take so long each; the first takes a minute."""
    now = [0.0]
    monkeypatch.setattr("sdclr.training.logs.time", SimpleNamespace(perf_counter=lambda: now[0]))
    going = Log(folder, step=begun, total=1000, epochs=epochs, images_per_step=100, active=True, slow="too slow")
    now[0] += 60
    for step in range(begun + 1, begun + 50):
        going.advance(step)
        now[0] += seconds
    going.close()


def test_it_says_once_how_long_the_run_will_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: Any) -> None:
    estimated(tmp_path, monkeypatch, seconds=0.5)
    assert told.told == ["about 8 min for 10 epochs (200 images/s)"]


def test_a_single_epoch_is_in_the_singular(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: Any) -> None:
    estimated(tmp_path, monkeypatch, seconds=0.5, epochs=1)
    assert told.told == ["about 8 min for 1 epoch (200 images/s)"]


def test_a_long_run_is_advised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: Any) -> None:
    estimated(tmp_path, monkeypatch, seconds=10, begun=200)
    assert told.told == ["about 2.2 h for the rest of 10 epochs (10 images/s)", "too slow"]


def test_a_short_run_needs_no_estimate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: Any) -> None:
    estimated(tmp_path, monkeypatch, seconds=0.02)
    assert told.told == []
