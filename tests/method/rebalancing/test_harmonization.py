"""Geometric harmonisation: its directions, its term by the formula, its schedule, what it knows of each sample."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ranks import results_of_two
from sdclr.method.rebalancing import harmonization as harmonization_module
from sdclr.method.rebalancing.harmonization import Harmonization, HarmonizationConfig, spread_directions

FROM_THE_START = HarmonizationConfig(clusters=7, warmup=0, ramp=0)


@pytest.mark.parametrize(("count", "dim"), [(2, 1), (5, 4), (5, 32), (100, 99), (100, 128), (100, 512)])
def test_directions_are_a_simplex_where_there_is_room(count, dim):
    cosines = spread_directions(count, dim).double() @ spread_directions(count, dim).double().T
    expected = torch.full((count, count), -1 / (count - 1), dtype=torch.float64).fill_diagonal_(1)
    torch.testing.assert_close(cosines, expected, atol=1e-6, rtol=0)


# The lowest possible largest cosine is known for a cross-polytope, up to 2D vectors, and for a circle.
@pytest.mark.parametrize(("count", "dim", "largest"), [(8, 4, 0.001), (6, 3, 0.001), (20, 2, 0.955), (100, 32, 0.2)])
def test_more_directions_are_driven_apart(count, dim, largest):
    vectors = spread_directions(count, dim)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(count))
    assert (vectors @ vectors.T).fill_diagonal_(-1).max() < largest
    assert vectors.mean(0).norm() < 0.02
    assert torch.equal(vectors, spread_directions(count, dim))


def plainly(z1: np.ndarray, z2: np.ndarray, vectors: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """The term of each sample as published, in double precision."""

    def logits(z: np.ndarray) -> np.ndarray:
        t = z @ vectors.T
        return t / np.sqrt((t**2).sum(1, keepdims=True))

    def targets(t: np.ndarray) -> np.ndarray:
        plan = np.exp(t / 0.05)
        for _ in range(300):
            plan *= prior / plan.sum(0)
            plan /= len(plan) * plan.sum(1, keepdims=True)
        return plan * len(plan)

    def cross_entropy(q: np.ndarray, t: np.ndarray) -> np.ndarray:
        p = np.exp(t / 0.1)
        return -(q * np.log(p / p.sum(1, keepdims=True))).sum(1)

    t1, t2 = logits(z1), logits(z2)
    return cross_entropy(targets(t1), t2) + cross_entropy(targets(t2), t1)


@pytest.mark.parametrize(("n", "dim", "clusters"), [(8, 32, 100), (64, 128, 100), (30, 512, 10)])
def test_adds_the_published_term(n, dim, clusters):
    config = HarmonizationConfig(clusters=clusters, warmup=0, ramp=0, weight=0.5)
    harmonization = Harmonization(n, dim=dim, epochs=10, config=config)
    harmonization.prior.copy_(torch.rand(clusters).add(0.1).softmax(0))
    z1, z2 = torch.randn(2, n, dim)
    losses = torch.rand(n)
    found = harmonization(losses, (z1, z2), torch.arange(n))
    expected = plainly(*(each.double().numpy() for each in (z1, z2, harmonization.vectors, harmonization.prior)))
    np.testing.assert_allclose(found - losses, 0.5 * expected, rtol=2e-4)


def test_gradients_flow_through_both_predictions_and_not_through_targets():
    harmonization = Harmonization(6, dim=4, epochs=10, config=FROM_THE_START)
    z1, z2 = torch.randn(2, 6, 4, dtype=torch.float64)

    def term(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return harmonization(torch.zeros(6), (a, b), torch.arange(6)).sum()

    with pytest.MonkeyPatch.context() as patch:
        fixed = harmonization_module.sinkhorn(
            torch.stack([harmonization._logits(z1), harmonization._logits(z2)]), harmonization.prior, epsilon=0.05
        )
        patch.setattr(harmonization_module, "sinkhorn", lambda *_, **__: fixed)
        assert torch.autograd.gradcheck(term, (z1.requires_grad_(), z2.requires_grad_()))
        with_fixed = torch.autograd.grad(term(z1, z2), (z1, z2))
    for found, expected in zip(torch.autograd.grad(term(z1, z2), (z1, z2)), with_fixed, strict=True):
        assert found.abs().max() > 0.01
        torch.testing.assert_close(found, expected)


def test_the_published_schedule_at_the_published_length():
    harmonization = Harmonization(3, dim=4, epochs=1000)
    weights, momenta, taken = [], [], []
    for epoch in range(1000):
        harmonization.logits.zero_()
        harmonization.logits[:, epoch % 7] = 1
        harmonization.enter_epoch(epoch)
        before = harmonization.prior.clone()
        harmonization.begin_epoch(epoch)
        weights.append(float(harmonization.weight_now))
        momenta.append(round(float(harmonization.momentum_now), 4))
        if not torch.equal(harmonization.prior, before):
            taken.append(epoch)
    assert weights[:500] == [0] * 500
    assert weights[500:511] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1])
    assert weights[511:] == [1] * 489
    assert momenta == [0.9] * 500 + [0.999] * 500
    assert taken == list(range(500, 1000, 20))


@pytest.mark.parametrize("epochs", [1, 2, 3, 8, 60])
def test_short_runs_have_a_schedule_too(epochs):
    harmonization = Harmonization(3, dim=4, epochs=epochs)
    weights = []
    for epoch in range(epochs):
        harmonization.enter_epoch(epoch)
        harmonization.begin_epoch(epoch)
        weights.append(float(harmonization.weight_now))
    assert weights == [0] * round(epochs / 2) + [1] * (epochs - round(epochs / 2))


def test_during_the_warm_up_it_only_remembers():
    harmonization = Harmonization(5, dim=4, epochs=10, config=HarmonizationConfig(clusters=3))
    losses = torch.rand(2)
    z1, z2 = torch.randn(2, 2, 4)
    assert harmonization(losses, (z1, z2), torch.tensor([3, 1])) is losses
    torch.testing.assert_close(harmonization.logits[[3, 1]], 0.1 * F.normalize(z1 @ harmonization.vectors.T, dim=1))
    assert not harmonization.logits[[0, 2, 4]].any()


def test_running_means_and_sizes_of_clusters():
    config = HarmonizationConfig(clusters=3, warmup=0.5, warmup_momentum=0.75, momentum=0.9)
    harmonization = Harmonization(6, dim=4, epochs=4, config=config)
    directions = harmonization.vectors

    def logits(z: torch.Tensor) -> torch.Tensor:
        return F.normalize(z @ directions.T, dim=1)

    def step(samples: list[int], clusters: list[int]) -> torch.Tensor:
        z = directions[clusters] + 0.1 * torch.randn(len(clusters), 4)
        harmonization(torch.zeros(len(samples)), (z, torch.randn_like(z)), torch.tensor(samples))
        return logits(z)

    harmonization.enter_epoch(0)
    harmonization.begin_epoch(0)
    first = step([0, 1, 1, 2], [0, 1, 2, 0])
    expected = torch.zeros(6, 3)
    expected[[0, 2]] = 0.25 * first[[0, 3]]
    expected[1] = 0.25 * (first[1] + first[2]) / 2  # one of the batch's samples came twice
    torch.testing.assert_close(harmonization.logits, expected)
    second = step([1, 3], [2, 1])
    expected[1], expected[3] = 0.75 * expected[1] + 0.25 * second[0], 0.25 * second[1]
    torch.testing.assert_close(harmonization.logits, expected)
    assert torch.equal(harmonization.prior, torch.full((3,), 1 / 3))

    harmonization.enter_epoch(2)
    harmonization.begin_epoch(2)
    torch.testing.assert_close(harmonization.prior, torch.tensor([0.5, 0.25, 0.25]))  # 4 and 5 were not seen
    third = step([5], [2])
    torch.testing.assert_close(harmonization.logits[5], 0.1 * third[0])


def test_sizes_stay_even_as_long_as_nothing_is_known():
    harmonization = Harmonization(6, dim=8, epochs=10, config=FROM_THE_START)
    harmonization.begin_epoch(0)
    torch.testing.assert_close(harmonization.prior, torch.full((7,), 1 / 7))


def test_half_precision_and_autocast_change_little():
    harmonization = Harmonization(16, dim=32, epochs=10, config=FROM_THE_START)
    z1, z2 = torch.randn(2, 16, 32).bfloat16()
    losses, samples = torch.rand(16), torch.arange(16)
    exact = harmonization(losses, (z1.float(), z2.float()), samples)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(harmonization(losses, (z1, z2), samples), exact)
    assert exact.dtype == torch.float32


def test_descending_on_the_term_fills_clusters_by_their_sizes():
    sizes = torch.tensor([32, 16, 8, 8])
    harmonization = Harmonization(64, dim=8, epochs=10, config=HarmonizationConfig(clusters=4, warmup=0, ramp=0))
    harmonization.prior.copy_(sizes / 64)
    z = torch.randn(64, 8).requires_grad_()
    optimizer = torch.optim.Adam([z], lr=0.05)
    terms = []
    for _ in range(200):
        optimizer.zero_grad()
        noisy = [z + 0.05 * torch.randn_like(z) for _ in range(2)]
        loss = harmonization(torch.zeros(64), (noisy[0], noisy[1]), torch.arange(64)).mean()
        loss.backward()
        optimizer.step()
        terms.append(float(loss.detach()))
    assert terms[-1] < terms[0] / 10
    assert torch.equal((z @ harmonization.vectors.T).argmax(1).bincount(minlength=4), sizes)


def test_goes_on_in_the_middle_of_an_epoch_from_its_saved_state():
    config = HarmonizationConfig(clusters=5, warmup=0.25, ramp=0.5)
    saved = Harmonization(8, dim=6, epochs=8, config=config)
    z = torch.randn(6, 2, 8, 6)
    losses, samples = torch.zeros(8), torch.arange(8)
    for epoch in range(4):
        saved.enter_epoch(epoch)
        saved.begin_epoch(epoch)
        saved(losses, (z[epoch][0], z[epoch][1]), samples)
    other = Harmonization(8, dim=6, epochs=8, config=config)
    other.load_state_dict(saved.state_dict())
    other.enter_epoch(3)
    for step in (4, 5):
        outputs = (z[step][0], z[step][1])
        assert torch.equal(other(losses, outputs, samples), saved(losses, outputs, samples))
    assert torch.equal(other.logits, saved.logits)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"clusters": 1}, "2 or more clusters"),
        ({"iterations": 0}, "1 or more iterations"),
        ({"epsilon": 0}, "must be positive, not 0"),
        ({"temperature": -1}, "must be positive"),
        ({"weight": -1}, "0 or more, not -1"),
        ({"warmup": 1}, "share of the run"),
        ({"ramp": 10}, "shares of the run in"),
        ({"refresh": -0.1}, "shares of the run in"),
        ({"momentum": 1}, "momenta lie in"),
        ({"warmup_momentum": -0.5}, "momenta lie in"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        HarmonizationConfig(**wrong)


def test_a_step_does_not_wait_for_the_device(no_synchronization):
    harmonization = Harmonization(16, dim=8, epochs=10, config=FROM_THE_START)
    z1, z2 = torch.randn(2, 8, 8)
    samples, losses = torch.arange(8), torch.zeros(8)
    with no_synchronization() as watched:
        harmonization.enter_epoch(3)
        harmonization(losses, (z1, z2), samples)
    assert watched.found == []


def steps_of_rank(rank: int, _folder: Path) -> tuple[torch.Tensor, ...]:
    return steps(slice(rank * 4, rank * 4 + 4), parallel=True)


def steps(share: slice, *, parallel: bool = False) -> tuple[torch.Tensor, ...]:
    """Three steps, one of them in the warm-up: losses, gradient and what is known in the end."""
    generator = torch.Generator().manual_seed(1)
    layer = torch.nn.Linear(5, 6, bias=False)
    layer.load_state_dict({"weight": torch.randn(6, 5, generator=generator)})
    network = torch.nn.parallel.DistributedDataParallel(layer) if parallel else layer
    config = HarmonizationConfig(clusters=5, warmup=0.5)
    harmonization = Harmonization(12, dim=6, epochs=2, config=config)
    batches = torch.randn(3, 2, 8, 5, generator=generator)
    samples = torch.tensor([[0, 3, 3, 4, 5, 6, 0, 7], [8, 9, 10, 1, 2, 3, 0, 5], [1, 2, 3, 4, 5, 6, 7, 8]])
    losses = []
    for epoch, views, which in zip((0, 1, 1), batches, samples, strict=True):
        harmonization.enter_epoch(epoch)
        if epoch == 1 and not losses[1:]:
            harmonization.begin_epoch(epoch)
        outputs = network(views[:, share].flatten(0, 1)).chunk(2)
        loss = harmonization(outputs[0].square().sum(1), outputs, which[share])
        loss.mean().backward()
        losses.append(loss.detach())
    return torch.stack(losses), layer.weight.grad, harmonization.logits, harmonization.prior


@pytest.mark.slow
def test_two_ranks_equal_one(tmp_path: Path) -> None:
    losses, *expected = steps(slice(0, 8))
    found = results_of_two(steps_of_rank, tmp_path)
    torch.testing.assert_close(torch.cat([found[0][0], found[1][0]], 1), losses)
    for one, other, alone in zip(found[0][1:], found[1][1:], expected, strict=True):
        assert torch.equal(one, other)
        torch.testing.assert_close(one, alone)
    assert len(expected[-1].unique()) > 1
