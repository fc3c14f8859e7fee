import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from sdclr.errors import InputError
from sdclr.evaluation.logistic import LOGISTIC, LogisticConfig, logistic_probe
from sdclr.evaluation.probes import linear_probe


def _clusters(count, width=8, classes=5, noise=2.0, seed=0):
    """Overlapping clusters; features of very different scale and far from 0."""
    generator = np.random.default_rng(seed)
    centers = np.random.default_rng(99).normal(size=(classes, width))
    labels = generator.integers(0, classes, count)
    x = centers[labels] + noise * generator.normal(size=(count, width))
    mixing = np.random.default_rng(98).normal(size=(width, width))  # correlated, too
    return ((x @ mixing) * 10.0 ** np.linspace(-2, 2, width) + 5).astype(np.float32), labels


def _standardized(x, of):
    of = of.astype(np.float64)
    return (x.astype(np.float64) - of.mean(0)) / of.std(0)


def _probabilities(logits):
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


def _logits(probe, x):
    return x.astype(np.float64) @ probe.weight.numpy().astype(np.float64).T + probe.bias.numpy()


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = (x[order] / 16).astype(np.float32), y[order]
    return (x[:1000], y[:1000]), (x[1000:1200], y[1000:1200]), (x[1200:], y[1200:])


class TestOptimum:
    @pytest.mark.parametrize("penalty", [0.3, 1e-2, 1e-4])
    @pytest.mark.parametrize("classes", [2, 5])
    def test_is_that_of_sklearn(self, penalty, classes):
        (x, y), validation = _clusters(400, classes=classes), _clusters(100, classes=classes, seed=1)
        probe = logistic_probe(x, y, *validation, classes, LogisticConfig(penalties=(penalty,), tolerance=1e-6))
        assert probe.converged
        z = _standardized(x, x)
        if classes == 2:  # sklearn has one row for two classes; ours are it and its negative, each half as long
            oracle = LogisticRegression(C=2 / (penalty * len(z)), tol=1e-10, max_iter=10_000).fit(z, y)
        else:
            oracle = LogisticRegression(C=1 / (penalty * len(z)), tol=1e-10, max_iter=10_000).fit(z, y)
        np.testing.assert_allclose(_probabilities(_logits(probe, x)), oracle.predict_proba(z), atol=2e-4)
        assert np.ptp(oracle.predict_proba(z)) > 0.5  # there is something to compare

    def test_is_stationary_by_the_formula(self):
        """`Zᵀ(P - Y) / N + penalty · W = 0` on standardized features Z, and the bias is not penalized."""
        (x, y), validation = _clusters(500), _clusters(100, seed=1)
        probe = logistic_probe(x, y, *validation, 5, LogisticConfig(penalties=(1e-2,), tolerance=1e-7))
        z, error = _standardized(x, x), _probabilities(_logits(probe, x)) - np.eye(5)[y]
        weight = probe.weight.numpy() * x.astype(np.float64).std(0)
        np.testing.assert_allclose(error.T @ z / len(z) + 1e-2 * weight, 0, atol=2e-6)
        np.testing.assert_allclose(error.mean(0), 0, atol=2e-6)
        assert np.abs(1e-2 * weight).max() > 1e-3

    def test_does_not_depend_on_the_scale_of_features_nor_on_rotations_of_standardized_ones(self):
        (x, y), (val_x, val_y) = _clusters(300), _clusters(100, seed=1)
        config = LogisticConfig(penalties=(1e-2,))
        plain = logistic_probe(x, y, val_x, val_y, 5, config)
        scaled = logistic_probe(x * 1000, y, val_x * 1000, val_y, 5, config)
        torch.testing.assert_close(scaled.weight * 1000, plain.weight, rtol=1e-2, atol=1e-4)
        np.testing.assert_array_equal(scaled.predict(val_x * 1000), plain.predict(val_x))

    def test_of_a_tiny_separable_set(self):
        """Fewer images than features and every class apart, as with a few shots: the penalty alone keeps it finite."""
        generator = np.random.default_rng(0)
        x, y = generator.normal(size=(20, 64)).astype(np.float32), np.repeat(np.arange(4), 5)
        config = LogisticConfig(penalties=(1e-3,), tolerance=1e-6)
        probe = logistic_probe(x, y, x, y, 4, config)
        oracle = LogisticRegression(C=1 / (1e-3 * 20), tol=1e-10, max_iter=10_000).fit(_standardized(x, x), y)
        assert probe.converged
        assert probe.validation_accuracy == 1
        np.testing.assert_allclose(
            _probabilities(_logits(probe, x)), oracle.predict_proba(_standardized(x, x)), atol=2e-4
        )

    @pytest.mark.parametrize("value", [0.0, 3.1])
    def test_a_feature_that_never_varies_is_ignored(self, value):
        (x, y), (val_x, val_y) = _clusters(300), _clusters(100, seed=1)
        config = LogisticConfig(penalties=(1e-2,))
        plain = logistic_probe(x, y, val_x, val_y, 5, config)
        dead, val_dead = (np.insert(part, 3, value, axis=1) for part in (x, val_x))
        probe = logistic_probe(dead, y, val_dead, val_y, 5, config)
        assert probe.weight[:, 3].abs().max() < 1e-6
        np.testing.assert_array_equal(probe.predict(val_dead), plain.predict(val_x))

    def test_a_class_without_training_images_never_wins(self):
        (x, y), (val_x, val_y) = _clusters(300), _clusters(100, seed=1)
        probe = logistic_probe(x, y, val_x, val_y, 7)
        assert probe.converged
        assert probe.weight.shape == (7, 8)
        assert probe.predict(val_x).max() < 5

    def test_double_precision_ends_what_single_precision_cannot(self, monkeypatch):
        (x, y), validation = _clusters(300), _clusters(100, seed=1)
        config = LogisticConfig(penalties=(1e-2,), tolerance=1e-10)
        assert logistic_probe(x, y, *validation, 5, config).converged
        monkeypatch.setattr("sdclr.evaluation.logistic.Problem.precise", lambda _problem: None)
        assert not logistic_probe(x, y, *validation, 5, config).converged


class TestChoice:
    def test_the_best_of_the_grid_wins_and_is_scored(self, digits):
        train, validation, (test_x, test_y) = digits
        probe = logistic_probe(*train, *validation, 10)
        tried = list(probe.by_penalty)
        assert tried == sorted(LOGISTIC.penalties, reverse=True)[: len(tried)]
        assert probe.by_penalty[probe.penalty] == max(probe.by_penalty.values())
        assert probe.converged
        assert probe.gradient <= LOGISTIC.tolerance
        assert (probe.predict(validation[0]) == validation[1]).mean() == pytest.approx(probe.validation_accuracy)
        sgd = linear_probe(*train, *validation, 10)
        ours, theirs = ((found.predict(test_x) == test_y).mean() for found in (probe, sgd))
        assert ours > 0.93
        assert ours > theirs - 0.01  # and it may well be better

    def test_from_wherever_the_path_came_the_optimum_is_the_same(self):
        (x, y), validation = _clusters(300), _clusters(200, seed=1)
        path = logistic_probe(x, y, *validation, 5, LogisticConfig(tolerance=1e-7))
        alone = logistic_probe(x, y, *validation, 5, LogisticConfig(penalties=(path.penalty,), tolerance=1e-7))
        torch.testing.assert_close(path.weight, alone.weight, rtol=1e-4, atol=1e-6)

    def test_the_strongest_of_equals_wins(self):
        x, y = np.repeat(np.eye(3, dtype=np.float32), 50, axis=0), np.repeat(np.arange(3), 50)
        probe = logistic_probe(x, y, x, y, 3, LogisticConfig(penalties=(1e-3, 1e-2, 1e-4)))
        assert probe.by_penalty == {1e-2: 1.0, 1e-3: 1.0, 1e-4: 1.0}
        assert (probe.penalty, probe.edge) == (1e-2, None)

    def test_reports_a_winner_on_the_edge(self):
        (x, y), validation = _clusters(300), _clusters(200, seed=1)
        config = LogisticConfig(penalties=(1e-3, 1e3, 1e4))
        probe = logistic_probe(x, y, *validation, 5, config)
        assert (probe.penalty, probe.edge) == (1e-3, "lowest")

    def test_says_when_it_did_not_converge(self):
        (x, y), validation = _clusters(300), _clusters(100, seed=1)
        probe = logistic_probe(x, y, *validation, 5, LogisticConfig(penalties=(1e-3,), max_iterations=2))
        assert not probe.converged
        assert probe.gradient > LOGISTIC.tolerance
        assert probe.iterations == 6  # two in the search, two in single precision, two in double

    def test_scaled_by_the_curvature_it_takes_fewer_passes_to_the_same_optimum(self, monkeypatch):
        x, y = _clusters(1000, width=32)
        x = np.c_[x, x + 0.1 * x.std(0) * np.random.default_rng(0).normal(size=x.shape)]  # everything nearly twice
        x, validation = x.astype(np.float32), (x[:100], y[:100])
        config = LogisticConfig(penalties=(1e-3,), tolerance=1e-6)
        scaled = logistic_probe(x, y, *validation, 5, config)
        monkeypatch.setattr(
            "sdclr.evaluation.logistic.Problem._scale", lambda *_: torch.ones(5, 65, dtype=torch.float64)
        )
        plain = logistic_probe(x, y, *validation, 5, config)
        assert scaled.converged
        assert plain.converged
        ours, theirs = (_probabilities(_logits(probe, x)) for probe in (scaled, plain))
        np.testing.assert_allclose(ours, theirs, atol=1e-3)
        assert 1.4 * scaled.evaluations < plain.evaluations

    def test_penalties_that_are_much_too_weak_are_left_out(self):
        (x, y), validation = _clusters(300), _clusters(200, seed=1)
        patient = logistic_probe(x, y, *validation, 5, LogisticConfig(patience=11))
        hasty = logistic_probe(x, y, *validation, 5, LogisticConfig(patience=1))
        assert len(patient.by_penalty) == 11
        best = list(hasty.by_penalty).index(hasty.penalty)
        assert len(hasty.by_penalty) == best + 2 < 11
        assert hasty.by_penalty == {p: patient.by_penalty[p] for p in hasty.by_penalty}

    def test_weights_add_up_to_zero_over_the_classes(self):
        (x, y), validation = _clusters(300), _clusters(100, seed=1)
        y = np.where(np.arange(300) % 3, y, 0)  # one class is much more frequent
        probe = logistic_probe(x, y, *validation, 5, LogisticConfig(penalties=(1e-2,)))
        assert probe.converged
        assert (probe.weight.sum(0).abs() < 1e-4 * probe.weight.abs().max()).all()

    def test_draws_nothing_at_random_and_leaves_its_inputs(self):
        (x, y), (val_x, val_y) = _clusters(300), _clusters(100, seed=1)
        given = torch.tensor(x)
        torch.manual_seed(1)
        first = logistic_probe(given, y, val_x, val_y, 5)
        torch.manual_seed(2)
        again = logistic_probe(given, y, val_x, val_y, 5)
        assert torch.equal(first.weight, again.weight)
        assert torch.equal(given, torch.tensor(x))
        assert not first.weight.requires_grad
        assert first.weight.dtype == first.bias.dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_x": np.ones(4)}, "train_x must be an"),
        ({"val_x": np.ones((2, 3))}, "val_x has 3 features per image, not 2"),
        ({"train_x": np.full((4, 2), np.nan)}, "train_x row 0 is not finite"),
        ({"train_y": [0, 1, 2, 3]}, "train_y holds 2"),
        ({"val_y": [0]}, "one label per image"),
    ],
)
def test_names_what_is_wrong(change, message):
    arguments = {"train_x": np.ones((4, 2)), "train_y": [0, 1, 0, 1], "val_x": np.ones((2, 2)), "val_y": [0, 1]}
    with pytest.raises(InputError, match=message):
        logistic_probe(**(arguments | change), num_classes=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"penalties": ()}, r"penalties=\(\)"),
        ({"penalties": (0.0,)}, "penalties="),
        ({"penalties": (0.1, 0.1)}, "penalties="),
        ({"penalties": (math.nan,)}, "penalties="),
        ({"penalties": (math.inf,)}, "penalties="),
        ({"tolerance": 0.0}, r"tolerance=0\.0"),
        ({"search_tolerance": -1.0}, r"search_tolerance=-1\.0"),
        ({"max_iterations": 0}, "max_iterations=0"),
        ({"patience": 0}, "patience=0"),
    ],
)
def test_the_configuration_refuses(change, message):
    with pytest.raises(InputError, match=message):
        LogisticConfig(**change)
