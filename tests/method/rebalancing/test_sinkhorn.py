"""Sinkhorn's iteration against its definition, a linear program and the limits of number formats."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from sdclr.method.rebalancing.sinkhorn import _by_logarithms, _by_scaling, sinkhorn


def plainly(scores: np.ndarray, prior: np.ndarray, epsilon: float, iterations: int) -> np.ndarray:
    """Scale rows and columns in turn, in double precision, number by number."""
    plan = np.exp(scores.astype(float) / epsilon)
    for _ in range(iterations):
        for cluster, size in enumerate(prior):
            plan[:, cluster] *= size / plan[:, cluster].sum()
        for sample in range(len(plan)):
            plan[sample] *= 1 / len(plan) / plan[sample].sum()
    return plan * len(plan)


def drawn(n: int, k: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = F.normalize(torch.randn(n, k, generator=generator, dtype=torch.float64), dim=1)
    return scores, torch.rand(k, generator=generator, dtype=torch.float64).add(0.05).softmax(0)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 9), st.integers(2, 7), st.sampled_from([0.02, 0.05, 0.3]), st.integers(1, 20), st.integers(0, 999)
)
def test_equals_rows_and_columns_scaled_in_turn(n, k, epsilon, iterations, seed):
    scores, prior = drawn(n, k, seed)
    found = sinkhorn(scores, prior, epsilon=epsilon, iterations=iterations)
    np.testing.assert_allclose(
        found, plainly(scores.numpy(), prior.numpy(), epsilon, iterations), rtol=1e-9, atol=1e-15
    )


@pytest.mark.parametrize("epsilon", [0.05, 0.02])
@pytest.mark.parametrize(("n", "k"), [(8, 100), (64, 10), (512, 100)])
def test_is_the_optimum_of_entropic_transport(n, k, epsilon):
    scores, prior = drawn(n, k, 0)
    plan = sinkhorn(scores, prior, epsilon=epsilon, iterations=3000)
    # Q is the one optimum iff it has both marginals and log Q - s / ε is a sum of one number a row and one a column.
    torch.testing.assert_close(plan.sum(1), torch.ones_like(plan[:, 0]))
    torch.testing.assert_close(plan.mean(0), prior, rtol=1e-4, atol=1e-7)
    potentials = plan.log() - scores / epsilon
    centered = potentials - potentials.mean(0) - potentials.mean(1, keepdim=True) + potentials.mean()
    assert centered.abs().max() < 1e-9


def test_at_low_epsilon_it_is_the_linear_programme():
    n, k, epsilon = 12, 4, 0.002
    scores, prior = drawn(n, k, 3)
    plan = sinkhorn(scores, prior, epsilon=epsilon, iterations=5000) / n
    sums = [np.kron(np.eye(n), np.ones(k)), np.kron(np.ones(n), np.eye(k))]
    best = linprog(-scores.numpy().ravel(), A_eq=np.vstack(sums), b_eq=[*[1 / n] * n, *prior.tolist()])
    assert best.success
    gained = float((plan * scores).sum())
    # Entropy lies in [0, log nk], so the optimum with it is at most ε log nk below the one without.
    assert -best.fun - epsilon * np.log(n * k) <= gained <= -best.fun + 1e-3
    assert gained > float((prior * scores).sum() / n) + 0.1  # the plan that shares every sample out alike


@pytest.mark.parametrize("epsilon", [0.05, 0.001])
def test_single_precision_is_enough_in_the_worst_case(epsilon):
    # All samples but one want the cluster that is to stay almost empty, with all their might.
    scores = -torch.ones(64, 8)
    scores[:-1, 0] = 1
    scores[-1, 1] = 1
    prior = torch.tensor([1e-6, *[(1 - 1e-6) / 7] * 7])
    found = sinkhorn(scores, prior, epsilon=epsilon)
    assert found.isfinite().all()
    exact = sinkhorn(scores.double(), prior.double(), epsilon=epsilon)
    torch.testing.assert_close(found.double(), exact, atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(found.sum(1), torch.ones(64))


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 20), st.integers(2, 20), st.integers(0, 999))
def test_both_ways_agree(n, k, seed):
    scores, prior = drawn(n, k, seed)
    torch.testing.assert_close(_by_scaling(scores / 0.05, prior, 50), _by_logarithms(scores / 0.05, prior, 50))


@pytest.mark.parametrize("epsilon", [0.05, 0.01])
def test_a_cluster_of_size_zero_stays_empty(epsilon):
    scores, _ = drawn(16, 5, 1)
    plan = sinkhorn(scores, torch.tensor([0.5, 0.0, 0.25, 0.25, 0.0]), epsilon=epsilon)
    assert torch.equal(plan.mean(0) > 0, torch.tensor([True, False, True, True, False]))
    torch.testing.assert_close(plan.sum(1), torch.ones(16, dtype=torch.float64))


def test_batches_are_shared_out_one_by_one():
    (first, prior), (second, _) = drawn(16, 5, 1), drawn(16, 5, 2)
    both = sinkhorn(torch.stack([first, second]), prior)
    torch.testing.assert_close(both[0], sinkhorn(first, prior))
    torch.testing.assert_close(both[1], sinkhorn(second, prior))


def test_neither_gradient_nor_low_precision():
    scores, prior = (each.float() for each in drawn(16, 5, 1))
    exact = sinkhorn(scores.requires_grad_(), prior)
    assert not exact.requires_grad
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(sinkhorn(scores, prior), exact)
    assert sinkhorn(scores.half(), prior).dtype == torch.float32


def test_compilers_see_one_operator():
    scores, prior = (each.float() for each in drawn(6, 5, 1))
    torch.library.opcheck(torch.ops.sdclr.sinkhorn, (scores, prior, 0.05, 3))
