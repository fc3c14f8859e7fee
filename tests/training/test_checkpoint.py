"""Checkpoints survive crashes."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from sdclr.errors import DamagedFileError, InputError
from sdclr.training.checkpoint import load_checkpoint, read_checkpoint, save_checkpoint


def state(step: int) -> dict[str, Any]:
    return {"step": step, "weights": torch.full((50,), float(step)), "losses": [0.5, step], "scaler": {}, "none": None}


def loaded_step(folder: Path) -> int:
    loaded = load_checkpoint(folder)
    assert loaded is not None
    values, path = loaded
    assert torch.equal(values["weights"], torch.full((50,), float(values["step"])))
    assert path == folder / f"step-{values['step']:09d}.pt"
    return int(values["step"])


def newest(folder: Path) -> Path:
    return max(folder.glob("*.pt"))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def lose_the_sum(path: Path) -> None:
    path.with_suffix(".sha256").unlink()


def spoil_the_sum(path: Path) -> None:
    path.with_suffix(".sha256").write_bytes(b"\xff\xfe")


DAMAGES = [cut, empty, flip, lose_the_sum, spoil_the_sum]


def test_without_checkpoints_there_is_nothing_to_load(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path) is None
    assert load_checkpoint(tmp_path / "missing") is None


def test_the_newest_two_are_kept_and_the_newest_is_loaded(tmp_path: Path) -> None:
    for step in (1, 2, 10, 1000):
        save_checkpoint(tmp_path, state(step), step)
        assert loaded_step(tmp_path) == step
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"step-{step:09d}.{kind}" for step in (10, 1000) for kind in ("pt", "sha256")]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(tmp_path: Path, damage: Any) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, state(step), step)
    bad = newest(tmp_path)
    damage(bad)
    with pytest.warns(UserWarning, match=f"{bad} is damaged"):
        assert loaded_step(tmp_path) == 1


@pytest.mark.parametrize("damage", DAMAGES)
def test_if_all_are_damaged_it_says_so_rather_than_start_anew(tmp_path: Path, damage: Any) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, state(step), step)
    for path in tmp_path.glob("*.pt"):
        damage(path)
    with (
        pytest.warns(UserWarning, match="is damaged"),
        pytest.raises(InputError, match=f"every checkpoint in {tmp_path}"),
    ):
        load_checkpoint(tmp_path)


def test_going_on_from_the_older_one_leaves_two_good_ones(tmp_path: Path) -> None:
    for step in (10, 20):
        save_checkpoint(tmp_path, state(step), step)
    flip(newest(tmp_path))
    save_checkpoint(tmp_path, state(15), 15)
    assert loaded_step(tmp_path) == 15
    assert sorted(path.stem for path in tmp_path.glob("*.pt")) == ["step-000000010", "step-000000015"]


@pytest.mark.parametrize("crash_at", range(8))
def test_a_crash_at_any_file_operation_leaves_a_good_checkpoint(
    tmp_path: Path, crash_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, state(step), step)
    done = 0

    def or_crash(operation: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal done
            if done == crash_at:
                raise KeyboardInterrupt
            done += 1
            return operation(*args, **kwargs)

        return wrapped

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", or_crash(os.fsync))
        patch.setattr(Path, "replace", or_crash(Path.replace))
        patch.setattr(Path, "unlink", or_crash(Path.unlink))
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(tmp_path, state(3), 3)
    assert loaded_step(tmp_path) in {2, 3}
    save_checkpoint(tmp_path, state(3), 3)
    assert loaded_step(tmp_path) == 3
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_what_a_crash_left_half_written_is_not_looked_at_and_goes(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, state(1), 1)
    (tmp_path / ".step-000000002.pt.tmp").write_bytes(b"half")
    assert loaded_step(tmp_path) == 1
    save_checkpoint(tmp_path, state(3), 3)
    assert not list(tmp_path.glob(".*"))


def test_nothing_but_tensors_and_numbers_is_unpickled(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, {"path": Path("x")}, 1)
    with pytest.raises(DamagedFileError, match="more than tensors"):
        read_checkpoint(newest(tmp_path), {})
