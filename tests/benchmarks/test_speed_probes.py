"""The benchmark of probes: that features are worth probing, that all do the same work, and that it tells what came."""

import importlib
import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

TINY = {"images": 300, "held": 60, "test": 80, "width": 16}


@pytest.fixture
def probes():
    return importlib.import_module("speed_probes")


@pytest.fixture
def effort(probes):
    return probes.Effort(rounds=1, seconds=0, warmup=0)


def test_made_features_are_neither_easy_nor_hopeless(probes):
    size = probes.ProbeSize(images=2000, held=300, test=700, width=64)
    features = probes.make_features(size, None)
    assert [part[0].shape for part in features[:3]] == [(2000, 64), (300, 64), (700, 64)]
    probe = probes.logistic_probe(*features.train, *features.held, 10)
    assert 0.35 < (probe.predict(features.test[0]) == features.test[1]).mean() < 0.9
    assert "made-up" in features.of


def test_more_classes_split_those_there_are(probes):
    plain = probes.make_features(probes.ProbeSize(**TINY), None)
    split = probes.make_features(probes.ProbeSize(**TINY, classes=100), None)
    np.testing.assert_array_equal(split.train[1] // 10, plain.train[1])
    np.testing.assert_array_equal(split.train[0], plain.train[0])
    assert len(np.unique(split.train[1])) > 60


def test_patch_features_pool_rectified_responses_of_either_sign(probes):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (7, 3, 32, 32), dtype=torch.uint8, generator=generator)
    found = probes.patch_features(images, 16, generator=generator)
    assert found.shape == (7, 16)
    assert found.dtype == torch.float32
    assert (found >= 0).all()
    assert (found > 0).any(dim=0).all()
    dark = images // 2
    first, brighter = (
        probes.patch_features(part, 16, generator=torch.Generator().manual_seed(0)) for part in (dark, dark + 100)
    )
    torch.testing.assert_close(brighter, first, rtol=1e-3, atol=1e-4)


def test_real_features_tell_real_images_apart(probes, cifar10_dir):
    size = probes.ProbeSize(images=1500, held=200, test=400, width=64)
    features = probes.make_features(size, cifar10_dir)
    assert features.of == "CIFAR-10"
    assert np.bincount(features.train[1], minlength=10).min() > 80  # drawn from the whole file, which may be sorted
    probe = probes.logistic_probe(*features.train, *features.held, 10)
    assert (probe.predict(features.test[0]) == features.test[1]).mean() > 0.25


def test_the_objective_is_what_autograd_finds_on_standardized_features(probes):
    features = probes.make_features(probes.ProbeSize(**TINY), None)
    generator = np.random.default_rng(0)
    weight, bias = generator.normal(size=(10, 16)).astype(np.float32), generator.normal(size=10).astype(np.float32)
    value, largest = probes._Layer(weight, bias, 1, 0.5).objective(features.train, 0.03)
    x, y = features.train[0].astype(np.float64), torch.tensor(features.train[1])
    z = torch.tensor((x - x.mean(0)) / x.std(0))
    standard = torch.tensor(weight * x.std(0)).requires_grad_()
    shifted = torch.tensor(bias + weight @ x.mean(0)).requires_grad_()
    loss = F.cross_entropy(z @ standard.T + shifted, y) + 0.015 * standard.square().sum()
    loss.backward()
    assert value == pytest.approx(loss.item(), rel=1e-5)
    assert largest == pytest.approx(max(standard.grad.abs().max().item(), shifted.grad.abs().max().item()), rel=1e-4)


def test_ours_and_sklearn_reach_the_same_optimum(probes, effort):
    size = probes.ProbeSize(**TINY)
    compared, table = probes.compare_probes(size, probes.make_features(size, None), effort)
    names = [probes.LBFGS, probes.SGD, probes.ONE, probes.SKLEARN_ONE]
    assert list(compared.samples) == [row[0] for row in table.rows] == names
    rows = {row[0]: row for row in table.rows}
    assert rows[probes.ONE][1] == pytest.approx(rows[probes.SKLEARN_ONE][1], abs=1.3)  # one image of 80
    values = {name: float(row[3]) for name, row in rows.items()}
    for name in (probes.LBFGS, probes.ONE, probes.SKLEARN_ONE):
        assert values[name] == pytest.approx(values[probes.LBFGS], abs=2e-6)
        assert rows[name][4] < 1e-4
    assert values[probes.SGD] > values[probes.LBFGS] + 1e-4


def test_another_vote_is_not_timed(probes, effort, monkeypatch):
    size = probes.ProbeSize(**TINY)
    features = probes.make_features(size, None)
    compared, score = probes.compare_knn(size, features, effort)
    assert list(compared.samples) == [probes.KNN, probes.SKLEARN_KNN]
    assert 0.2 < score < 1
    monkeypatch.setattr(probes, "knn_predict", lambda *_sets, **_options: np.zeros(80, dtype=np.int64))
    with pytest.raises(ValueError, match="not the same work"):
        probes.compare_knn(size, features, effort)


def test_a_tiny_plan_fills_the_findings(probes, effort, monkeypatch, capsys):
    size = probes.ProbeSize(**TINY)
    plan = probes.ProbePlan(probes=((size, effort, False),), knn=((size, effort, True),))
    monkeypatch.setattr(probes, "quick", lambda: plan)
    monkeypatch.setattr(torch, "set_num_threads", lambda _threads: None)  # the suite's own number stays
    probes.main(["--quick"])
    told = capsys.readouterr().out
    found = probes.find_probes(plan, None)
    assert [target.limit for target in found.targets] == [10, 1, 5]
    assert len(found.comparisons) == len(found.tables) == 2
    assert all(part.title in told for part in (*found.comparisons, *found.tables))
    assert json.loads(json.dumps(found.json()))["targets"][0]["measured"] > 0
