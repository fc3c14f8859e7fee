"""Temperatures of images: losses and gradients by the formula, the algorithm step by step, what it is to achieve."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ranks import results_of_two
from sdclr.method import nt_xent
from sdclr.method.rebalancing.individual_temperature import IndividualTemperature, IndividualTemperatureConfig

WITHOUT_MEMORY = IndividualTemperatureConfig(estimate_rate=1, gradient_rate=1, clip=1e6, rate=0)


def anchors_of(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    rows = torch.cat([a, b])
    return rows / rows.norm(dim=1, keepdim=True)


def plainly(a: torch.Tensor, b: torch.Tensor, anchor: int, tau: torch.Tensor | float, rho: float) -> torch.Tensor:
    """`τ log mean exp(h / τ) + τ ρ` over one anchor's negatives, with `h = cos(v, v⁻) - cos(v, v⁺)`."""
    rows, n = anchors_of(a, b), len(a)
    positive = (anchor + n) % (2 * n)
    negatives = [other for other in range(2 * n) if other not in (anchor, positive)]
    h = rows[negatives] @ rows[anchor] - rows[positive] @ rows[anchor]
    return tau * (h / tau).exp().mean().log() + tau * rho


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 8), st.integers(2, 6), st.integers(0, 999))
def test_without_memory_loss_and_gradient_are_those_of_the_formula(n, dim, seed):
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, n, dim, generator=generator, dtype=torch.float64)
    a.requires_grad_()
    b.requires_grad_()
    temperature = IndividualTemperature(2 * n, config=WITHOUT_MEMORY)
    samples = torch.randperm(2 * n, generator=generator)[:n]
    tau = torch.rand(n, generator=generator) * 0.9 + 0.1
    temperature.temperatures[samples] = tau
    found = temperature(torch.zeros(n), (a, b), samples)
    expected = torch.stack(
        [sum(plainly(a, b, anchor, tau[i].double(), 0.4) for anchor in (i, i + n)) / 2 / 0.1 for i in range(n)]
    )
    torch.testing.assert_close(found, expected)
    gradients = zip(torch.autograd.grad(found.sum(), (a, b)), torch.autograd.grad(expected.sum(), (a, b)), strict=True)
    for ours, theirs in gradients:
        torch.testing.assert_close(ours, theirs)


def test_at_the_initial_temperature_its_gradient_is_that_of_the_decoupled_loss():
    a, b = torch.randn(2, 12, 8).requires_grad_()
    temperature = IndividualTemperature(12, config=IndividualTemperatureConfig(initial=0.2, estimate_rate=1))
    found = temperature(torch.zeros(12), (a, b), torch.arange(12)).mean()
    ours = torch.autograd.grad(found, (a, b))
    theirs = torch.autograd.grad(nt_xent(a, b, 0.2, decoupled=True), (a, b))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_gradients_of_temperatures_are_those_of_finite_differences():
    n = 6
    a, b = torch.randn(2, n, 4, dtype=torch.float64)
    temperature = IndividualTemperature(n, config=WITHOUT_MEMORY)
    temperature.temperatures.uniform_(0.1, 1)
    tau = temperature.temperatures.double()
    temperature(torch.zeros(n), (a, b), torch.arange(n))
    for i in range(n):
        higher, lower = (
            sum(plainly(a, b, anchor, float(tau[i]) + step, 0.4) for anchor in (i, i + n)) / 2 for step in (1e-5, -1e-5)
        )
        assert float(temperature.gradients[i]) == pytest.approx(float(higher - lower) / 2e-5, abs=1e-5)


class Published:
    """The algorithm written number by number, with the mean over negatives kept as it is and not as its logarithm."""

    def __init__(self, samples: int) -> None:
        self.tau, self.mean, self.momentum = [0.1] * samples, [math.nan] * samples, [0.0] * samples

    def step(self, a: torch.Tensor, b: torch.Tensor, samples: list[int]) -> None:
        rows, n = anchors_of(a.double(), b.double()).numpy(), len(samples)
        learned = []
        for i, sample in enumerate(samples):
            slopes, means = [], []
            for anchor in (i, i + n):
                negatives = [other for other in range(2 * n) if other % n != i]
                cosines, tau = rows[negatives] @ rows[anchor], self.tau[sample]
                mean = np.exp(cosines / tau).mean()
                if not math.isnan(self.mean[sample]):
                    mean = 0.2 * self.mean[sample] + 0.8 * mean
                weights = np.exp(cosines / tau) / mean / len(negatives)
                slopes.append(math.log(mean) + 0.4 - weights @ cosines / tau)
                means.append(mean)
            learned.append((sample, min(3.0, max(-3.0, sum(slopes) / 2)), sum(means) / 2))
        for sample, slope, mean in learned:
            self.momentum[sample] = 0.5 * self.momentum[sample] + 0.5 * slope
            self.tau[sample] = min(1.0, max(0.05, self.tau[sample] - 0.03 * self.momentum[sample]))
            self.mean[sample] = mean


def test_follows_the_published_algorithm_over_several_steps():
    published, temperature = Published(9), IndividualTemperature(9)
    for samples in ([0, 1, 2, 3, 4, 5], [8, 1, 3, 5, 7, 0], [3, 2, 0, 1, 8, 4], [3, 0, 1, 2, 4, 5]):
        a, b = torch.randn(2, 6, 3)
        published.step(a, b, samples)
        temperature(torch.zeros(6), (a, b), torch.tensor(samples))
        np.testing.assert_allclose(temperature.temperatures, published.tau, atol=1e-5)
        np.testing.assert_allclose(temperature.gradients, published.momentum, atol=1e-4)
        known = temperature.seen.numpy()
        np.testing.assert_allclose(temperature.estimates.exp()[known], np.array(published.mean)[known], rtol=1e-4)
    assert len(set(published.tau)) > 6


def test_memory_changes_the_gradient_and_by_as_much_as_it_should():
    n = 4
    a, b = torch.randn(2, n, 3, dtype=torch.float64)
    a.requires_grad_()
    temperature = IndividualTemperature(n)
    temperature.seen.fill_(True)
    temperature.estimates.fill_(9.0)
    found = torch.autograd.grad(temperature(torch.zeros(n), (a, b), torch.arange(n)).sum(), a)[0]
    rows = anchors_of(a, b)
    expected = torch.zeros(())
    for anchor in range(2 * n):
        positive = (anchor + n) % (2 * n)
        cosines = rows[[other for other in range(2 * n) if other % n != anchor % n]] @ rows[anchor]
        mean = 0.2 * math.exp(9.0) + 0.8 * (cosines / 0.1).exp().mean()
        weights = ((cosines / 0.1).exp() / mean / len(cosines)).detach()
        expected = expected + (weights @ cosines - rows[anchor] @ rows[positive]) / 2 / 0.1
    torch.testing.assert_close(found, torch.autograd.grad(expected, a)[0], rtol=1e-6, atol=1e-6)


@settings(deadline=None, max_examples=20)
@given(st.floats(0, 5), st.floats(0.01, 10), st.integers(0, 999))
def test_temperatures_stay_within_their_bounds(rho, rate, seed):
    generator = torch.Generator().manual_seed(seed)
    config = IndividualTemperatureConfig(rho=rho, rate=rate, low=0.07, high=0.4)
    temperature = IndividualTemperature(6, config=config)
    for _ in range(5):
        samples = torch.randint(6, (4,), generator=generator)
        temperature(torch.zeros(4), tuple(torch.randn(2, 4, 3, generator=generator)), samples)
        assert temperature.temperatures.min() >= 0.07 - 1e-7
        assert temperature.temperatures.max() <= 0.4 + 1e-7
        assert all(buffer.isfinite().all() for buffer in temperature.buffers())


def test_a_sample_that_comes_twice_learns_from_both():
    outputs = tuple(torch.randn(2, 4, 3))
    twice, apart = IndividualTemperature(5), IndividualTemperature(5)
    twice(torch.zeros(4), outputs, torch.tensor([2, 0, 2, 1]))
    apart(torch.zeros(4), outputs, torch.tensor([2, 0, 3, 1]))
    torch.testing.assert_close(twice.gradients[2], apart.gradients[2:4].mean())
    torch.testing.assert_close(twice.estimates[2], apart.estimates[2:4].mean())
    torch.testing.assert_close(twice.gradients[:2], apart.gradients[:2])
    assert twice.seen.tolist() == [True, True, True, False, False]
    assert float(twice.temperatures[3]) == pytest.approx(0.1)


def test_images_with_many_alike_get_high_temperatures():
    # Without memory: a mean kept from another temperature makes large steps swing to and fro here.
    temperature = IndividualTemperature(48, config=IndividualTemperatureConfig(estimate_rate=1))
    centers = torch.eye(48, 64)  # unlike each other
    centers[:16] = torch.eye(64)[50]  # but for a third of them
    for _ in range(100):
        a, b = centers + 0.03 * torch.randn(2, 48, 64)
        temperature(torch.zeros(48), (a, b), torch.arange(48))
    many, alone = temperature.temperatures[:16], temperature.temperatures[16:]
    assert many.min() > 2 * alone.max()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_at_the_lowest_temperature(dtype):
    a = torch.eye(8).to(dtype).requires_grad_()
    b = (-torch.eye(8)).to(dtype).requires_grad_()
    temperature = IndividualTemperature(8, config=IndividualTemperatureConfig(initial=0.005, low=0.005, rate=0))
    for _ in range(3):
        loss = temperature(torch.zeros(8), (a, b), torch.arange(8))
    loss.sum().backward()
    # All cosines with negatives are 0, that with the positive is -1.
    torch.testing.assert_close(loss, torch.full((8,), (0.005 * 0.4 + 1) / 0.005))
    assert a.grad.isfinite().all()
    assert b.grad.isfinite().all()


def test_autocast_does_not_lower_the_precision():
    outputs = tuple(torch.randn(2, 8, 4))
    exact = IndividualTemperature(8)(torch.zeros(8), outputs, torch.arange(8))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(IndividualTemperature(8)(torch.zeros(8), outputs, torch.arange(8)), exact)


def test_goes_on_from_its_saved_state():
    saved, other = IndividualTemperature(8), IndividualTemperature(8)
    outputs = torch.randn(4, 2, 8, 3)
    for step in (0, 1):
        saved(torch.zeros(8), tuple(outputs[step]), torch.arange(8))
    other.load_state_dict(saved.state_dict())
    for step in (2, 3):
        both = [each(torch.zeros(8), tuple(outputs[step]), torch.arange(8)) for each in (saved, other)]
        assert torch.equal(both[0], both[1])
    assert torch.equal(saved.temperatures, other.temperatures)


def test_one_image_alone_is_refused():
    with pytest.raises(ValueError, match="one image has no negatives"):
        IndividualTemperature(3)(torch.zeros(1), tuple(torch.randn(2, 1, 4)), torch.tensor([1]))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"initial": 0.01}, "start between their bounds"),
        ({"low": 0}, "start between their bounds"),
        ({"high": 0.07}, "start between their bounds"),
        ({"rho": -1}, "0 or more"),
        ({"rate": -1}, "0 or more"),
        ({"clip": 0}, "clip is positive"),
        ({"gradient_rate": 0}, r"lie in \(0, 1\]"),
        ({"estimate_rate": 1.5}, r"lie in \(0, 1\]"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        IndividualTemperatureConfig(**wrong)


def test_a_step_does_not_wait_for_the_device(no_synchronization):
    temperature = IndividualTemperature(16)
    outputs, samples, losses = tuple(torch.randn(2, 8, 4)), torch.arange(8), torch.zeros(8)
    with no_synchronization() as watched:
        temperature(losses, outputs, samples)
    assert watched.found == []


def steps_of_rank(rank: int, _folder: Path) -> tuple[torch.Tensor, ...]:
    return steps(slice(rank * 4, rank * 4 + 4), parallel=True)


def steps(share: slice, *, parallel: bool = False) -> tuple[torch.Tensor, ...]:
    """Three steps: losses, gradient and what is known in the end."""
    generator = torch.Generator().manual_seed(1)
    layer = torch.nn.Linear(5, 4, bias=False)
    layer.load_state_dict({"weight": torch.randn(4, 5, generator=generator)})
    network = torch.nn.parallel.DistributedDataParallel(layer) if parallel else layer
    temperature = IndividualTemperature(12)
    batches = torch.randn(3, 2, 8, 5, generator=generator)
    samples = torch.tensor([[0, 3, 3, 4, 5, 6, 0, 7], [8, 9, 10, 1, 2, 3, 0, 5], [1, 2, 3, 4, 5, 6, 7, 8]])
    losses = []
    for views, which in zip(batches, samples, strict=True):
        outputs = network(views[:, share].flatten(0, 1)).chunk(2)
        loss = temperature(torch.zeros(len(which[share])), outputs, which[share])
        loss.mean().backward()
        losses.append(loss.detach())
    return torch.stack(losses), layer.weight.grad, *temperature.buffers()


@pytest.mark.slow
def test_two_ranks_equal_one(tmp_path: Path) -> None:
    losses, *expected = steps(slice(0, 8))
    found = results_of_two(steps_of_rank, tmp_path)
    torch.testing.assert_close(torch.cat([found[0][0], found[1][0]], 1), losses)
    for one, other, alone in zip(found[0][1:], found[1][1:], expected, strict=True):
        assert torch.equal(one, other)
        torch.testing.assert_close(one, alone)
