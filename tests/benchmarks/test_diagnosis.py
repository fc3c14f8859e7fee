"""The validation of label-free indices: what is drawn, and what is said of an index."""

import importlib

import numpy as np
import pytest


@pytest.fixture
def script():
    return importlib.import_module("diagnosis")


@pytest.mark.parametrize("imbalance", [1, 10, 50, 100])
def test_totals_are_equal_and_profiles_exponential(script, imbalance):
    counts = script.counts_of_total(imbalance, 3000)
    assert counts.sum() == 3000
    assert (np.diff(counts) <= 0).all()
    assert counts[0] / counts[-1] == pytest.approx(imbalance, rel=0.1)


def test_a_draw_has_the_counts_in_the_order_of_its_classes(script):
    labels = np.random.default_rng(0).integers(0, 10, 20_000)
    counts = script.counts_of_total(100, 3000)
    drawn = {order: script.draw(labels, counts, order) for order in (1, 2)}
    for rows in drawn.values():
        assert len(np.unique(rows)) == 3000
        assert sorted(np.bincount(labels[rows]).tolist(), reverse=True) == counts.tolist()
    heads = [np.bincount(labels[rows]).argmax() for rows in drawn.values()]
    assert heads[0] != heads[1]
    np.testing.assert_array_equal(drawn[1], script.draw(labels, counts, 1))


def _found(script, values):
    """Two encoders, two class orders; `values(encoder, order, imbalance)` is the index."""
    return [
        script.Found(encoder, order, imbalance, 3000, {"some": values(encoder, order, imbalance)})
        for encoder in ("a", "b")
        for order in (1, 2)
        for imbalance in (1, 10, 50, 100)
    ]


def test_an_index_that_rises_within_each_encoder_is_told(script):
    found = _found(script, lambda encoder, order, imbalance: (encoder == "b") * 1000 + order + imbalance)
    said = script.verdict(found, "some")
    assert said["correlation"] == (pytest.approx(1), pytest.approx(0))
    assert said["separation"] == (1, 0)
    assert said["10"] == (pytest.approx(511.5), pytest.approx(np.std([11, 12, 1011, 1012])))


def test_one_that_falls_and_one_that_does_neither(script):
    falling = script.verdict(_found(script, lambda _encoder, _order, imbalance: -imbalance), "some")
    assert falling["correlation"][0] == pytest.approx(-1)
    assert falling["separation"][0] == 0
    mixed = script.verdict(_found(script, lambda _encoder, order, imbalance: (2 * order - 3) * imbalance), "some")
    assert mixed["correlation"] == (pytest.approx(0), pytest.approx(1))


def test_the_report_ranks_indices_by_separation(script, monkeypatch):
    monkeypatch.setattr(script, "commit", lambda: "abc1234")
    equal = _found(script, lambda _encoder, order, imbalance: order + imbalance)
    for item in equal:
        item.indices["noise"] = float(item.order)
    text = script.report(equal, equal[:4], [], [{"distance": 0.75}, {"distance": 0.65, "other": 0.5}], "command")
    assert text.index("| some |") < text.index("| noise |")
    assert "| distance | 0.700 ± 0.050 |" in text
    assert "| some | 2.500 ± 0.500 | 11.5 ± 0.5 |" in text
    assert "`command` (commit abc1234)" in text
    assert "trained at the imbalance" not in text


def test_where_it_errs_is_found_by_what_is_wrong(script):
    """Two classes apart, and a cloud between them whose labels are chance: far from its neighbors, and wrong."""
    rng = np.random.default_rng(0)
    labels = np.tile(np.arange(10), 300)
    dense = np.eye(10, 12)[labels] * 5 + rng.normal(scale=0.2, size=(3000, 12))
    lost = rng.permutation(3000)[:900]
    dense[lost] = rng.normal(size=(900, 12))
    seen = script.Encoded(dense.astype(np.float32), None, None, np.arange(3000), [])
    scores = next(iter(script.where_it_errs(seen, labels, total=500)))
    assert scores["neighbor distance"] > 0.8
