"""Arms run, are not run again, and are paired by their split in the report."""

import importlib
import statistics

import pytest


@pytest.fixture
def arms():
    return importlib.import_module("arms")


def row(arm: str, split: int, value: float) -> dict[str, object]:
    scores = {probe: {"all": value, "few": value, "std": 1.0} for probe in ("linear", "few_shot", "knn")}
    key = {"set": "digits", "width": 16, "epochs": 40, "arm": arm, "split": split}
    return key | {"pruned": [0.25] if arm == "adaptive" else [], "few_share": 3.0} | scores


def test_differences_are_paired_by_split(arms):
    plain, other = {1: 50.0, 2: 60.0, 3: 55.0}, {2: 61.0, 1: 52.5}
    rows = [row("simclr", split, value) for split, value in plain.items()]
    rows += [row("adaptive", split, value) for split, value in other.items()]
    line = arms.report(rows).splitlines()[-1]
    pairs = [other[split] - plain[split] for split in other]
    error = statistics.stdev(pairs) / 2**0.5
    assert f"| {statistics.fmean(other.values()):.2f} (+{statistics.fmean(pairs):.2f} ± {error:.2f}) |" in line
    assert "| adaptive | 2 | 0.25 | 3.0 |" in line
    other_way = arms.report(rows, "adaptive").splitlines()[2]
    assert f"(-{statistics.fmean(pairs):.2f} ± {error:.2f})" in other_way


def test_digits_run_and_are_not_run_again(arms, tmp_path, monkeypatch, capsys):
    rebalancing = importlib.import_module("rebalancing")
    out, chosen = tmp_path / "rows.jsonl", ["simclr", "oracle", "sdclr-density-0.3"]
    where = ["--set", "digits", "--widths", "4", "--epochs", "8", "--splits", "1", "--amp", "none"]
    monkeypatch.setattr("sys.argv", ["rebalancing.py", "train", *where, "--arms", *chosen, "--out", str(out)])

    def run() -> None:
        arms.main("", (), rebalancing.configure, rebalancing.weigh)

    run()
    plain, oracle, dense = arms.read(out)
    assert [one["arm"] for one in (plain, oracle, dense)] == chosen
    # By the long tail of the demonstration (9 of 276), evenly, and as the features of so short a run say.
    assert plain["few_share"] == pytest.approx(100 * 9 / 276)
    assert oracle["few_share"] == pytest.approx(30)
    assert plain["few_share"] < dense["few_share"] < 30
    before = out.read_bytes()
    monkeypatch.setattr(arms, "run_one", lambda *_, **__: pytest.fail("trained again"))
    run()
    assert out.read_bytes() == before
    assert "sdclr-density-0.3 | 1 |" in capsys.readouterr().out
