"""What was measured is remembered, and a measurement disturbs nothing."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from sdclr import fastest
from sdclr.fastest import cache_folder, faster_dtype, forward_amp, remembered, structure

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(fastest, "cache_folder", cache_folder)
    monkeypatch.setattr(fastest, "_remembered", {})


def _new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastest, "_remembered", {})


def test_a_measurement_outlives_the_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert remembered({"network": "a"}, lambda: {"value": 1}) == {"value": 1}
    assert remembered({"network": "a"}, lambda: {"value": 2}) == {"value": 1}
    _new_process(monkeypatch)
    assert remembered({"network": "a"}, lambda: {"value": 3}) == {"value": 1}
    assert remembered({"network": "b"}, lambda: {"value": 4}) == {"value": 4}
    assert len(list((tmp_path / "sdclr" / "speed").glob("*.json"))) == 2


def test_one_that_is_not_lasting_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    remembered({"network": "a"}, lambda: {"value": 1}, lasting=lambda _: False)
    assert remembered({"network": "a"}, lambda: {"value": 2}) == {"value": 1}
    _new_process(monkeypatch)
    assert remembered({"network": "a"}, lambda: {"value": 3}) == {"value": 3}


@pytest.mark.parametrize("damaged", ["", "[]", '{"asked": 1, "found": {"value": 1}}', '{"checksum": 1}'])
def test_a_damaged_file_is_measured_again(monkeypatch: pytest.MonkeyPatch, damaged: str) -> None:
    remembered({"network": "a"}, lambda: {"value": 1})
    (file,) = cache_folder().glob("*.json")
    file.write_text(damaged)
    _new_process(monkeypatch)
    assert remembered({"network": "a"}, lambda: {"value": 2}) == {"value": 2}
    assert json.loads(file.read_text())["found"] == {"value": 2}


def test_a_folder_that_cannot_be_written_does_not_matter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert remembered({"network": "a"}, lambda: {"value": 1}) == {"value": 1}


def test_a_relative_cache_home_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    assert cache_folder() == Path.home() / ".cache" / "sdclr" / "speed"


@pytest.mark.parametrize(("bfloat16", "expected"), [(0.8, torch.bfloat16), (0.95, None), (2.0, None)])
def test_bfloat16_must_be_clearly_faster(bfloat16: float, expected: torch.dtype | None) -> None:
    assert faster_dtype({"float32": 1.0, "bfloat16": bfloat16}) == expected


def test_auto_is_measured_once_for_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastest, "worth_measuring", lambda _: True)
    seen: list[torch.Tensor] = []

    class Heard(nn.Linear):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(images)
            return super().forward(images)

    network, state = nn.Sequential(nn.Flatten(), Heard(48, 2)), torch.get_rng_state()
    threads = torch.get_num_threads()
    found = forward_amp("auto", network, (3, 4, 4), CPU)
    assert found in {"none", "bf16"}
    assert {images.shape[1:] for images in seen} == {(48,)}
    count = len(seen)
    assert forward_amp("auto", network, (3, 4, 4), CPU) == found
    assert len(seen) == count
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert forward_amp("bf16", network, (3, 4, 4), CPU) == "bf16"


def test_without_instructions_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True, "avx512_bf16": False})
    assert forward_amp("auto", nn.Module(), (3, 4, 4), CPU) == "none"


def test_networks_are_known_by_their_layers() -> None:
    assert structure(nn.Linear(3, 4)) == structure(nn.Linear(3, 4))
    assert structure(nn.Linear(3, 4)) != structure(nn.Linear(4, 3))
    convolution = nn.Conv2d(3, 4, 3)
    before = structure(convolution)
    assert structure(convolution.to(memory_format=torch.channels_last)) != before
