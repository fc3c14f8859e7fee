"""KoLeo: the formula, its gradient, copies and images that come twice, and several processes."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ranks import results_of_two
from sdclr.method.rebalancing.koleo import KoLeo, KoLeoConfig


def plainly(rows: torch.Tensor, weight: float) -> list[float]:
    """`-λ log min_j |z_i - z_j|` of each row, number by number."""
    unit = [row / row.square().sum().sqrt() for row in rows]
    found = []
    for i, one in enumerate(unit):
        nearest = min(float((one - other).square().sum().sqrt()) for j, other in enumerate(unit) if j != i)
        found.append(-weight * float(torch.tensor(nearest, dtype=torch.float64).log()))
    return found


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 9), st.integers(2, 6), st.floats(0, 2), st.integers(0, 999))
def test_terms_are_those_of_the_formula(n, dim, weight, seed):
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, n, dim, generator=generator, dtype=torch.float64)
    losses = torch.rand(n, generator=generator, dtype=torch.float64)
    found = KoLeo(config=KoLeoConfig(weight=weight))(losses, (a, b), torch.arange(n)) - losses
    assert found.tolist() == pytest.approx(plainly(a, weight), abs=1e-9)


def test_gradients_are_those_of_finite_differences():
    a = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)
    koleo = KoLeo(config=KoLeoConfig(weight=0.7))

    def total(rows: torch.Tensor) -> torch.Tensor:
        return koleo(torch.zeros(7, dtype=torch.float64), (rows, rows), torch.arange(7)).sum()

    assert torch.autograd.gradcheck(total, a)
    (gradient,) = torch.autograd.grad(total(a), a)
    for i, j in ((0, 0), (3, 2), (6, 3)):  # by the formula, and not by the implementation
        higher, lower = a.detach().clone(), a.detach().clone()
        higher[i, j] += 1e-6
        lower[i, j] -= 1e-6
        slope = (sum(plainly(higher, 0.7)) - sum(plainly(lower, 0.7))) / 2e-6
        assert float(gradient[i, j]) == pytest.approx(slope, abs=1e-5)


def test_descending_on_it_spreads_outputs_evenly():
    rows = (torch.tensor([1.0, 0.0]) + 0.1 * torch.randn(8, 2)).requires_grad_()
    optimizer = torch.optim.SGD([rows], lr=0.02)
    koleo = KoLeo(config=KoLeoConfig(weight=1))
    for _ in range(800):
        optimizer.zero_grad()
        koleo(torch.zeros(8), (rows, rows), torch.arange(8)).sum().backward()
        optimizer.step()
    angles = torch.atan2(rows[:, 1], rows[:, 0]).detach().sort().values
    gaps = torch.cat([angles.diff(), angles[:1] + 2 * torch.pi - angles[-1:]])
    assert gaps.min() > 0.7 * 2 * torch.pi / 8


def test_view_two_and_an_images_own_copies_are_no_neighbors():
    a, b = torch.randn(2, 5, 3)
    a[3] = a[1]  # the same image again
    samples = torch.tensor([4, 2, 0, 2, 1])
    found = KoLeo()(torch.zeros(5), (a, b), samples)
    alone = KoLeo()(torch.zeros(4), (a[[0, 1, 2, 4]], b[:4]), samples[[0, 1, 2, 4]])
    torch.testing.assert_close(found[[0, 1, 2, 4]], alone)
    assert found[3] == found[1]
    # With no other image in the batch there is nothing to be driven away from.
    rows = torch.randn(3, 4).requires_grad_()
    losses = torch.rand(3)
    found = KoLeo()(losses, (rows, rows), torch.tensor([2, 2, 2]))
    assert torch.equal(found, losses)
    found.sum().backward()
    assert torch.equal(rows.grad, torch.zeros(3, 4))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_two_images_with_equal_outputs_give_finite_gradients(dtype):
    rows = torch.randn(6, 8).to(dtype)
    rows[1] = rows[0]
    rows.requires_grad_()
    found = KoLeo()(torch.zeros(6), (rows, rows), torch.arange(6))
    found.sum().backward()
    assert found.isfinite().all()
    assert rows.grad.isfinite().all()


def test_autocast_does_not_lower_the_precision():
    outputs = tuple(torch.randn(2, 8, 4))
    exact = KoLeo()(torch.zeros(8), outputs, torch.arange(8))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(KoLeo()(torch.zeros(8), outputs, torch.arange(8)), exact)


def test_a_weight_that_makes_no_sense_is_refused():
    for wrong in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="0 or more"):
            KoLeoConfig(weight=wrong)


def test_a_step_does_not_wait_for_the_device(no_synchronization):
    outputs, samples, losses = tuple(torch.randn(2, 8, 4)), torch.arange(8), torch.zeros(8)
    with no_synchronization() as watched:
        KoLeo()(losses, outputs, samples)
    assert watched.found == []


def steps_of_rank(rank: int, _folder: Path) -> tuple[torch.Tensor, ...]:
    return steps(slice(rank * 4, rank * 4 + 4), parallel=True)


def steps(share: slice, *, parallel: bool = False) -> tuple[torch.Tensor, ...]:
    """Three steps: losses and gradient."""
    generator = torch.Generator().manual_seed(1)
    layer = torch.nn.Linear(5, 4, bias=False)
    layer.load_state_dict({"weight": torch.randn(4, 5, generator=generator)})
    network = torch.nn.parallel.DistributedDataParallel(layer) if parallel else layer
    samples = torch.tensor([[0, 3, 3, 4, 5, 6, 0, 7], [8, 9, 10, 1, 2, 3, 0, 5], [1, 2, 3, 4, 5, 6, 7, 8]])
    losses = []
    for views, which in zip(torch.randn(3, 2, 8, 5, generator=generator), samples, strict=True):
        outputs = network(views[:, share].flatten(0, 1)).chunk(2)
        loss = KoLeo()(torch.zeros(len(which[share])), outputs, which[share])
        loss.mean().backward()
        losses.append(loss.detach())
    return torch.stack(losses), layer.weight.grad


@pytest.mark.slow
def test_two_ranks_equal_one(tmp_path: Path) -> None:
    losses, gradient = steps(slice(0, 8))
    found = results_of_two(steps_of_rank, tmp_path)
    torch.testing.assert_close(torch.cat([found[0][0], found[1][0]], 1), losses)
    assert torch.equal(found[0][1], found[1][1])
    torch.testing.assert_close(found[0][1], gradient)
