"""`--minutes`, and what it chooses."""

from pathlib import Path

import numpy as np
import pytest
import tyro
from PIL import Image
from rich.console import Console

from sdclr.cli.actions import finetune
from sdclr.cli.commands.finetune import Finetune
from sdclr.cli.commands.pretrain import parse
from sdclr.cli.commands.reproduce import Reproduce
from sdclr.encoders import DEFAULT
from sdclr.errors import InputError


@pytest.fixture
def at_hand(monkeypatch):
    """Trained weights are installed."""
    monkeypatch.setattr("sdclr.training.defaults.packaged_weights", lambda: Path("weights.pth"))


@pytest.fixture
def photos(tmp_path):
    """Eight photographs."""
    pixels = np.random.default_rng(0).integers(256, size=(8, 100, 120, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{number}.jpg")
    return str(tmp_path)


@pytest.mark.usefixtures("at_hand")
@pytest.mark.parametrize(
    ("options", "start"),
    [
        (["--minutes", "5"], DEFAULT),
        ([], None),
        (["--minutes", "5", "--start", "scratch"], None),
        (["--minutes", "5", "--encoder.width", "4"], None),
        (["--minutes", "5", "--recipe", "digits_demo"], None),
        (["--start", "timm:resnet18"], "timm:resnet18"),
    ],
)
def test_little_time_for_photographs_on_a_cpu_starts_from_trained_weights(options, start, photos, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert parse([photos, *options]).config.start == start


def test_weights_that_are_not_at_hand_are_not_fetched(photos, monkeypatch):
    monkeypatch.setattr("sdclr.training.defaults.packaged_weights", lambda: None)
    assert parse([photos, "--minutes", "5"]).config.start is None


@pytest.mark.parametrize("option", [["--epochs", "3"], ["--steps", "9"]])
def test_a_length_is_given_once(option):
    with pytest.raises(InputError, match=f"--minutes chooses the length of the run, which {option[0]} gives"):
        parse(["digits", "--minutes", "5", *option])


def test_fine_tuning_has_its_length_once(tmp_path):
    options = ["--train", "digits", "--test", "digits:test", "--out", str(tmp_path), "--minutes", "5", "--epochs", "3"]
    with pytest.raises(InputError, match="--minutes chooses the epochs, which --epochs gives"):
        finetune.run(tyro.cli(Finetune, args=options), Console())


def test_minutes_are_positive():
    with pytest.raises(InputError, match="the budget must be more than 0 minutes"):
        parse(["digits", "--minutes", "0"])
    with pytest.raises(InputError, match="the budget must be more than 0 minutes, not -1"):
        Reproduce(what="table4", data=Path(), minutes=-1)


def test_one_epoch_needs_no_other_option():
    config = parse(["digits", "--epochs", "1"]).config
    assert config.epochs == 1
    assert config.optim.warmup(1) == 0.1
