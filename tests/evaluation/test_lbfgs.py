import numpy as np
import pytest
import torch
from scipy.optimize import minimize as oracle

from sdclr.evaluation.lbfgs import minimize, new_memory


def _log_cosh(seed: int, size: int):
    """A convex function of curvature between 0.1 and 1.1, and its gradient."""
    generator = torch.Generator().manual_seed(seed)
    shift = torch.randn(size, generator=generator, dtype=torch.float64)

    def objective(x):
        return float(torch.cosh(x - shift).log().sum() + 0.05 * x.square().sum()), torch.tanh(x - shift) + 0.1 * x

    return objective


@pytest.mark.parametrize("seed", range(3))
def test_finds_the_minimum_that_scipy_finds(seed):
    objective = _log_cosh(seed, 30)
    found, steps = minimize(objective, torch.zeros(30, dtype=torch.float64), tolerance=1e-9, max_iterations=100)

    def for_scipy(x):
        value, gradient = objective(torch.from_numpy(x))
        return value, gradient.numpy()

    expected = oracle(for_scipy, np.zeros(30), jac=True, tol=1e-12).x
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert 1 < steps < 30
    assert objective(found)[1].abs().max() <= 1e-9


def test_a_whole_first_step_ends_where_the_curvature_is_one():
    target, calls = torch.arange(5, dtype=torch.float64), []

    def objective(x):
        calls.append(x)
        return float((x - target).square().sum()) / 2, x - target

    found, steps = minimize(objective, 0 * target, tolerance=1e-12, max_iterations=10)
    assert torch.equal(found, target)
    assert (steps, len(calls)) == (1, 2)


def test_a_value_that_is_rounded_costs_no_tries():
    objective, calls = _log_cosh(0, 30), []

    def rounded(x):
        calls.append(x)
        value, gradient = objective(x)
        return float(np.float32(100 + value)), gradient

    found, steps = minimize(rounded, torch.zeros(30, dtype=torch.float64), tolerance=1e-9, max_iterations=100)
    assert objective(found)[1].abs().max() <= 1e-9
    assert len(calls) <= steps + 4


def test_memory_goes_on():
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(30, 30, generator=generator, dtype=torch.float64))[0]
    matrix = turn @ torch.diag(torch.logspace(-2, 0, 30, dtype=torch.float64)) @ turn.T

    def objective(x):
        return float(x @ matrix @ x) / 2, matrix @ x

    start = torch.ones(30, dtype=torch.float64)
    memory = new_memory()
    halfway, _ = minimize(objective, start, tolerance=1e-3, max_iterations=100, memory=memory)
    assert memory
    _, forgetful = minimize(objective, halfway, tolerance=1e-10, max_iterations=100)
    _, remembering = minimize(objective, halfway, tolerance=1e-10, max_iterations=100, memory=memory)
    assert remembering < forgetful


def test_steps_are_shortened_where_the_function_bends_more():
    def objective(x):
        return float(50 * x.square().sum()), 100 * x

    found, _ = minimize(objective, torch.ones(3, dtype=torch.float64), tolerance=1e-9, max_iterations=50)
    assert found.abs().max() < 1e-10


def test_stops_at_the_limit():
    _, steps = minimize(_log_cosh(0, 30), torch.zeros(30, dtype=torch.float64), tolerance=1e-12, max_iterations=2)
    assert steps == 2
