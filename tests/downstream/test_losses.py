"""Every loss and weight against its formula, written plainly."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from sdclr.downstream.losses import (
    balanced_softmax_loss,
    class_temperatures,
    diversity_loss,
    effective_weights,
    ldam_loss,
    ldam_margins,
    tau_normalized,
)
from sdclr.errors import InputError

COUNTS = np.array([100, 37, 12, 5])
N, K = 6, 4
counts_of_classes = st.lists(st.integers(1, 5000), min_size=2, max_size=12)


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(N, K, dtype=torch.float64, requires_grad=True)


@pytest.fixture
def labels() -> torch.Tensor:
    return torch.tensor([0, 3, 1, 2, 3, 0])


def softmax(row: list[float]) -> list[float]:
    powers = [math.exp(value - max(row)) for value in row]
    return [power / sum(powers) for power in powers]


def test_margins_fall_with_the_fourth_root_of_the_count() -> None:
    margins = ldam_margins(COUNTS, 0.5).numpy()
    assert margins.max() == margins[3] == 0.5
    np.testing.assert_allclose(margins, [0.5 * 5**0.25 / count**0.25 for count in COUNTS], rtol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_ldam(logits: torch.Tensor, labels: torch.Tensor, *, weighted: bool) -> None:
    margins, scale = ldam_margins(COUNTS), 30.0
    weights = effective_weights(COUNTS) if weighted else None
    cosines = logits.detach().tanh()
    total = mass = 0.0
    for row, label in zip(cosines.tolist(), labels.tolist(), strict=True):
        moved = [scale * (cos - (float(margins[k]) if k == label else 0)) for k, cos in enumerate(row)]
        weight = float(weights[label]) if weights is not None else 1.0
        total -= weight * math.log(softmax(moved)[label])
        mass += weight
    assert float(ldam_loss(scale * cosines, labels, margins, scale, weights)) == pytest.approx(total / mass, rel=1e-12)


def test_ldam_without_margins_is_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> None:
    torch.testing.assert_close(ldam_loss(logits, labels, torch.zeros(K)), F.cross_entropy(logits, labels))


def test_effective_weights() -> None:
    beta = 0.9999
    plain = [(1 - beta) / (1 - beta ** int(count)) for count in COUNTS]
    np.testing.assert_allclose(effective_weights(COUNTS, beta), np.array(plain) * K / sum(plain), rtol=1e-9)
    assert effective_weights(COUNTS, 0.0).tolist() == [1, 1, 1, 1]
    # Towards beta = 1 the effective number is the number itself.
    inverse = 1 / COUNTS
    np.testing.assert_allclose(effective_weights(COUNTS, 1 - 1e-10), inverse * K / inverse.sum(), rtol=1e-5)


@settings(max_examples=30, deadline=None)
@given(counts_of_classes)
def test_rarer_classes_weigh_more_and_have_larger_margins_and_lower_temperatures(counts: list[int]) -> None:
    order = np.argsort(counts, kind="stable")
    for rising in (-effective_weights(counts).numpy(), -ldam_margins(counts).numpy()):
        assert (np.diff(rising[order]) >= -1e-12).all()
    assert (np.diff(class_temperatures(counts, growth=0.05).numpy()[order]) >= -1e-12).all()
    assert effective_weights(counts).mean() == pytest.approx(1)


def test_balanced_softmax(logits: torch.Tensor, labels: torch.Tensor) -> None:
    total = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        powers = [count * math.exp(value) for count, value in zip(COUNTS.tolist(), row, strict=True)]
        total -= math.log(powers[label] / sum(powers))
    assert balanced_softmax_loss(logits, labels, COUNTS).item() == pytest.approx(total / N, rel=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 10_000))
def test_balanced_softmax_of_equal_counts_is_cross_entropy(count: int) -> None:
    logits, labels = torch.randn(5, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
    torch.testing.assert_close(balanced_softmax_loss(logits, labels, [count] * 3), F.cross_entropy(logits, labels))


def test_temperatures() -> None:
    alpha, gamma = 2.0, 0.1
    beta = [gamma * K * int(count) / int(COUNTS.sum()) + 1 - gamma for count in COUNTS]
    expected = [alpha * (b + 1 - max(beta)) for b in beta]
    np.testing.assert_allclose(class_temperatures(COUNTS, alpha, gamma), expected, rtol=1e-12)
    assert class_temperatures(COUNTS, alpha, gamma)[0] == alpha
    assert class_temperatures(COUNTS, alpha, 0.0).tolist() == [alpha] * K


def test_a_temperature_that_would_not_be_positive_is_refused_with_the_mend() -> None:
    counts = [10_000] + [1] * 99
    with pytest.raises(InputError, match=r"below 0.0101"):
        class_temperatures(counts, growth=0.05)
    assert class_temperatures(counts, growth=0.01).min() > 0


def test_diversity_is_the_negative_divergence_from_the_mean_of_the_experts() -> None:
    logits = torch.randn(3, N, K, dtype=torch.float64)
    temperatures = class_temperatures(COUNTS, 1.5, 0.2)
    total = 0.0
    for n in range(N):
        scaled = [[float(logits[e, n, k] / temperatures[k]) for k in range(K)] for e in range(3)]
        mean = softmax([sum(expert[k] for expert in scaled) / 3 for k in range(K)])
        for expert in scaled:
            total += sum(m * math.log(m / p) for m, p in zip(mean, softmax(expert), strict=True))
    assert float(diversity_loss(logits, temperatures)) == pytest.approx(-total / N, rel=1e-12)


def test_experts_that_agree_have_no_diversity_and_those_that_differ_gain_by_it() -> None:
    same = torch.randn(1, N, K, dtype=torch.float64).repeat(3, 1, 1)
    assert float(diversity_loss(same, torch.ones(K))) == pytest.approx(0, abs=1e-12)
    assert float(diversity_loss(same + torch.randn_like(same), torch.ones(K))) < -0.01


def test_the_gradient_of_diversity_leads_away_from_the_mean_and_is_bounded() -> None:
    logits = (20 * torch.randn(3, N, K, dtype=torch.float64)).requires_grad_()
    temperatures = class_temperatures(COUNTS, 1.0, 0.2)
    diversity_loss(logits, temperatures).backward()
    own = (logits / temperatures).softmax(dim=-1)
    mean = (logits.mean(dim=0) / temperatures).softmax(dim=-1)
    torch.testing.assert_close(logits.grad, ((mean - own) / temperatures / N).detach())


def test_gradients_by_finite_differences(logits: torch.Tensor, labels: torch.Tensor) -> None:
    margins, weights = ldam_margins(COUNTS), effective_weights(COUNTS)
    assert torch.autograd.gradcheck(lambda z: ldam_loss(z, labels, margins, 3.0, weights), logits)
    assert torch.autograd.gradcheck(lambda z: balanced_softmax_loss(z, labels, COUNTS), logits)
    assert torch.autograd.gradcheck(lambda w: tau_normalized(w, 0.7), logits)


def test_tau_normalized() -> None:
    weight = torch.randn(K, 3, dtype=torch.float64)
    rows = [[w / math.sqrt(sum(x * x for x in row)) ** 0.4 for w in row] for row in weight.tolist()]
    torch.testing.assert_close(tau_normalized(weight, 0.4), torch.tensor(rows, dtype=torch.float64))
    assert torch.equal(tau_normalized(weight, 0.0), weight)
    torch.testing.assert_close(tau_normalized(weight, 1.0).norm(dim=1), torch.ones(K, dtype=torch.float64))


def test_a_class_without_images_is_refused() -> None:
    for formula in (ldam_margins, effective_weights, class_temperatures):
        with pytest.raises(InputError, match="1 classes without a training image in 3"):
            formula([3, 0, 1])
