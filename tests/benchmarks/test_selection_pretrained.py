"""The contest of selections with a pretrained encoder: its measures, its ways, and its rule."""

import importlib
import json

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import pairwise_distances

SIZES = (80, 60, 40, 30, 20, 12, 10, 8, 6, 4)


@pytest.fixture
def contest():
    return importlib.import_module("selection_pretrained")


@pytest.fixture
def tables():
    return importlib.import_module("selection_tables")


@pytest.fixture
def case(contest):
    """Ten clouds that are easy to tell apart."""
    rng = np.random.default_rng(0)

    def drawn(sizes):
        y = np.repeat(np.arange(10), sizes)
        return contest.Labeled((4 * np.eye(10, 12)[y] + 0.5 * rng.normal(size=(len(y), 12))).astype(np.float32), y)

    return contest.Case("made", 1, drawn(SIZES), drawn([20] * 10))


def test_measures_are_those_of_the_choice(contest, case):
    one_each = np.array([np.flatnonzero(case.pool.y == label)[0] for label in range(10)])
    found = contest.measure(one_each, case)
    assert found["classes"] == 10
    assert min(found[key] for key in ("all", "few", "mean", "nn")) > 90
    rare = 6 + 4 + 8  # the three smallest of ten classes, in images
    assert found["recall"] == pytest.approx(100 * 3 / rare)
    common = contest.measure(np.flatnonzero(case.pool.y < 7), case)
    assert (common["few"], common["recall"], common["classes"]) == (0, 0, 7)
    assert common["all"] == pytest.approx(70, abs=2)
    assert contest.measure(np.arange(3), case)["all"] == pytest.approx(10)  # one class is all that is known


def test_the_probe_is_the_one_of_all_coordinates(contest):
    rng = np.random.default_rng(1)
    pool = rng.normal(size=(200, 40)).astype(np.float32) * rng.uniform(0.1, 3, size=40).astype(np.float32) + 2
    y = np.arange(200) % 4
    chosen = np.arange(12)
    found = contest.logistic_predictions(pool, pool[chosen], y[chosen], pool)
    standard = (pool - pool.mean(axis=0)) / pool.std(axis=0)
    layer = LogisticRegression(C=1 / (contest.PENALTY * 12), max_iter=2000, tol=1e-8).fit(standard[chosen], y[chosen])
    assert (found == layer.predict(standard)).mean() > 0.99


def test_halves_keep_the_shares_of_classes(contest):
    labels = np.repeat([0, 1, 2], [40, 21, 4])
    halves = [contest.half_of(labels, seed) for seed in (1, 2)]
    assert [np.bincount(labels[half]).tolist() for half in halves] == [[20, 11, 2]] * 2
    assert (halves[0] != halves[1]).any()


def test_every_way_fills_its_budget(contest, case, monkeypatch, tmp_path):
    seen = contest.seen_of(case.pool)
    for name, way in contest.WAYS.items():
        chosen = way.choose(seen, 30, 1)
        assert len(set(chosen.tolist())) == 30, name
        if way.nested:
            np.testing.assert_array_equal(way.choose(seen, 20, 1), chosen[:20], err_msg=name)
    ways = {name: contest.WAYS[name] for name in ("random", "coverage, balls by share")}
    monkeypatch.setattr(contest, "WAYS", ways)
    monkeypatch.setattr(contest, "PER_CLASS", (1, 2))
    rows = contest.rows_of(case, tmp_path / "made-1.json")
    assert [(row["way"], row["per_class"]) for row in rows] == [(name, count) for name in ways for count in (1, 2)]
    monkeypatch.setattr(contest, "measure", None)  # what is known is not measured again
    assert contest.rows_of(case, tmp_path / "made-1.json") == json.loads(json.dumps(rows))


def test_kinds_in_turn_share_a_budget(contest):
    kinds = np.repeat([0, 1, 2], [50, 20, 2])
    seen = contest.Seen(np.random.default_rng(0).normal(size=(72, 6)).astype(np.float32), np.zeros(72), kinds)

    def shares(budget, *, rarest):
        return np.bincount(kinds[contest._kinds_in_turn(seen, budget, 0, rarest=rarest)], minlength=3).tolist()

    assert shares(2, rarest=False) == [1, 1, 0]
    assert shares(2, rarest=True) == [0, 1, 1]
    assert shares(10, rarest=False) == [4, 4, 2]


def made_rows(figures):
    """Rows of one measure for each (collection, case, way): All and Few at two budgets; classes are alike."""
    return [
        {"collection": collection, "case": number, "kinds": 2, "way": way, "per_class": count}
        | {"all": value + count, "few": few, "mean": 0.0, "nn": 0.0, "classes": 5.0, "recall": 1.0}
        for (collection, number, way), (value, few) in figures.items()
        for count in (1, 2)
    ]


def test_the_rule_asks_for_all_where_few_is_not_below_random(tables):
    figures = {
        ("a", 1, "random"): (40, 10), ("a", 2, "random"): (42, 10), ("b", 1, "random"): (60, 20),
        ("a", 1, "typicality"): (50, 5), ("a", 2, "typicality"): (50, 5), ("b", 1, "typicality"): (70, 20),
        ("a", 1, "kinds, x"): (45, 11), ("a", 2, "kinds, x"): (46, 11), ("b", 1, "kinds, x"): (60, 20),
        ("a", 1, "kinds, y"): (41, 30), ("a", 2, "kinds, y"): (41, 30), ("b", 1, "kinds, y"): (60, 30),
    }  # fmt: skip
    rows = made_rows(figures)
    assert tables.eligible(rows) == ["random", "kinds, x", "kinds, y"]
    assert tables.winner(rows) == "kinds, x"
    # Collections count alike, whatever the number of their cases: (41 + 60) / 2, and 1.5 for the budgets.
    assert tables.overall(rows, "all", "random") == pytest.approx(52)
    assert tables.difference(rows, "kinds, x", "random", "all", "a") == (4.5, 0.5)
    text = tables.markdown(rows)
    assert "The rule's choice: kinds, x. Of kinds: kinds, x." in text
    assert "**kinds, x**" in text
    assert tables.mean_rank(rows, "typicality") == 1


@pytest.mark.parametrize(
    ("few", "alls", "taken"),
    [(21, (60, 62), True), (21, (50, 52), False), (20, (60, 62), False), (21, (58.5, 62.5), True)],
)
def test_the_later_way_has_one_collection_to_prove_itself(tables, few, alls, taken):
    rows = made_rows(
        {("a", 1, "random"): (40, 10), ("a", 1, "typicality"): (50, 12), ("a", 1, "mixed"): (70, 20)}
        | {("cifar10", number, "random"): (40, 10) for number in (1, 2)}
        | {("cifar10", number, "typicality"): (61, 20) for number in (1, 2)}
        | {("cifar10", number, "mixed"): (value, few) for number, value in zip((1, 2), alls, strict=True)}
    )
    assert tables.winner(rows) == "typicality"
    assert tables.confirmed(rows) is taken
    assert ("mixed takes its place" in tables.overall_table(rows).note) is taken


def unit(x):
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("purity", [0.5, 0.9, 1.0])
def test_the_radius_of_the_paper_is_the_largest_of_that_purity(purity):
    pure_threshold = importlib.import_module("probcover_radius").pure_threshold
    rng = np.random.default_rng(1)
    x, labels = unit(rng.normal(size=(200, 3))), rng.integers(3, size=200)
    apart = pairwise_distances(x.astype(np.float64))

    def pure(radius):
        """Share of open balls whose rows all have the label of the center."""
        return np.mean([(labels[near] == label).all() for near, label in zip(apart < radius, labels, strict=True)])

    radius = np.sqrt(2 - 2 * pure_threshold(torch.from_numpy(x), labels, purity=purity))
    assert pure(radius - 1e-4) >= purity
    assert pure(radius + 1e-4) < purity


def test_one_label_makes_every_ball_pure():
    pure_threshold = importlib.import_module("probcover_radius").pure_threshold
    assert pure_threshold(torch.eye(5), np.zeros(5, dtype=np.int64)) == -np.inf
