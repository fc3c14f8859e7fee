"""Outside images: scores, budgets, choices and the term against the formulas, the control, and several processes."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ranks import results_of_two
from sdclr.method.rebalancing.outside import (
    Outside,
    OutsideConfig,
    budgets,
    kind_contrast,
    log_probabilities,
    nearest_to_centers,
    of_clusters,
    tailness,
)

TAU = 0.3
OWN, OTHERS = 12, 8
MASK = torch.arange(OWN + OTHERS) >= OWN


def made(epoch: int = 3, **changes: object) -> Outside:
    config = OutsideConfig(**({"start": 0.0, "clusters": 2} | changes))
    outside = Outside(MASK, epochs=10, temperature=TAU, config=config)
    outside.enter_epoch(epoch)
    return outside


def plainly(a: torch.Tensor, b: torch.Tensor, kinds: list[bool], count: int) -> tuple[list[float], list[float]]:
    """Term and tailness score of each sample, number by number."""
    z = [row / row.square().sum().sqrt() for row in [*a, *b]]
    n, terms, scores = len(a), [], []
    for i in range(2 * n):
        s = {j: math.exp(float(z[i] @ z[j]) / TAU) for j in range(2 * n) if j != i}
        p = {j: value / sum(s.values()) for j, value in s.items()}
        alike = [j for j in p if kinds[j % n] == kinds[i % n]]
        terms.append(-sum(math.log(p[j]) for j in alike) / len(alike))
        negatives = sorted((p[j] for j in p if j % n != i % n), reverse=True)
        scores.append(-sum(negatives[:count]))
    return [(terms[i] + terms[n + i]) / 2 for i in range(n)], [(scores[i] + scores[n + i]) / 2 for i in range(n)]


def test_terms_and_scores_are_those_of_the_formulas():
    a, b = torch.randn(2, 6, 5, dtype=torch.float64)
    samples = torch.tensor([3, 14, 0, 19, 7, 5])
    outside = made(top=0.5, alpha=0.7)
    losses = torch.rand(6, dtype=torch.float64)
    terms, scores = plainly(a, b, MASK[samples].tolist(), count=3)
    found = outside(losses, (a, b), samples)
    assert (found - losses).tolist() == pytest.approx([0.7 * term for term in terms])
    assert outside.tailness[samples].tolist() == pytest.approx(scores, abs=1e-6)
    assert outside.seen.nonzero().flatten().tolist() == sorted(samples.tolist())
    outside(losses, (b + 1, a), samples)
    again = plainly(b + 1, a, MASK[samples].tolist(), count=3)[1]
    moved = [0.97 * score + 0.03 * new for score, new in zip(scores, again, strict=True)]
    assert outside.tailness[samples].tolist() == pytest.approx(moved, abs=1e-6)


def test_gradients_are_those_of_finite_differences():
    samples = torch.tensor([3, 14, 0, 19])
    b = torch.randn(4, 3, dtype=torch.float64)

    def total(rows: torch.Tensor) -> torch.Tensor:
        return made(alpha=0.4)(torch.zeros(4, dtype=torch.float64), (rows, b), samples).sum()

    assert torch.autograd.gradcheck(total, torch.randn(4, 3, dtype=torch.float64, requires_grad=True))


def test_a_batch_of_own_images_and_the_time_before_the_start_have_no_term():
    losses, outputs = torch.rand(4), tuple(torch.randn(2, 4, 5))
    assert torch.equal(made()(losses, outputs, torch.arange(4)), losses)
    late = made(epoch=4, start=0.5)
    assert late(losses, outputs, torch.tensor([0, 1, 15, 16])) is losses
    assert late.seen.sum() == 4  # scores are there when they are needed
    late.enter_epoch(5)
    assert not torch.equal(late(losses, outputs, torch.tensor([0, 1, 15, 16])), losses)


def test_autocast_does_not_lower_the_precision():
    outputs, samples = tuple(torch.randn(2, 4, 5)), torch.tensor([0, 1, 15, 16])
    exact = made()(torch.zeros(4), outputs, samples)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(made()(torch.zeros(4), outputs, samples), exact)


def test_descending_on_the_term_separates_the_kinds():
    rows = torch.randn(10, 4).requires_grad_()
    kinds = torch.tensor([False] * 3 + [True] * 2)
    optimizer = torch.optim.SGD([rows], lr=2.0)
    for _ in range(400):
        optimizer.zero_grad()
        unit = F.normalize(rows, dim=1)
        kind_contrast(log_probabilities(unit, unit, 0, 0.5), kinds.repeat(2), kinds.repeat(2), 0).mean().backward()
        optimizer.step()
    unit = F.normalize(rows.detach(), dim=1)
    alike = kinds.repeat(2)[:, None] == kinds.repeat(2)[None]
    cosines = unit @ unit.T
    assert cosines[alike].min() > 0.9
    assert cosines[~alike].max() < 0


def test_images_of_a_crowd_score_lower_than_a_lonely_one():
    crowd = torch.tensor([1.0, 0, 0]) + 0.05 * torch.randn(6, 3)
    rows = F.normalize(torch.cat([crowd, torch.tensor([[0, 1.0, 0]])]).repeat(2, 1), dim=1)
    scores = tailness(log_probabilities(rows, rows, 0, 0.2), 0, count=3)
    assert scores[6] > scores[:6].max()
    assert scores[13] > scores[7:13].max()
    assert scores.min() >= -1


def test_budgets_are_a_softmax_of_standardized_scores():
    scores = [-0.9, -0.5, -0.2, -0.6]
    mean, deviation = np.mean(scores), np.std(scores, ddof=1)
    for temperature in (0.5, 1.0, 3.0):
        powers = [math.exp((score - mean) / deviation / temperature) for score in scores]
        wanted = [1000 * power / sum(powers) for power in powers]
        found = budgets(torch.tensor(scores, dtype=torch.float64), 1000, temperature=temperature)
        assert int(found.sum()) == 1000
        assert np.abs(np.array(wanted) - found.numpy()).max() < 1
    assert budgets(torch.zeros(3, dtype=torch.float64), 10).tolist() == [4, 3, 3]
    nan = float("nan")
    assert budgets(torch.tensor([nan, nan], dtype=torch.float64), 6).tolist() == [3, 3]
    empty = torch.tensor([False, True, False])
    assert budgets(torch.tensor([0.0, nan, 0.0], dtype=torch.float64), 6, empty=empty).tolist() == [3, 0, 3]


def test_means_of_clusters():
    found = of_clusters(torch.tensor([1.0, 2, 6]), torch.tensor([0, 2, 2]), 3)
    assert found[[0, 2]].tolist() == [1, 4]
    assert found[1].isnan()


def test_the_nearest_free_images_are_chosen_for_each_cluster():
    closeness = torch.rand(30, 4)
    counts = torch.tensor([5, 0, 9, 7])
    taken: list[int] = []
    for cluster, count in enumerate(counts.tolist()):
        order = sorted(set(range(30)) - set(taken), key=lambda row: -float(closeness[row, cluster]))
        taken += order[:count]
    assert nearest_to_centers(closeness, counts).tolist() == taken
    assert len(nearest_to_centers(closeness, torch.tensor([20, 20, 0, 0]))) == 30


def situation() -> tuple[torch.Tensor, torch.Tensor]:
    """Ten own images in cluster 0, one in cluster 1, one that cannot be read; outside images between the centers."""
    clusters = torch.tensor([0] * 10 + [1, -1] + [-1] * OTHERS)
    closeness = torch.stack([torch.linspace(1, 0, OWN + OTHERS), torch.linspace(0, 1, OWN + OTHERS)], dim=1)
    closeness[11] = closeness[13] = torch.nan
    return clusters, closeness


def test_an_update_chooses_more_images_near_the_rare_cluster():
    outside = made(budget=0.5, temperature=0.5)
    assert torch.equal(outside.sampling, (~MASK).double())
    outside.tailness[:11] = torch.tensor([-0.8] * 10 + [-0.1])
    outside.seen[:11] = True
    outside.update(*situation())
    # Of six: standardized ±0.71, softmax 0.94 and 0.06.
    assert outside.sampling[:OWN].tolist() == [1] * OWN
    assert outside.sampling[OWN:].nonzero().flatten().tolist() == [2, 3, 4, 5, 6, 7]  # 1 cannot be read; 0 is far
    outside.config = OutsideConfig(budget=5)
    outside.update(*situation())
    assert int(outside.sampling.sum()) == OWN + OTHERS - 1
    with pytest.raises(ValueError, match="of 3 images and closeness of 20 for 20"):
        outside.update(torch.zeros(3, dtype=torch.int64), situation()[1])


def test_the_control_chooses_as_many_at_random_and_others_each_time():
    outside, again, other = (made(budget=0.3, control="random", seed=seed) for seed in (0, 0, 1))
    state = torch.get_rng_state()
    for each in (outside, again, other):
        each.update(*situation())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(outside.sampling, again.sampling)
    assert int(outside.sampling[OWN:].sum()) == int(other.sampling[OWN:].sum()) == 4
    assert outside.sampling[13] == 0
    chosen = set()
    for epoch in range(8):
        outside.enter_epoch(epoch)
        outside.update(*situation())
        chosen.add(tuple(outside.sampling.tolist()))
    assert len(chosen) > 1


def test_state_travels_and_choices_are_due_every_few_epochs():
    one, two = made(budget=0.3), made(budget=0.3)
    one(torch.zeros(4), tuple(torch.randn(2, 4, 5)), torch.tensor([0, 1, 15, 16]))
    one.update(*situation())
    two.load_state_dict(one.state_dict())
    assert torch.equal(one.sampling, two.sampling)
    assert torch.equal(one.tailness, two.tailness)
    late = Outside(MASK, epochs=100, temperature=TAU, config=OutsideConfig())
    assert [epoch for epoch in range(100) if late.due(epoch)] == [5, 30, 55, 80]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"budget": 0.0}, "positive multiple"),
        ({"top": 0.0}, r"in \(0, 1\]"),
        ({"momentum": 1.0}, r"in \[0, 1\)"),
        ({"temperature": 0.0}, "is positive"),
        ({"alpha": -1.0}, "0 or more"),
        ({"start": 1.0}, r"in \[0, 1\)"),
        ({"clusters": 0}, "1 or more"),
        ({"every": 0}, "1 or more"),
        ({"seed": -1}, "0 or more"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        OutsideConfig(**wrong)


@pytest.mark.parametrize("mask", [torch.zeros(4, dtype=torch.bool), torch.ones(4, dtype=torch.bool)])
def test_images_of_one_kind_are_refused(mask):
    with pytest.raises(ValueError, match="one or more of both"):
        Outside(mask, epochs=4, temperature=TAU)


def test_a_step_does_not_wait_for_the_device(no_synchronization):
    outputs, samples, losses, outside = tuple(torch.randn(2, 8, 4)), torch.arange(8, 16), torch.zeros(8), made()
    with no_synchronization() as watched:
        outside(losses, outputs, samples)
    assert watched.found == []


def steps_of_rank(rank: int, _folder: Path) -> tuple[torch.Tensor, ...]:
    return steps(slice(rank * 4, rank * 4 + 4), parallel=True)


def steps(share: slice, *, parallel: bool = False) -> tuple[torch.Tensor, ...]:
    """Three steps: losses, gradient, scores and choice."""
    generator = torch.Generator().manual_seed(1)
    layer = torch.nn.Linear(5, 4, bias=False)
    layer.load_state_dict({"weight": torch.randn(4, 5, generator=generator)})
    network = torch.nn.parallel.DistributedDataParallel(layer) if parallel else layer
    samples = torch.tensor([[0, 3, 3, 14, 5, 16, 0, 17], [8, 9, 10, 1, 2, 3, 0, 5], [1, 12, 3, 4, 15, 16, 7, 8]])
    outside, losses = made(top=0.4), []
    for views, which in zip(torch.randn(3, 2, 8, 5, generator=generator), samples, strict=True):
        outputs = network(views[:, share].flatten(0, 1)).chunk(2)
        loss = outside(torch.zeros(len(which[share])), outputs, which[share])
        loss.mean().backward()
        losses.append(loss.detach())
    outside.update(*situation())
    return torch.stack(losses), layer.weight.grad, outside.tailness, outside.weights


@pytest.mark.slow
def test_two_ranks_equal_one(tmp_path: Path) -> None:
    losses, gradient, scores, weights = steps(slice(0, 8))
    found = results_of_two(steps_of_rank, tmp_path)
    torch.testing.assert_close(torch.cat([found[0][0], found[1][0]], 1), losses)
    for one, other, alone in zip(found[0][1:], found[1][1:], (gradient, scores, weights), strict=True):
        assert torch.equal(one, other)
        torch.testing.assert_close(one, alone)
