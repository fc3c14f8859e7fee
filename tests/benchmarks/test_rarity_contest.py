"""The contest of rarity scores: scores against independent computations, figures against counting, and the rule."""

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

CLASSES, EACH = 3, 40


@pytest.fixture(scope="module")
def scores(_scripts_import_each_other: None) -> ModuleType:
    return importlib.import_module("rarity_scores")


@pytest.fixture(scope="module")
def contest(_scripts_import_each_other: None) -> ModuleType:
    return importlib.import_module("rarity_contest")


@pytest.fixture(scope="module")
def tables(_scripts_import_each_other: None) -> ModuleType:
    return importlib.import_module("rarity_tables")


@pytest.fixture(scope="module")
def features():
    """A wide cloud of 100 rows, and 20 that lie close together in another direction."""
    rng = np.random.default_rng(0)
    cloud = rng.normal(size=(100, 16)) + 3 * np.eye(16)[0]
    tight = 0.1 * rng.normal(size=(20, 16)) + 5 * np.eye(16)[1]
    return np.concatenate([cloud, tight]).astype(np.float32)


def test_the_walk_is_the_power_of_a_matrix(scores, features):
    import torch

    from sdclr.features.nearest import nearest

    k, steps = 5, 6
    rows = features / np.linalg.norm(features, axis=1, keepdims=True)
    similar = rows @ rows.T
    np.fill_diagonal(similar, -np.inf)
    graph = np.eye(len(rows))
    for i, near in enumerate(np.argsort(-similar, axis=1)[:, :k]):
        graph[i, near] = graph[near, i] = 1
    walked = np.linalg.matrix_power(graph / graph.sum(axis=1, keepdims=True), steps)
    found = scores.walk_score(nearest(torch.from_numpy(features), k), k, steps, block=7)
    assert found == pytest.approx(-1 / (walked**2).sum(axis=1), rel=1e-4)


def test_a_small_separate_group_comes_first_where_groups_count_and_last_by_distance(scores, features):
    found = scores.baseline_scores(features)
    tight = np.arange(len(features)) >= 100
    assert found["walk"][tight].min() > found["walk"][~tight].max()
    assert found["kmeans_10"].shape == (len(features),)
    assert found["distance"][tight].max() < found["distance"][~tight].min()
    assert all(np.isfinite(values).all() for values in found.values())


def test_hdbscan_puts_noise_between_small_and_large_clusters(scores):
    rng = np.random.default_rng(1)
    large = 0.1 * rng.normal(size=(400, 8)) + 5 * np.eye(8)[0]
    small = 0.1 * rng.normal(size=(30, 8)) + 5 * np.eye(8)[1]
    odd = rng.normal(size=(10, 8)) - 2
    rows = np.concatenate([large, small, odd])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    score = scores.hdbscan_score(rows.astype(np.float32), np.arange(len(rows), dtype=float))
    assert score[400:430].min() > score[430:].max() > score[430:].min() > np.median(score[:400])


def _case(contest, features, **changes):
    rare = np.arange(len(features)) >= 100
    given = {
        "file": Path("x@lite0-96.npz"),
        "collection": "x",
        "form": "plain",
        "encoder": "lite0-96",
        "held_out": False,
        "features": features,
        "labels": np.repeat(np.arange(6), 20),
        "rare": rare,
        "junk": np.zeros(len(features), dtype=bool),
        "copy": np.zeros(len(features), dtype=bool),
        "forgetting": None,
    }
    return contest.Case(**given | changes)


def test_figures_count_what_a_person_sees(contest, features):
    labels = np.array([0] * 100 + [1] * 15 + [2] * 5)
    junk = np.arange(120) < 10
    case = _case(contest, features, labels=labels, junk=junk)
    score = np.zeros(120)
    score[:10], score[100:115] = 3, 2  # junk first, then the first of two rare classes, then the rest in order
    found = contest.figures(score, case)
    assert found["met_50"] == 0.5
    assert found["met_200"] == 1
    assert found["junk_100"] == 10
    pairs = score[case.rare][:, None] - score[~case.rare][None]
    assert found["auroc"] == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())


def _row(collection, score, auroc, *, form="plain", held_out=False):
    figures = {"lift": 1.0, "met_50": 0.5, "met_100": 0.5, "met_200": 1.0, "junk_100": 2.0, "copies_100": 0.0}
    about = {"collection": collection, "form": form, "encoder": "lite0-96", "held_out": held_out, "kinds_found": 2}
    return {**about, "images": 9, "base_rate": 0.1, "score": score, "auroc": auroc, **figures}


@pytest.mark.parametrize(
    ("kinds", "held_back", "holds"),
    [
        ((0.99, 0.70), 0.70, "yes"),
        ((0.99, 0.67), 0.70, "no"),  # loses by more than 0.02 where it must not
        ((0.99, 0.70), 0.60, "no"),  # so does a collection that was kept back
        ((0.53, 0.70), 0.70, "no"),  # gains too little where kinds are separated
    ],
)
def test_the_rule(tables, kinds, held_back, holds):
    rows = [
        _row("separated-photos-a", "kinds", kinds[0]),
        _row("separated-photos-a", "distance", 0.5),
        _row("clothing", "kinds", kinds[1]),
        _row("clothing", "distance", 0.7),
        _row("digits-order3", "kinds", held_back, form="junk", held_out=True),
        _row("digits-order3", "distance", 0.7, form="junk", held_out=True),
    ]
    assert f"**{holds}**" in tables.verdict(rows)


def test_means_are_over_class_orders(tables):
    rows = [_row(f"digits-order{order}", "distance", auroc) for order, auroc in ((1, 0.6), (2, 0.8))]
    assert "| digits | lite0-96 | 2 | 0.100 | 0.700 ± 0.141 |" in tables.auroc_table(rows)


def test_a_cached_case_goes_through(contest, features, tmp_path: Path):
    no = np.zeros(120, dtype=bool)
    about = {"labels": np.repeat(np.arange(6), 20), "rare": np.arange(120) >= 100, "held_out": False}
    for name, form in (("digits-order1", "plain"), ("digits-order1+junk", "junk")):
        np.savez(tmp_path / f"{name}@lite0-96.npz", features=features, junk=no, copy=no, form=form, **about)
    rows = [row for case in contest.cases([tmp_path]) for row in contest.rows_of(case)]
    assert {(row["collection"], row["form"]) for row in rows} == {("digits-order1", "plain"), ("digits-order1", "junk")}
    assert {"distance", "lof", "walk", "random"} <= {row["score"] for row in rows}
    stored = tmp_path / "scores" / "digits-order1@lite0-96.npz"
    before = stored.stat().st_mtime_ns
    contest.main(["--cache", str(tmp_path), "--out", str(tmp_path / "out")])
    assert stored.stat().st_mtime_ns == before
    assert (tmp_path / "out" / "rarity.csv").read_text().count("\n") == len(rows) + 1
    table = (tmp_path / "out" / "rarity_tables.md").read_text()
    assert table.count("| digits | lite0-96 | 1 | 0.167 |") == 1
