"""Reading a run back."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

from sdclr.config import differences
from sdclr.encoders import EncoderConfig, create_encoder, load_encoder, save_encoder
from sdclr.errors import InputError
from sdclr.files import read_json, write_json
from sdclr.training.config import PretrainConfig
from sdclr.training.run import Run, create_objective


@pytest.fixture
def copied(finished: Run, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished.path, tmp_path / "copy"))


def test_the_encoder_gives_the_features_of_the_network_that_was_trained(finished: Run) -> None:
    trained = finished.objective().network.encoder
    loaded = load_encoder(finished.path)
    assert not loaded.training
    images = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    assert torch.equal(loaded(images), trained(images))
    assert (loaded.num_features, loaded.image_size) == (32, 8)
    assert loaded(images).shape == (5, 32)


def test_the_encoder_is_of_use_without_this_package(finished: Run) -> None:
    weights = load_file(finished.path / "encoder.safetensors")
    own = timm.create_model("resnet18", num_classes=0)
    assert weights.keys() == own.state_dict().keys() - {
        "layer1.0.downsample.0.weight"  # none: the narrow stem has as many channels as the first stage
    }
    assert all(tensor.is_contiguous() for tensor in weights.values())


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "resnet50"])
def test_any_encoder_is_saved_and_loaded(tmp_path: Path, name: str) -> None:
    encoder = create_encoder(EncoderConfig(name=name, std=(1.0, 1.0, 1.0)), 32).eval()
    save_encoder(tmp_path, encoder)
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(load_encoder(tmp_path)(images), encoder(images))


def cut_weights(run: Path) -> None:
    file = run / "encoder.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def empty_weights(run: Path) -> None:
    (run / "encoder.safetensors").write_bytes(b"")


def other_weights(run: Path) -> None:
    edit(run, lambda values: values["encoder"].update(width=8))


def no_fields(run: Path) -> None:
    write_json(run / "encoder.json", {})


def odd_size(run: Path) -> None:
    edit(run, lambda values: values.update(image_size="8"))


def no_object(run: Path) -> None:
    (run / "encoder.json").write_text("[]")


def no_json(run: Path) -> None:
    (run / "encoder.json").write_bytes(b"\xff{")


def unknown_field(run: Path) -> None:
    edit(run, lambda values: values["encoder"].update(color=3))


def no_weights(run: Path) -> None:
    (run / "encoder.safetensors").unlink()


def edit(run: Path, change: Callable[[dict[str, dict[str, object]]], object]) -> None:
    values = read_json(run / "encoder.json")
    change(values)
    write_json(run / "encoder.json", values)


DAMAGES = [
    *(cut_weights, empty_weights, other_weights, no_fields, odd_size, no_object, no_json, unknown_field, no_weights)
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_encoder_is_refused(copied: Path, damage: Callable[[Path], None]) -> None:
    damage(copied)
    with pytest.raises(InputError) as caught:
        load_encoder(copied)
    assert "\n" not in str(caught.value)


def test_loading_leaves_the_callers_random_state_alone(finished: Run) -> None:
    before = torch.get_rng_state()
    finished.objective()
    load_encoder(finished.path)
    assert torch.equal(before, torch.get_rng_state())


def test_an_unfinished_run_has_no_encoder_yet(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no encoder.json: let .* finish this run"):
        load_encoder(tmp_path)
    with pytest.raises(InputError, match=r"is not a run: it holds no config.json"):
        Run.open(tmp_path)


def test_a_run_opens_with_what_it_was_started_with(finished: Run, tiny: PretrainConfig) -> None:
    opened = Run.open(finished.path)
    assert differences(opened.config, tiny) == []
    assert opened.results == finished.path / "results"
    assert [row["epoch"] for row in opened.metrics()] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_a_run_that_had_no_further_competitors_opens_as_before(copied: Path) -> None:
    values = json.loads((copied / "config.json").read_text())
    before = Run(copied).config
    values["damage"]["also"] = []
    (copied / "config.json").write_text(json.dumps(values))
    assert Run(copied).config == before
    values["damage"]["also"] = [0.5]
    (copied / "config.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"config.json: .damage.also. was removed, and is read only as"):
        _ = Run(copied).config


def test_without_checkpoints_there_is_no_network_to_read(copied: Path) -> None:
    shutil.rmtree(copied / "checkpoints")
    with pytest.raises(InputError, match="holds no whole checkpoint"):
        Run.open(copied).objective()


def test_the_competitor_is_what_the_configuration_says(tiny: PretrainConfig) -> None:
    competitor = create_objective(tiny).competitor
    assert competitor is not None
    assert competitor.ratio == 0.3
    removed = sum(int((~mask).sum()) for mask in competitor.masks.values())
    total = sum(mask.numel() for mask in competitor.masks.values())
    assert removed == -(-3 * total // 10)
    assert all(name.startswith("encoder.") for name in competitor.masks)


def test_json_keeps_names_that_are_not_utf8(tmp_path: Path) -> None:
    values = {"name": "caf\udce9", "class": "café"}
    write_json(tmp_path / "file.json", values)
    assert read_json(tmp_path / "file.json") == values
    assert "café".encode() in (tmp_path / "file.json").read_bytes()
    assert json.loads((tmp_path / "file.json").read_text(errors="surrogateescape")) == values
