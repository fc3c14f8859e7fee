"""Options take no number that their command cannot use: one line says so before anything is read."""

import os
from pathlib import Path

import pytest

from sdclr.cli.parsing import parse
from sdclr.errors import InputError


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("mine digits --out file", "--out file: is a file; name a folder to write into"),
        ("mine digits --csv folder", "--csv folder: is a folder; name a file to write"),
        ("mine digits --csv pipe", "--csv pipe: is no regular file; name a file to write"),
        ("evaluate --train digits --test digits --out file/x", "--out file/x: file is a file, not a folder"),
        ("embed digits --out file/x.parquet", "--out file/x.parquet: file is a file"),
        ("diagnose digits --out folder", "--out folder: is a folder; name a file to write"),
        ("info digits --json folder", "--json folder: is a folder; name a file to write"),
        ("demo --run file", "--run file: is a file; name a folder to write into"),
    ],
)
def test_places_are_checked_first(
    arguments: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("folder").mkdir()
    os.mkfifo("pipe")
    with pytest.raises(InputError) as caught:
        parse(arguments.split())
    assert message in str(caught.value)
    parse(["embed", "digits", "--out", "folder"])
    parse(["mine", "digits", "--out", "new/folder", "--csv", "file"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("mine digits --workers -1", "--workers is -1: give 0 or more"),
        ("mine digits --thumbnails -1", "--thumbnails is -1: give 0 or more"),
        ("mine digits --image-size -3", "image_size is -3: give 1 or more"),
        ("mine digits --image-size 20000", "image_size is 20000: give 4,096 or less"),
        ("select digits --budget 0", "--budget is 0: give 1 or more"),
        ("select digits --budget all --seed -2", "--seed is -2: give 0 or more"),
        ("embed digits --out x --batch-size 0", "--batch-size is 0: give 1 or more"),
        ("neighbors digits --queries x --k 0", "--k is 0: give 1 or more"),
        ("bench --data x --widths 16 0", "--widths is 0: give 1 or more"),
        ("bench --data x --splits 0", "--splits is 0: give 1 or more"),
        ("reproduce table1 --data x --epochs 0", "--epochs is 0: give 1 or more"),
        ("demo --splits 0", "--splits is 0: give 1 or more"),
        ("pretrain digits --recipe digits_demo --epochs 99999999999999999999", "whole number of at most 64 bits"),
        ("pretrain digits --recipe digits_demo --temperature inf", "temperature is inf: give a finite number"),
        ("pretrain digits --recipe digits_demo --optim.weight-decay nan", "weight_decay is nan: give a finite number"),
        ("pretrain digits --recipe digits_demo --encoder.std nan 1 1", "encoder.std is nan: give a finite number"),
        ("pretrain digits --recipe digits_demo --subset.imbalance 0", "imbalance is 0.0: give 1 or more"),
    ],
)
def test_one_line_names_option_value_and_remedy(arguments: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(arguments.split())
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("command", ["mine gone", "embed gone --out e.parquet", "pretrain gone --epochs 1"])
def test_images_that_do_not_exist_are_an_error_before_anything_is_loaded(command: str) -> None:
    with pytest.raises(InputError, match="gone does not exist; give an existing path"):
        parse(command.split())


def test_a_word_in_place_of_a_number_is_one_error(capfd: pytest.CaptureFixture[str]) -> None:
    """`pretrain` parses its options twice."""
    with pytest.raises(SystemExit):
        parse(["pretrain", "digits", "--epochs", "two"])
    assert capfd.readouterr().err.count("invalid literal") == 1
