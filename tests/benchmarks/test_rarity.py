"""The contest of rarity scores: what is measured, and that a whole case goes through."""

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy.stats import rankdata

from sdclr.data.sources import SubsetSource, digits
from sdclr.encoders import EncoderConfig, HeadConfig
from sdclr.training.config import DamageConfig, PretrainConfig, Runtime
from sdclr.training.optim import OptimConfig
from sdclr.training.pretrain import pretrain
from sdclr.views.parameters import ViewConfig


@pytest.fixture(scope="module")
def rarity(_scripts_import_each_other: None) -> ModuleType:
    return importlib.import_module("rarity")


def test_a_perfect_score_and_one_that_is_upside_down(rarity):
    rare = np.arange(200) < 10
    perfect = rarity.measure(rare.astype(float), rare)
    assert (perfect["auroc"], perfect["average precision"]) == (1, 1)
    assert perfect["lift at 1 %"] == perfect["lift at 5 %"] == pytest.approx(20)
    assert rarity.measure(-rare.astype(float), rare)["auroc"] == 0


def test_auroc_is_the_share_of_pairs_in_order(rarity):
    rng = np.random.default_rng(0)
    score, rare = rng.normal(size=80), rng.random(80) < 0.2
    pairs = score[rare][:, None] > score[~rare][None]
    assert rarity.measure(score, rare)["auroc"] == pytest.approx(pairs.mean())


def test_a_mean_of_ranks_is_one(rarity):
    rng = np.random.default_rng(0)
    names = ("distance_10", "cluster_size, √N", "forgetting_0.5", "loss", "lof_10")
    scores = {name: rng.normal(size=50) for name in names}
    found = rarity.combined(scores)
    expected = rankdata(scores["distance_10"]) + rankdata(scores["forgetting_0.5"])
    assert found["distance + forgetting"] == pytest.approx(expected / 100)
    assert np.corrcoef(found["distance - loss"], rankdata(scores["loss"]))[0, 1] < 0
    first = found["first component of the ranks"]
    assert np.corrcoef(first, rankdata(scores["distance_10"]))[0, 1] > 0


def test_a_case_is_measured_once(rarity, tmp_path: Path):
    source = SubsetSource(digits(), np.arange(130), name="some")
    config = PretrainConfig(
        encoder=EncoderConfig(width=4),
        head=HeadConfig(dim=8),
        damage=DamageConfig(ratio=0.5),
        optim=OptimConfig(lr=0.1, warmup_epochs=0),
        epochs=1,
        batch_size=32,
        views=ViewConfig(image_size=8),
    )
    run = pretrain(source, config, run=tmp_path / "run", runtime=Runtime(device="cpu", progress=False, amp="none"))
    case = rarity.Case("tiny", 1, run, source, np.array([3, 4]))
    rows = list(rarity.contest(iter([case])))
    assert {"distance_100", "forgetting_0.9", "loss", "isolation forest", "random"} <= {row["score"] for row in rows}
    assert all(0 <= row["auroc"] <= 1 for row in rows)
    kept = (run.path / "contest.json").read_text()
    assert list(rarity.contest(iter([case]))) == rows
    assert (run.path / "contest.json").read_text() == kept
    table = rarity.tables(rows)
    assert table.count("| tiny |") == 1
    assert "| distance_10 |" in table
