"""The report of pairs of runs in float32 and bfloat16."""

import importlib

import pytest


@pytest.fixture
def precision():
    return importlib.import_module("precision")


def row(arm: str, split: int, value: float) -> dict:
    scores = {"all": value, "few": value}
    return {"set": "digits", "arm": arm, "split": split, "linear": scores, "few_shot": scores, "knn": scores}


def test_differences_are_taken_pair_by_pair_and_harm_is_marked(precision):
    plain = {1: 50.0, 2: 60.0, 3: 70.0}
    rows = [row("sdclr-float32", split, value) for split, value in plain.items()]
    rows += [
        row("sdclr-bf16", split, value - lost)
        for (split, value), lost in zip(plain.items(), (1.0, 1.2, 0.8), strict=True)
    ]
    rows += [row("sdclr-float32-again", split, value - 0.4) for split, value in plain.items()]
    lines = precision.report(rows).splitlines()
    assert lines[2].startswith("| digits | sdclr | bfloat16 | 3 | **-1.00 ± 0.12** |")
    assert lines[3].startswith("| digits | sdclr | float32, other seed | 3 | -0.40 ± 0.00 |")  # too small to count


def test_an_arm_is_the_method_of_its_name(precision):
    from sdclr.training.config import PretrainConfig

    assert precision.configure(PretrainConfig(), "simclr-bf16").damage.kind == "none"
    assert precision.configure(PretrainConfig(), "sdclr-float32-again").damage.ratio == 0.5
