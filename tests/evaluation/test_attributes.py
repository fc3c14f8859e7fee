"""Probes and balance by attribute."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

import sdclr
from sdclr.data.sources import ArraySource, SubsetSource, digits
from sdclr.errors import InputError
from sdclr.evaluation.attributes import (
    AttributeConfig,
    attribute_balance,
    attribute_groups,
    attribute_holdout,
    attribute_probe,
    auroc,
    average_precision,
    evaluate_attributes,
)
from sdclr.evaluation.logistic import LogisticConfig
from sdclr.longtail.mosaics import mosaics
from sdclr.longtail.splits import class_groups

EXACT = {"tolerance": 1e-7, "search_tolerance": 1e-6}


def made(count, width=6, seed=0, unknown=0.2):
    """Features of different scales, and four attributes from frequent to rare, some of them unknown."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(count, width))
    weight = np.random.default_rng(99).normal(size=(width, 4))
    values = (x @ weight + generator.normal(size=(count, 4)) > [-1.5, 0.0, 2.0, 4.0]).astype(np.int8)
    values[generator.random(values.shape) < unknown] = -1
    return (x * 10.0 ** np.linspace(-2, 2, width) + 3).astype(np.float32), values


def standardized(x, of):
    of = of.astype(np.float64)
    return (x.astype(np.float64) - of.mean(0)) / of.std(0)


class TestAveragePrecision:
    def test_by_the_formula(self):
        """Mean over the positives of the precision at each of them, without the unknown images."""
        generator = np.random.default_rng(0)
        scores, values = generator.normal(size=(60, 3)), generator.integers(-1, 2, (60, 3))
        for attribute, found in enumerate(average_precision(scores, values)):
            known = values[:, attribute] >= 0
            ranked = values[known, attribute][np.argsort(-scores[known, attribute])]
            precisions = [ranked[: place + 1].mean() for place in np.flatnonzero(ranked == 1)]
            assert found == pytest.approx(np.mean(precisions))

    def test_roc_area_is_the_share_of_pairs_in_order(self):
        generator = np.random.default_rng(1)
        scores, values = generator.normal(size=(60, 3)), generator.integers(-1, 2, (60, 3))
        for attribute, found in enumerate(auroc(scores, values)):
            shown, others = (scores[values[:, attribute] == value, attribute] for value in (1, 0))
            assert found == pytest.approx((shown[:, None] > others).mean())

    def test_unknown_without_positives(self):
        scores, values = np.zeros((3, 4)), np.array([[0, -1, 1, 1], [0, -1, 1, 0], [0, -1, -1, 0]])
        np.testing.assert_array_equal(np.isnan(average_precision(scores, values)), [True, True, False, False])
        np.testing.assert_array_equal(np.isnan(auroc(scores, values)), [True, True, True, False])

    def test_shapes_must_fit(self):
        with pytest.raises(InputError, match=r"scores \(3, 2\) and values \(3, 4\) differ"):
            average_precision(np.zeros((3, 2)), np.zeros((3, 4)))


class TestBalance:
    def test_groups_are_those_of_classes(self):
        counts = [500, 3, 60, 20, 7, 101, 19]
        for rule in ("thirds", "shots"):
            for name, ids in attribute_groups(counts, rule=rule).items():
                assert ids.tolist() == class_groups(counts, rule=rule)[name].tolist()

    def test_figures(self):
        found = attribute_balance([10.0, 20.0, math.nan, 40.0], [1, 300, 50, 200], rule="shots")
        assert found[:2] == (30.0, pytest.approx(math.nan, nan_ok=True))
        assert found.few == 10.0
        assert found.all == pytest.approx(70 / 3)
        assert found.std == 10.0

    @pytest.mark.parametrize("counts", [None, [5, 5, 5]])
    def test_without_frequent_and_rare_ones_there_is_only_the_mean(self, counts):
        found = attribute_balance([1.0, 2.0, 6.0], counts)
        assert found.all == 3
        assert math.isnan(found.many)
        assert math.isnan(found.std)

    def test_counts_must_fit(self):
        with pytest.raises(InputError, match="one of each per attribute"):
            attribute_balance([1.0, 2.0], [3, 4, 5])


class TestHoldout:
    @given(
        st.integers(2, 80),
        st.lists(st.floats(0, 0.6), min_size=1, max_size=6),
        st.floats(0.05, 0.95),
        st.integers(0, 5),
    )
    def test_parts_the_images_and_the_rarest_attribute(self, count, rates, fraction, seed):
        values = (np.random.default_rng(seed).random((count, len(rates))) < rates).astype(np.int8)
        kept, held = attribute_holdout(values, fraction, seed)
        assert sorted([*kept.tolist(), *held.tolist()]) == list(range(count))
        assert len(kept)
        assert len(held)
        rarest = values.T[values.sum(axis=0).argmin()]
        if rarest.sum() > 1:
            assert rarest[kept].any()
            assert rarest[held].any()

    @given(st.lists(st.integers(0, 3), min_size=2, max_size=80), st.floats(0.05, 0.95))
    def test_of_attributes_that_exclude_each_other_shares_are_exact(self, shown, fraction):
        values = np.eye(4, dtype=np.int8)[shown]
        _, held = attribute_holdout(values, fraction)
        if max(np.bincount(shown)) > 1:
            for count, taken in zip(values.sum(axis=0), values[held].sum(axis=0), strict=True):
                assert taken == max(0, min(max(1, round(fraction * count)), count - 1))

    def test_shares_are_about_as_asked_for_and_rare_ones_are_on_both_sides(self):
        values = (np.random.default_rng(0).random((4000, 3)) < [0.5, 0.05, 0.001]).astype(np.int8)
        kept, held = attribute_holdout(values, 0.1)
        assert len(held) / 4000 == pytest.approx(0.1, abs=0.005)
        for shown in values.T[:2] == 1:
            assert shown[held].sum() / shown.sum() == pytest.approx(0.1, abs=0.01)
        assert 2 <= (values[:, 2] == 1).sum() <= 10
        assert (values[held, 2] == 1).sum() == 1
        assert (values[kept, 2] == 1).any()

    def test_the_seed_decides(self):
        values = np.random.default_rng(0).integers(0, 2, (200, 3))
        first, again, other = (attribute_holdout(values, 0.2, seed)[1].tolist() for seed in (1, 1, 2))
        assert first == again != other

    def test_one_image_cannot_be_parted(self):
        with pytest.raises(InputError, match="label at least two"):
            attribute_holdout([[1]], 0.5)


class TestProbe:
    @pytest.mark.parametrize("penalty", [0.1, 1e-3])
    def test_is_that_of_sklearn_attribute_by_attribute(self, penalty):
        (x, values), (val_x, val) = made(500), made(100, seed=1)
        probe = attribute_probe(x, values, val_x, val, LogisticConfig(penalties=(penalty,), **EXACT))
        assert probe.converged
        z = standardized(x, x)
        for attribute, scores in enumerate(probe.scores(x).T):
            known = values[:, attribute] >= 0
            oracle = LogisticRegression(C=1 / (penalty * known.sum()), tol=1e-10, max_iter=10_000)
            oracle.fit(z[known], values[known, attribute])
            np.testing.assert_allclose(scores, oracle.decision_function(z), atol=2e-3)
            assert np.ptp(scores) > 1.5  # there is something to compare

    def test_each_attribute_takes_the_penalty_that_does_best_in_validation(self):
        (x, values), (val_x, val) = made(60, width=20), made(400, width=20, seed=1)
        penalties = (1.0, 0.1, 1e-2, 1e-3)
        probe = attribute_probe(x, values, val_x, val, LogisticConfig(penalties=penalties, **EXACT))
        z, val_z = standardized(x, x), standardized(val_x, x)
        for attribute in range(4):
            known, val_known = values[:, attribute] >= 0, val[:, attribute] >= 0
            losses = []
            for penalty in penalties:
                oracle = LogisticRegression(C=1 / (penalty * known.sum()), tol=1e-10, max_iter=10_000)
                oracle.fit(z[known], values[known, attribute])
                likelihoods = oracle.predict_proba(val_z[val_known])
                losses.append(-np.log(likelihoods[np.arange(val_known.sum()), val[val_known, attribute]]).mean())
            assert probe.penalty[attribute] == penalties[int(np.argmin(losses))]
        assert len(set(probe.penalty)) > 1

    def test_does_not_depend_on_the_other_attributes(self):
        (x, values), (val_x, val) = made(300), made(100, seed=1)
        config = LogisticConfig(penalties=(1e-2,), **EXACT)
        together = attribute_probe(x, values, val_x, val, config).scores(val_x)
        alone = attribute_probe(x, values[:, 2:3], val_x, val[:, 2:3], config).scores(val_x)
        np.testing.assert_allclose(together[:, 2:3], alone, atol=2e-3)

    def test_attributes_without_positives_or_negatives_are_left_out(self):
        (x, values), (val_x, val) = made(200), made(50, seed=1)
        values[values[:, 1] == 1, 1] = -1
        values[values[:, 2] == 0, 2] = -1
        probe = attribute_probe(x, values, val_x, val)
        assert probe.trained.tolist() == [True, False, False, True]
        assert np.isnan(probe.penalty).tolist() == [False, True, True, False]
        np.testing.assert_array_equal(probe.scores(val_x)[:, 1:3], 0)
        nothing = attribute_probe(x, np.zeros_like(values), val_x, val)
        assert not nothing.trained.any()

    def test_nothing_known_in_validation_takes_the_strongest_penalty(self):
        (x, values), (val_x, val) = made(100), made(50, seed=1)
        val[:, 0] = -1
        probe = attribute_probe(x, values, val_x, val, LogisticConfig(penalties=(1e-3, 0.5, 1e-2)))
        assert probe.penalty[0] == 0.5

    @pytest.mark.parametrize(
        ("values", "val", "message"),
        [
            (np.zeros((9, 2)), np.zeros((5, 2)), r"shape \(9, 2\) for 10 images"),
            (np.zeros((10, 2), int), np.zeros((5, 3), int), "2 attributes in training and 3 in validation"),
            (np.full((10, 2), 7), np.zeros((5, 2), int), "is 7; give 1"),
        ],
    )
    def test_shapes_and_values_must_fit(self, values, val, message):
        with pytest.raises(InputError, match=message):
            attribute_probe(np.ones((10, 3)), values, np.ones((5, 3)), val)


TINY = sdclr.PretrainConfig(
    encoder=sdclr.EncoderConfig(width=4),
    views=sdclr.ViewConfig(image_size=8, flip=0.0),
    damage=sdclr.DamageConfig(ratio=0.5),
    optim=sdclr.OptimConfig(lr=0.1, warmup_epochs=0),
    epochs=1,
    batch_size=64,
)
QUICK = AttributeConfig(few_shot=0.1, draws=2, logistic=LogisticConfig(penalties=(0.1, 1e-2, 1e-3)))
COUNTS = {str(digit): 100 - 10 * digit for digit in range(10)}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    source = SubsetSource(digits("train"), np.arange(256))
    return sdclr.pretrain(source, TINY, run=folder, runtime=sdclr.Runtime(progress=False))


@pytest.fixture(scope="module")
def sets():
    return (
        mosaics(digits("train"), 400, imbalance=1, seed=1, name="train"),
        mosaics(digits("test"), 300, imbalance=1, seed=2, name="test"),
    )


@pytest.fixture(scope="module")
def result(run, sets):
    return evaluate_attributes(*sets, QUICK, encoder=run, attribute_counts=COUNTS)


class TestEvaluate:
    def test_figures_follow_from_the_attributes(self, result):
        assert result.names == tuple("0123456789")
        for score in (result.linear, result.few_shot):
            for groups, figures in (
                (score.balance, score.average_precision),
                (score.auroc_balance, score.auroc),
            ):
                means = [np.mean(figures[:4]), np.mean(figures[4:7]), np.mean(figures[7:])]
                assert groups[:3] == pytest.approx(means)
                assert groups.std == pytest.approx(np.std(means))
            assert score.untrained == []

    def test_probes_beat_the_base_rate(self, result, sets):
        assert result.base_rate.all == pytest.approx(100 * (sets[1].attributes == 1).mean())
        assert result.linear.balance.all > result.base_rate.all + 5
        assert result.linear.auroc_balance.all > 55
        assert result.linear.balance.all > result.few_shot.balance.all

    def test_json_holds_what_it_takes_to_repeat_it(self, run, result):
        text = (run.results / "attributes.json").read_text()
        assert "NaN" not in text
        written = json.loads(text)
        assert written == result.to_json()
        assert written["attribute_counts"] == COUNTS
        assert written["counted_in"] == "given"
        assert written["config"]["draws"] == 2
        assert len(written["few_shot"]["penalty"]) == 2
        assert 30 < written["few_shot"]["images"] < 60

    def test_the_sparse_branch_has_a_file_of_its_own(self, run, sets, result):
        sparse = evaluate_attributes(*sets, AttributeConfig(branch="sparse", few_shot=0.1), encoder=run)
        assert (run.results / "attributes-sparse.json").exists()
        assert json.loads((run.results / "attributes.json").read_text()) == result.to_json()
        assert sparse.linear.average_precision != result.linear.average_precision
        assert sparse.description["counted_in"] == "train"

    def test_counts_that_the_run_recorded_decide_the_groups(self, run, sets, monkeypatch):
        recorded = run.source | {"attribute_counts": {"9": 50, "3": 2}}
        monkeypatch.setattr(type(run), "source", property(lambda _: recorded))
        found = evaluate_attributes(*sets, QUICK, encoder=run).to_json()
        assert found["counted_in"] == "run"
        assert [found["attribute_counts"][name] for name in "0379"] == [0, 2, 0, 50]

    def test_names_are_matched_and_what_cannot_be_judged_is_listed(self, run):
        generator = np.random.default_rng(0)
        images = generator.integers(0, 256, (80, 8, 8), dtype=np.uint8)
        values = generator.integers(0, 2, (80, 3)).astype(np.int8)
        train = ArraySource(images, name="a", attributes=values, attribute_names=["x", "y", "gone"])
        test = ArraySource(images, name="b", attributes=values * [[1, 1, 0]], attribute_names=["y", "x", "new"])
        found = evaluate_attributes(train, test, QUICK, encoder=run)
        assert found.names == ("x", "y", "gone", "new")
        assert found.linear.untrained == ["new"]
        assert found.description["untested"] == ["gone", "new"]
        assert np.isnan(found.linear.average_precision).tolist() == [False, False, True, True]
        # The test set has x and y the other way round, so what was learned by heart must look like chance.
        assert found.linear.auroc[0] < 75

    def test_images_of_which_nothing_is_known_change_nothing(self, run, sets, result):
        class WithUnknown:
            """The first set, and as many images without any known attribute."""

            name, labels, classes = "both", None, ()
            ids = tuple(map(str, range(800)))
            attribute_names = sets[0].attribute_names
            attributes = np.concatenate([sets[0].attributes, -np.ones_like(sets[0].attributes)])

            def __len__(self):
                return 800

            def image(self, index, *, min_side=None):  # noqa: ARG002  # as the protocol has it
                return sets[0].image(index % 400)

        found = evaluate_attributes(WithUnknown(), sets[1], QUICK, encoder=run, attribute_counts=COUNTS)
        assert found.linear.details["images"] == result.linear.details["images"]
        np.testing.assert_allclose(found.linear.average_precision, result.linear.average_precision, atol=0.5)

    def test_errors(self, run, sets):
        bare = ArraySource(np.zeros((3, 8, 8), np.uint8), name="bare")
        unknown = ArraySource(np.zeros((3, 8, 8), np.uint8), name="bare", attributes=-np.ones((3, 1), int))
        for source in (bare, unknown):
            with pytest.raises(InputError, match="bare has no attributes: give a table with a column `attributes`"):
                evaluate_attributes(sets[0], source, encoder=run)
        other = ArraySource(
            np.zeros((3, 8, 8), np.uint8), name="o", attributes=np.ones((3, 1), int), attribute_names=["z"]
        )
        with pytest.raises(InputError, match="train and o have no attribute in common"):
            evaluate_attributes(sets[0], other, encoder=run)
        with pytest.raises(InputError, match="the counts name no attribute of the images, only a, b"):
            evaluate_attributes(*sets, encoder=run, attribute_counts={"a": 1, "b": 2})
        with pytest.raises(InputError, match="few_shot is a share between 0 and 1, not 2"):
            AttributeConfig(few_shot=2)


def test_the_probe_draws_nothing_at_random():
    (x, values), (val_x, val) = made(100), made(50, seed=1)
    torch.manual_seed(1)
    first = attribute_probe(x, values, val_x, val)
    torch.manual_seed(2)
    assert torch.equal(attribute_probe(x, values, val_x, val).weight, first.weight)
