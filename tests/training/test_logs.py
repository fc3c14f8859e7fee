"""What a run says while it goes."""

import json
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sdclr.training.logs import Log


def log(folder: Path, step: int, *, active: bool = True) -> Log:
    return Log(folder, step=step, total=4, images_per_step=8, active=active, progress=True)


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
