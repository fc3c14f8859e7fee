"""Settings files on the command line: what they change, and how they are refused."""

import json
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from sdclr.cli import main
from sdclr.cli.parsing import parse
from sdclr.recipes import Method, cifar_lt, digits_demo, imagenet100_lt, with_framework
from sdclr.settings import write_settings
from sdclr.training.config import PretrainConfig
from sdclr.training.defaults import default_config


def parsed(path: Path, *options: str) -> PretrainConfig:
    config = parse(["pretrain", "digits", "--settings", str(path), *options]).config
    assert isinstance(config, PretrainConfig)
    return config


def recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str], *options: str) -> Path:
    form = "toml" if "toml" in options else "json"
    main(["recipe", *options])
    path = tmp_path / f"{'-'.join(options)}.{form}"
    path.write_text(capsys.readouterr().out)
    return path


@pytest.mark.parametrize("form", ["json", "toml"])
@pytest.mark.parametrize("method", get_args(Method))
def test_a_recipe_comes_back_as_it_was(tmp_path, capsys, form, method):
    path = recipe(tmp_path, capsys, "cifar_lt", "--method", method, "--head", "reference", "--format", form)
    assert parsed(path) == cifar_lt(method, "reference")


def test_a_recipe_as_toml_names_itself(tmp_path, capsys):
    path = recipe(tmp_path, capsys, "imagenet100_lt", "--format", "toml")
    assert path.read_text().startswith('recipe = "imagenet100_lt"\n')
    shorter = tmp_path / "shorter.toml"
    shorter.write_text('recipe = "imagenet100_lt"\nepochs = 300\n')
    assert parsed(shorter) == replace(imagenet100_lt(), epochs=300)
    assert parsed(shorter, "--recipe", "digits_demo") == replace(digits_demo(), epochs=300)


def test_a_partial_file_changes_what_suits_the_images(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('epochs = 30\nframework = "byol"\n[optim]\nwarmup_epochs = 2.5\n')
    automatic = with_framework(default_config(digits()), "byol")
    expected = replace(automatic, epochs=30, optim=replace(automatic.optim, warmup_epochs=2.5))
    assert parsed(path) == expected
    assert parsed(path, "--epochs", "40", "--optim.lr", "0.5") == replace(
        expected, epochs=40, optim=replace(expected.optim, lr=0.5)
    )


def digits():
    from sdclr.data.sources import open_source

    return open_source("digits")


def test_the_file_of_a_run_is_taken_as_it_is(tmp_path):
    config = cifar_lt("simclr")
    for name in ("config.json", "copy.json"):
        write_settings(tmp_path / name, config)
        assert parsed(tmp_path / name) == config
    values = json.loads((tmp_path / "config.json").read_text())
    del values["norm_statistics"], values["optim"]["layer_decay"]  # as if a later version had added them
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert parsed(tmp_path / "config.json") == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[optim]\nlr = 'fast'\n", "a.toml, line 2: 'optim.lr' must be a number, not 'fast'"),
        ("epochs = 0\n", "a.toml, line 1: epochs = 0: a run needs 1 or more epochs"),
        ("[optim\n", "a.toml, line 1, column 7: invalid TOML"),
        ('recipe = "cifar"\n', "a.toml, line 1: 'recipe' must be one of 'auto', 'cifar_lt'"),
        ("recipe = 3\n", "a.toml, line 1: 'recipe' must be one of"),
    ],
)
def test_a_file_that_cannot_be_used_ends_with_one_line(tmp_path, capsys, monkeypatch, text, message):
    path = tmp_path / "a.toml"
    path.write_text(text)
    monkeypatch.setattr("sdclr.cli.actions.pretrain.run", lambda *_: pytest.fail("it was accepted"))
    with pytest.raises(SystemExit) as stop:
        main(["pretrain", "digits", "--settings", str(path)])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_toml_of_a_recipe_is_plain(tmp_path, capsys):
    values = tomllib.loads(recipe(tmp_path, capsys, "cifar_lt", "--format", "toml").read_text())
    assert values["encoder"] == {"name": "resnet18", "stem": "small", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}  # fmt: skip  # noqa: E501
    assert values["damage"]["ratio"] == 0.9
