import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import nn

from sdclr.errors import InputError
from sdclr.evaluation.config import FEW_SHOT, LINEAR, ProbeConfig
from sdclr.evaluation.probes import (
    linear_probe,
    linear_probe_augmented,
    pad_crop_flip,
    stratified_holdout,
)


def _clusters(count, width=8, classes=5, noise=1.0, seed=0):
    generator = np.random.default_rng(seed)
    centers = np.random.default_rng(99).normal(size=(classes, width))
    labels = generator.integers(0, classes, count)
    return (centers[labels] + noise * generator.normal(size=(count, width))).astype(np.float32), labels


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = (x[order] / 16).astype(np.float32), y[order]
    return (x[:1000], y[:1000]), (x[1000:1200], y[1000:1200]), (x[1200:], y[1200:])


class TestLinearProbe:
    @pytest.mark.parametrize("weight_decay", [0.0, 0.01])
    def test_equals_torch_sgd_step_by_step(self, weight_decay):
        """Several epochs over a milestone and an incomplete batch, against nn.Linear, autograd and torch's own SGD."""
        (x, y), (val_x, val_y) = _clusters(150), _clusters(60, seed=1)
        config = ProbeConfig(
            epochs=4, milestones=(2,), batch_size=32, learning_rates=(0.7,), weight_decay=weight_decay, seed=3
        )
        probe = linear_probe(x, y, val_x, val_y, 5, config)

        layer = nn.Linear(8, 5)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.7, momentum=0.9, weight_decay=weight_decay)
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2], gamma=0.1)
        order = torch.Generator().manual_seed(3)
        curve, states = [], []
        for _ in range(4):
            for batch in torch.randperm(150, generator=order).split(32):
                loss = nn.functional.cross_entropy(layer(torch.tensor(x)[batch]), torch.tensor(y)[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            schedule.step()
            curve.append((layer(torch.tensor(val_x)).argmax(1).numpy() == val_y).mean())
            states.append((layer.weight.detach().clone(), layer.bias.detach().clone()))
        np.testing.assert_allclose(probe.curve, curve)
        assert probe.epoch == int(np.argmax(curve)) + 1
        weight, bias = states[probe.epoch - 1]
        torch.testing.assert_close(probe.weight, weight, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(probe.bias, bias, atol=1e-5, rtol=1e-5)

    def test_negligible_probabilities_change_nothing(self, monkeypatch):
        """At rates so high that probabilities leave float32's normal form, the layers are the same, bit for bit."""
        (x, y), (val_x, val_y) = _clusters(300), _clusters(100, seed=1)
        config = ProbeConfig(epochs=3, milestones=(1,), learning_rates=(30.0, 10.0, 0.1))
        cut = linear_probe(x * 9, y, val_x * 9, val_y, 5, config)
        monkeypatch.setattr("sdclr.evaluation.probes.NEGLIGIBLE", -1.0)  # nothing is
        whole = linear_probe(x * 9, y, val_x * 9, val_y, 5, config)
        assert torch.equal(cut.weight, whole.weight)
        assert torch.equal(cut.bias, whole.bias)
        assert cut.by_learning_rate == whole.by_learning_rate
        probabilities = torch.softmax(torch.tensor(val_x * 9) @ cut.weight.T + cut.bias, dim=1)
        assert (probabilities < 1e-30).any()

    def test_rates_of_a_grid_do_not_touch_each_other(self):
        (x, y), (val_x, val_y) = _clusters(200), _clusters(100, seed=1)
        config = ProbeConfig(epochs=3, milestones=(1,), learning_rates=(1.0, 0.01, 30.0))
        together = linear_probe(x, y, val_x, val_y, 5, config)
        for rate in config.learning_rates:
            alone = linear_probe(x, y, val_x, val_y, 5, replace(config, learning_rates=(rate,)))
            assert alone.validation_accuracy == pytest.approx(together.by_learning_rate[rate])
            if rate == together.learning_rate:
                np.testing.assert_allclose(alone.curve, together.curve)
                torch.testing.assert_close(alone.weight, together.weight, atol=1e-5, rtol=1e-5)

    def test_digits_as_well_as_logistic_regression(self, digits):
        train, validation, (test_x, test_y) = digits
        probe = linear_probe(*train, *validation, 10)
        oracle = LogisticRegression(C=1e3, max_iter=2000).fit(*train)
        ours, theirs = (probe.predict(test_x) == test_y).mean(), oracle.score(test_x, test_y)
        assert ours > 0.93
        assert abs(ours - theirs) < 0.03
        assert probe.validation_accuracy == pytest.approx((probe.predict(validation[0]) == validation[1]).mean())

    def test_same_seed_same_probe_other_seed_another(self):
        (x, y), (val_x, val_y) = _clusters(300), _clusters(100, seed=1)
        config = ProbeConfig(epochs=2, milestones=(), learning_rates=(1.0,))
        first, again = (linear_probe(x, y, val_x, val_y, 5, config) for _ in range(2))
        other = linear_probe(x, y, val_x, val_y, 5, replace(config, seed=1))
        assert torch.equal(first.weight, again.weight)
        assert not torch.equal(first.weight, other.weight)

    def test_a_diverged_rate_never_wins_and_never_spoils_the_others(self):
        (x, y), (val_x, val_y) = _clusters(200), _clusters(100, seed=1)
        config = ProbeConfig(epochs=3, milestones=(), learning_rates=(3e38, 0.1))
        probe = linear_probe(x, y, val_x, val_y, 5, config)
        assert math.isnan(probe.by_learning_rate[3e38])
        alone = linear_probe(x, y, val_x, val_y, 5, replace(config, learning_rates=(0.1,)))
        assert probe.learning_rate == 0.1
        torch.testing.assert_close(probe.weight, alone.weight, atol=1e-5, rtol=1e-5)

    def test_a_grid_that_diverges_altogether_says_so(self):
        (x, y), (val_x, val_y) = _clusters(200), _clusters(100, seed=1)
        with pytest.raises(InputError, match=r"every learning rate of \(3e\+38,\) diverged"):
            linear_probe(x, y, val_x, val_y, 5, ProbeConfig(epochs=2, learning_rates=(3e38,)))

    @pytest.mark.parametrize(
        ("rates", "edge"),
        [((0.3, 1e-9, 1e-10), "highest"), ((3e38, 2e38, 0.3), "lowest"), ((3e38, 0.3, 1e-9), None), ((0.3,), None)],
    )
    def test_reports_a_winner_on_the_edge_of_the_grid(self, rates, edge):
        (x, y), (val_x, val_y) = _clusters(200, noise=2), _clusters(300, noise=2, seed=1)
        probe = linear_probe(x, y, val_x, val_y, 5, ProbeConfig(epochs=6, milestones=(3,), learning_rates=rates))
        assert probe.learning_rate == 0.3
        assert probe.edge == edge

    def test_a_tie_with_a_rate_inside_the_grid_is_no_edge(self):
        """Clusters far apart: every rate is right everywhere after one epoch."""
        x = np.repeat(np.eye(3, dtype=np.float32), 50, axis=0)
        y = np.repeat(np.arange(3), 50)
        config = ProbeConfig(epochs=1, milestones=(), learning_rates=(1.0, 0.3, 0.1))
        probe = linear_probe(x, y, x, y, 3, config)
        assert probe.by_learning_rate == {1.0: 1.0, 0.3: 1.0, 0.1: 1.0}
        assert (probe.learning_rate, probe.edge) == (1.0, None)
        assert linear_probe(x, y, x, y, 3, replace(config, learning_rates=(1.0, 0.1))).edge == "highest"

    def test_the_best_epoch_is_kept(self):
        """Noise makes accuracy go up and down; the layer returned is the one that scored best, not the last."""
        (x, y), (val_x, val_y) = _clusters(60, noise=3), _clusters(400, noise=3, seed=1)
        probe = linear_probe(x, y, val_x, val_y, 5, ProbeConfig(epochs=12, milestones=(), learning_rates=(30.0,)))
        assert probe.validation_accuracy == probe.curve.max() > probe.curve[-1]
        assert probe.epoch == probe.curve.argmax() + 1
        assert (probe.predict(val_x) == val_y).mean() == pytest.approx(probe.validation_accuracy)

    def test_scores_more_validation_images_than_fit_a_block(self, monkeypatch):
        (x, y), (val_x, val_y) = _clusters(100), _clusters(103, seed=1)
        config = ProbeConfig(epochs=2, learning_rates=(1.0, 0.1))
        whole = linear_probe(x, y, val_x, val_y, 5, config)
        monkeypatch.setattr("sdclr.evaluation.probes.VALIDATION_BLOCK", 10)
        blocked = linear_probe(x, y, val_x, val_y, 5, config)
        assert whole.by_learning_rate == pytest.approx(blocked.by_learning_rate)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"train_x": np.ones(4)}, "train_x must be an"),
            ({"val_x": np.ones((2, 3))}, "val_x has 3 features per image, not 2"),
            ({"train_x": np.full((4, 2), np.inf)}, "train_x row 0 is not finite"),
            ({"train_y": [0, 1, 2, 3]}, "train_y holds 2"),
            ({"val_y": [0, -1]}, "val_y holds -1"),
            ({"val_y": [0]}, "one label per image"),
        ],
    )
    def test_names_what_is_wrong(self, change, message):
        arguments = {"train_x": np.ones((4, 2)), "train_y": [0, 1, 0, 1], "val_x": np.ones((2, 2)), "val_y": [0, 1]}
        with pytest.raises(InputError, match=message):
            linear_probe(**(arguments | change), num_classes=2)


class TestProbeConfig:
    def test_the_protocols(self):
        assert (LINEAR.epochs, LINEAR.milestones, LINEAR.batch_size, LINEAR.weight_decay) == (30, (10, 20), 128, 0.0)
        assert (FEW_SHOT.epochs, FEW_SHOT.milestones, FEW_SHOT.momentum) == (100, (40, 60), 0.9)
        assert 30.0 in LINEAR.learning_rates
        assert ProbeConfig.few_shot() == FEW_SHOT

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"epochs": 0}, "epochs=0"),
            ({"batch_size": 0}, "batch_size=0"),
            ({"milestones": (20, 10)}, "milestones="),
            ({"milestones": (0, 10)}, "milestones="),
            ({"learning_rates": ()}, "learning_rates="),
            ({"learning_rates": (1.0, -1.0)}, "learning_rates="),
            ({"learning_rates": (1.0, 1.0)}, "learning_rates="),
            ({"learning_rates": (math.inf,)}, "learning_rates is inf"),
            ({"learning_rates": (math.nan,)}, "learning_rates is nan"),
            ({"momentum": 1.0}, "momentum="),
            ({"weight_decay": -0.1}, "weight_decay="),
        ],
    )
    def test_refuses(self, change, message):
        with pytest.raises(InputError, match=message):
            ProbeConfig(**change)


class _Flat(nn.Module):
    """Pixels as features, through a layer that differs between the modes, counting its batches."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.9)
        self.norm = nn.BatchNorm1d(3 * 8 * 8)
        self.images_seen = 0

    def forward(self, x):
        self.images_seen += len(x)
        return self.norm(self.drop(x.flatten(1)))


@pytest.fixture(scope="module")
def digit_images(digits):
    def as_images(x):
        return torch.tensor(x * 255, dtype=torch.uint8).view(-1, 1, 8, 8).expand(-1, 3, 8, 8).contiguous()

    (train_x, train_y), (val_x, val_y), _ = digits
    return as_images(train_x), train_y, as_images(val_x), val_y


class TestAugmentedProbe:
    def test_equals_the_cached_probe_when_nothing_is_augmented(self, digit_images, monkeypatch):
        images, labels, val_images, val_labels = digit_images
        config = ProbeConfig(epochs=3, milestones=(2,), learning_rates=(1.0, 0.1))
        encoder = _Flat()
        monkeypatch.setattr("sdclr.evaluation.probes.pad_crop_flip", lambda images, *_: images)
        augmented = linear_probe_augmented(encoder, images, labels, val_images, val_labels, 10, config)
        encoder.eval()
        with torch.no_grad():
            cached = [encoder(part.float() / 255) for part in (images, val_images)]
        plain = linear_probe(cached[0], labels, cached[1], val_labels, 10, config)
        torch.testing.assert_close(augmented.weight, plain.weight, atol=1e-5, rtol=1e-5)
        assert augmented.by_learning_rate == pytest.approx(plain.by_learning_rate)

    def test_learns_from_images_that_change_every_epoch(self, digit_images):
        images, labels, val_images, val_labels = digit_images
        encoder = _Flat()
        config = ProbeConfig(epochs=4, milestones=(3,), learning_rates=(3.0, 1.0, 0.1))
        probe = linear_probe_augmented(encoder, images, labels, val_images, val_labels, 10, config, pad=1)
        again = linear_probe_augmented(encoder, images, labels, val_images, val_labels, 10, config, pad=1)
        plain = linear_probe_augmented(encoder, images, labels, val_images, val_labels, 10, config, pad=0)
        assert probe.validation_accuracy > 0.6
        assert torch.equal(probe.weight, again.weight)
        assert not torch.equal(probe.weight, plain.weight)

    def test_one_pass_an_epoch_whatever_the_grid_and_the_encoder_is_left_as_it_was(self, digit_images):
        images, labels, val_images, val_labels = digit_images
        encoder = _Flat()
        encoder.drop.eval()
        before = {name: value.clone() for name, value in encoder.state_dict().items()}
        config = ProbeConfig(epochs=2, learning_rates=(1.0, 0.1, 0.01))
        probe = linear_probe_augmented(encoder, images, labels, val_images, val_labels, 10, config)
        assert encoder.images_seen == 2 * len(images) + len(val_images)
        assert encoder.training
        assert encoder.norm.training
        assert not encoder.drop.training
        assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
        assert not probe.weight.is_inference()


class TestPadCropFlip:
    @settings(max_examples=30, deadline=None)
    @given(st.integers(0, 10**6), st.integers(0, 3), st.integers(1, 6), st.integers(1, 6))
    def test_every_image_is_a_shift_of_itself_perhaps_mirrored(self, seed, pad, height, width):
        generator = torch.Generator().manual_seed(seed)
        images = torch.randint(1, 256, (4, 3, height, width), dtype=torch.uint8, generator=generator)
        drawn = pad_crop_flip(images, pad, generator)
        assert drawn.dtype == torch.uint8
        for image, view in zip(images, drawn, strict=True):
            padded = np.pad(image.numpy(), ((0, 0), (pad, pad), (pad, pad)))
            crops = [
                padded[:, top : top + height, left : left + width]
                for top in range(2 * pad + 1)
                for left in range(2 * pad + 1)
            ]
            assert any(np.array_equal(view, crop) or np.array_equal(view, crop[:, :, ::-1]) for crop in crops)

    def test_all_shifts_and_both_hands_are_equally_likely(self):
        """A lone pixel shows where it went: 9 shifts of 3, and mirroring of an image with a marked side."""
        count = 9000
        images = torch.zeros(count, 1, 5, 5)
        images[:, 0, 2, 2] = 1
        where = pad_crop_flip(images, 1, torch.Generator().manual_seed(0)).flatten(1).argmax(1)
        tally = torch.bincount(where, minlength=25).view(5, 5)[1:4, 1:4]
        assert tally.sum() == count
        assert ((tally - count / 9).abs() < 5 * math.sqrt(count / 9)).all()
        marked = torch.tensor([[1.0, 0.0]]).expand(count, 1, 1, 2)
        mirrored = pad_crop_flip(marked, 0, torch.Generator().manual_seed(0))[:, 0, 0, 1].sum()
        assert abs(mirrored - count / 2) < 5 * math.sqrt(count / 4)

    def test_rows_and_columns_shift_independently_of_the_flip(self):
        images = torch.zeros(3000, 1, 3, 3)
        images[:, 0, 1, 0] = 1
        where = pad_crop_flip(images, 1, torch.Generator().manual_seed(1)).flatten(1)
        inside = where.sum(1) > 0
        assert len(torch.unique(where[inside].argmax(1))) == 9


class TestStratifiedHoldout:
    @given(
        st.lists(st.integers(0, 5), min_size=2, max_size=80).filter(lambda labels: len(set(labels)) < len(labels)),
        st.floats(0.01, 0.99),
        st.integers(0, 100),
    )
    def test_properties(self, labels, fraction, seed):
        train, validation = stratified_holdout(labels, fraction, seed)
        assert sorted([*train, *validation]) == list(range(len(labels)))
        assert (np.diff(train) > 0).all()
        assert (np.diff(validation) > 0).all()
        known = np.array(labels)
        for label in set(labels):
            size, held = (known == label).sum(), (known[validation] == label).sum()
            assert held == 0 if size == 1 else 1 <= held <= size - 1
            assert abs(held - fraction * size) <= 1
        again = stratified_holdout(labels, fraction, seed)
        np.testing.assert_array_equal(validation, again[1])

    def test_few_shot_set(self):
        train, validation = stratified_holdout(np.repeat(np.arange(10), 45), 0.2)
        assert (len(train), len(validation)) == (360, 90)

    def test_the_seed_chooses(self):
        labels = np.repeat(np.arange(3), 50)
        assert not np.array_equal(stratified_holdout(labels, 0.2, 0)[1], stratified_holdout(labels, 0.2, 1)[1])

    @pytest.mark.parametrize(
        ("labels", "fraction", "message"),
        [
            ([0, 0], 0.0, r"fraction=0\.0"),
            ([0, 0], 1.0, r"fraction=1\.0"),
            ([0, 1], 0.5, "none of 2"),
            ([], 0.5, "none"),
        ],
    )
    def test_refuses(self, labels, fraction, message):
        with pytest.raises(InputError, match=message):
            stratified_holdout(labels, fraction)
