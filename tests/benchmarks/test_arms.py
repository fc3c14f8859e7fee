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
    line = arms.report(rows).splitlines()[3]
    pairs = [other[split] - plain[split] for split in other]
    error = statistics.stdev(pairs) / 2**0.5
    assert f"| {statistics.fmean(other.values()):.2f} (+{statistics.fmean(pairs):.2f} ± {error:.2f}) |" in line
    assert "| adaptive | 2 | 0.25 | 3.0 |" in line
    other_way = arms.report(rows, ["adaptive"]).splitlines()[2]
    assert f"(-{statistics.fmean(pairs):.2f} ± {error:.2f})" in other_way


def test_a_baseline_of_several_arms_is_their_mean_where_all_were_run(arms):
    rows = [row("simclr", 1, 50.0), row("simclr-again", 1, 54.0), row("adaptive", 1, 53.0), row("simclr", 2, 40.0)]
    rows += [row("adaptive", 2, 70.0)]
    table = arms.report(rows, ["simclr", "simclr-again"])
    assert "| 61.50 (+1.00) |" in table
    assert "| digits | adaptive | 1 | +1.00 | +0.00 |" in table
    assert "| digits | simclr" not in table.rpartition("\n\n")[2]


def test_differences_are_averaged_over_widths_and_lengths(arms):
    rows = [row(arm, 1, value) for arm, value in (("simclr", 50.0), ("adaptive", 51.0))]
    rows += [row(arm, 2, value) for arm, value in (("simclr", 50.0), ("adaptive", 53.0))]
    rows += [row(arm, 2, value) | {"width": 32} for arm, value in (("simclr", 60.0), ("adaptive", 64.0))]
    rows += [row(arm, 1, value) | {"set": "cifar10"} for arm, value in (("simclr", 60.0), ("adaptive", 50.0))]
    error = statistics.stdev([2.0, 4.0]) / 2**0.5
    last = arms.report(rows).splitlines()[-2:]
    assert last[0].startswith(f"| digits | adaptive | 2 | +3.00 ± {error:.2f} | +0.00 ± 0.00 |")
    assert last[1].startswith("| cifar10 | adaptive | 1 | -10.00 | +0.00 |")


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
