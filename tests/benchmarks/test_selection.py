"""The contest of selections: that its measures are what they say, and that it goes on where it was stopped."""

import importlib
import json
from dataclasses import replace

import numpy as np
import pytest

from sdclr.data.sources import SubsetSource, digits
from sdclr.recipes import digits_demo
from sdclr.training.config import Runtime
from sdclr.training.pretrain import pretrain

FEW = {"many": np.array([0]), "medium": np.array([1]), "few": np.array([2])}


@pytest.fixture
def selection():
    return importlib.import_module("selection")


@pytest.fixture
def clouds(selection):
    """Three classes that are easy to tell apart, one of them rare."""
    rng = np.random.default_rng(0)
    centers = 5 * np.eye(3, 8)

    def drawn(sizes):
        y = np.repeat(np.arange(3), sizes)
        return selection.Labeled((centers[y] + rng.normal(size=(len(y), 8))).astype(np.float32), y)

    return drawn((150, 40, 10)), drawn((30, 30, 30))


def test_measures_are_those_of_the_choice(selection, clouds):
    pool, test = clouds
    chosen = np.concatenate([np.arange(4), [150, 151, 152], [190, 191, 192]])
    found = selection.measure(chosen, pool, test, FEW)
    assert found["recall"] == pytest.approx(30)  # 3 of 10
    assert found["lift"] == pytest.approx(0.3 / 0.05)
    assert found["classes"] == 3
    assert min(found["all"], found["few"], found["knn"]) > 70
    without = selection.measure(np.arange(160), pool, test, FEW)
    assert (without["recall"], without["lift"], without["classes"], without["few"]) == (0, 0, 2, 0)
    # Many and Medium are told apart almost always, Few never: the deviation of (100, 100, 0).
    assert without["std"] == pytest.approx(np.std([100, 100, 0]), abs=4)


def test_random_has_the_base_rate(selection, clouds, monkeypatch):
    pool, test = clouds
    monkeypatch.setattr(selection, "BUDGETS", (0.1,))
    monkeypatch.setattr(selection, "WAYS", {"random": selection.Way("random", draws=60)})
    found = selection.choose_all(pool, test, {})["random"]["0.1"]
    assert found["recall"] == pytest.approx(10, rel=0.35)  # three standard errors
    assert found["lift"] == pytest.approx(1, rel=0.35)


def test_what_is_known_is_not_chosen_again(selection, clouds, monkeypatch):
    ways = {"random": selection.Way("random"), "rarity": selection.Way("rarity")}
    monkeypatch.setattr(selection, "WAYS", ways)
    monkeypatch.setattr(selection, "BUDGETS", (0.1,))
    known = selection.choose_all(*clouds, {})
    before, asked, choose = json.loads(json.dumps(known)), [], selection.select_samples

    def noted(*positional, method, **options):
        asked.append(method)
        return choose(*positional, method=method, **options)

    monkeypatch.setattr(selection, "select_samples", noted)
    monkeypatch.setitem(ways, "random", selection.Way("random", draws=2))
    again = selection.choose_all(*clouds, known)
    assert set(asked) == {"random"}
    assert again["rarity"] == before["rarity"]
    assert again["random"]["way"]["draws"] == 2


def results(selection, **figures):
    """One run for each group, by way: (recall, all)."""
    every = {}
    for group, ways in figures.items():
        entry = {
            name: {
                f"{budget:g}": dict.fromkeys(selection.MEASURES, 0.0) | {"recall": recall, "all": accuracy}
                for budget in selection.BUDGETS
            }
            for name, (recall, accuracy) in ways.items()
        }
        every[group] = {"group": group, "split": 1, "images": 200, "few_share": 5.0, "ways": entry}
    return every


def test_the_winner_finds_most_without_costing_accuracy(selection, monkeypatch):
    monkeypatch.setattr(selection, "WAYS", dict.fromkeys(("random", "rarity", "both")))
    one = {"random": (5, 50), "rarity": (9, 40), "both": (7, 51)}
    other = {"random": (5, 50), "rarity": (9, 45), "both": (7, 50)}
    found = results(selection, one=one, other=other)
    assert selection.overall(found, "recall") == {"random": 5, "rarity": 9, "both": 7}
    assert selection.overall(found, "all") == {"random": 50, "rarity": 42.5, "both": 50.5}
    assert selection.winner(found) == "both"
    assert selection.winner(results(selection, one=one | {"rarity": (9, 50)})) == "rarity"


def test_a_run_of_the_demo_reaches_the_report(selection, tmp_path, monkeypatch):
    monkeypatch.setattr(selection, "open_source", lambda _data, split: digits(split))
    monkeypatch.setattr(selection.torch, "set_num_threads", lambda _threads: None)  # the suite's own number stays
    monkeypatch.setattr(selection, "WAYS", {"random": selection.Way("random"), "k_center": selection.Way("k_center")})
    config = digits_demo()
    config = replace(config, epochs=1, optim=replace(config.optim, warmup_epochs=0))
    source = SubsetSource(digits(), selection.digits_drawn(2))
    pretrain(source, config, run=tmp_path / "runs" / "simclr-2", runtime=Runtime(progress=False, amp="none"))
    (tmp_path / "runs" / "unfinished").mkdir()
    out = tmp_path / "new" / "selection.md"
    arguments = ["--data", "digits", "--runs", str(tmp_path / "runs"), "--cache", str(tmp_path / "cache")]
    selection.main([*arguments, "--out", str(out)])
    text = out.read_text()
    assert "Which images to label next" in text
    assert f"simclr, digits, IF 50: 10% of {len(source)} images" in text
    written = json.loads(out.with_suffix(".json").read_text())
    entry = written["results"]["simclr-2"]
    assert entry["images"] == len(source)
    assert entry["ways"]["k_center"]["0.1"]["classes"] >= 4
    assert written["winner"] in {"random", "k_center"}
    assert not (tmp_path / "runs" / "simclr-2" / "selection.json").exists()  # what is there is read alone
    # A second time nothing is encoded: the features are those of the cache.
    monkeypatch.setattr(selection, "encode_images", None)
    selection.main([*arguments, "--out", str(out)])
    assert json.loads(out.with_suffix(".json").read_text())["results"]["simclr-2"] == entry


def test_no_run_is_an_error_that_names_the_mend(selection, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(selection, "open_source", lambda _data, split: digits(split))
    with pytest.raises(SystemExit):
        selection.main(["--data", "digits", "--runs", str(tmp_path)])
    assert "no finished run" in capsys.readouterr().err
