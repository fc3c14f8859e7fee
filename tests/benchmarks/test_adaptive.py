"""What arms mean, and that the report pairs runs by their split."""

import importlib
import statistics

import pytest

from sdclr.training.config import DamageConfig


@pytest.fixture
def adaptive():
    return importlib.import_module("adaptive")


@pytest.mark.parametrize(
    ("arm", "expected"),
    [
        ("simclr", DamageConfig(kind="none")),
        ("simclr-again", DamageConfig(kind="none")),
        ("0", DamageConfig(ratio=0.0)),
        ("0.5", DamageConfig(ratio=0.5)),
        ("0.5-statistics", DamageConfig(ratio=0.5, independent_norm="statistics")),
        ("ramp-0.8", DamageConfig(ratio=0.8, schedule="ramp")),
        ("cyclic-0.8", DamageConfig(ratio=0.8, schedule="cyclic")),
        ("several-0.3-0.6-0.9", DamageConfig(ratio=0.3, also=(0.6, 0.9))),
        ("adaptive", DamageConfig(ratio="adaptive", independent_norm="statistics")),
        ("adaptive-own", DamageConfig(ratio="adaptive")),
    ],
)
def test_an_arm_is_what_its_name_says(adaptive, arm, expected):
    assert adaptive.damage(arm) == expected


def row(arm: str, split: int, value: float) -> dict[str, object]:
    scores = {probe: {"all": value, "few": value, "std": 1.0} for probe in ("linear", "few_shot", "knn")}
    key = {"set": "digits", "width": 16, "epochs": 40, "arm": arm, "split": split}
    return key | {"pruned": [0.25] if arm == "adaptive" else []} | scores


def test_differences_are_paired_by_split(adaptive):
    plain, other = {1: 50.0, 2: 60.0, 3: 55.0}, {2: 61.0, 1: 52.5}
    rows = [row("simclr", split, value) for split, value in plain.items()]
    rows += [row("adaptive", split, value) for split, value in other.items()]
    line = adaptive.report(rows).splitlines()[-1]
    pairs = [other[split] - plain[split] for split in other]
    error = statistics.stdev(pairs) / 2**0.5
    assert f"| {statistics.fmean(other.values()):.2f} (+{statistics.fmean(pairs):.2f} ± {error:.2f}) |" in line
    assert "| adaptive | 2 | 0.25 |" in line


def test_digits_run_and_are_not_run_again(adaptive, tmp_path, monkeypatch, capsys):
    out = tmp_path / "rows.jsonl"
    command = ["adaptive.py", "train", "--set", "digits", "--widths", "4", "--epochs", "2", "--splits", "1"]
    monkeypatch.setattr(
        "sys.argv", [*command, "--arms", "simclr", "0.5-statistics", "--amp", "none", "--out", str(out)]
    )
    adaptive.main()
    assert [one["arm"] for one in adaptive.read(out)] == ["simclr", "0.5-statistics"]
    before = out.read_bytes()
    monkeypatch.setattr(adaptive, "run_one", lambda *_, **__: pytest.fail("trained again"))
    adaptive.main()
    assert out.read_bytes() == before
    assert "0.5-statistics | 1 |" in capsys.readouterr().out
