"""Strengths from the memory of losses, against the formula written plainly."""

import math
import statistics
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ranks import results_of_two
from sdclr.method import Objective, SimCLR
from sdclr.method.rebalancing.memorization import Memorization, MemorizationConfig

NOTHING = (torch.empty(0), torch.empty(0))


def tell(memory: Memorization, losses: list[float], samples: list[int]) -> torch.Tensor:
    return memory(torch.tensor(losses), NOTHING, torch.tensor(samples))


def plainly(averages: dict[int, float], samples: int) -> list[float]:
    """BCL: z = (m - mean) / std over the set, w = z / max|z| / 2 + 1/2, of samples seen at all."""
    mean, std = statistics.fmean(averages.values()), statistics.stdev(averages.values())
    z = {sample: (average - mean) / std for sample, average in averages.items()}
    largest = max(map(abs, z.values()))
    return [z[sample] / largest / 2 + 1 / 2 if sample in z else 0.5 for sample in range(samples)]


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(
        st.lists(st.tuples(st.integers(0, 11), st.floats(0.0, 10.0, width=32)), min_size=1, max_size=8),
        min_size=1,
        max_size=6,
    ),
    momentum=st.sampled_from([0.0, 0.5, 0.97]),
)
def test_equals_the_formula(steps, momentum):
    memory = Memorization(12, config=MemorizationConfig(momentum=momentum))
    averages: dict[int, float] = {}
    for step in steps:
        losses = [loss for _, loss in step]
        assert tell(memory, losses, [sample for sample, _ in step]).tolist() == losses
        for sample in {sample for sample, _ in step}:
            now = statistics.fmean(loss for other, loss in step if other == sample)
            averages[sample] = momentum * averages[sample] + (1 - momentum) * now if sample in averages else now
    for sample, average in enumerate(memory.average.tolist()):
        if sample in averages:
            assert average == pytest.approx(averages[sample], rel=1e-5, abs=1e-6)
        else:
            assert not memory.seen[sample]
    memory.begin_epoch(1)
    assert memory.strength.min() >= 0
    assert memory.strength.max() <= 1
    if len(averages) > 1 and statistics.stdev(averages.values()) > 0.01:
        assert memory.strength.tolist() == pytest.approx(plainly(averages, 12), abs=1e-3)
        assert 1 in memory.strength.tolist() or 0 in memory.strength.tolist()


def test_the_highest_loss_gets_the_strongest_views():
    memory = Memorization(5)
    tell(memory, [1.0, 2.0, 6.0, 3.0], [0, 1, 2, 3])
    memory.begin_epoch(1)
    torch.testing.assert_close(memory.strength, torch.tensor([1 / 6, 1 / 3, 1.0, 0.5, 0.5]))  # the last is not seen


def test_nothing_is_changed_in_the_first_epoch_and_a_strength_holds_for_an_epoch():
    memory = Memorization(4)
    memory.begin_epoch(0)
    tell(memory, [1.0, 2.0, 3.0, 4.0], [0, 1, 2, 3])
    assert memory.strength.tolist() == [0, 0, 0, 0]
    memory.begin_epoch(1)
    settled = memory.strength.clone()
    assert settled.tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1])
    tell(memory, [40.0], [0])
    assert torch.equal(memory.strength, settled)
    memory.begin_epoch(2)
    assert memory.strength.tolist() == pytest.approx(plainly({0: 0.97 + 0.03 * 40, 1: 2, 2: 3, 3: 4}, 4), abs=1e-5)


def test_nothing_is_changed_while_nothing_is_known():
    memory = Memorization(3)
    memory.begin_epoch(7)
    assert memory.strength.tolist() == [0, 0, 0]


@pytest.mark.parametrize("loss", [0.1, 0.3, 7.7, 0.0])
def test_equal_losses_give_a_half_everywhere(loss):
    memory = Memorization(1009)
    tell(memory, [loss] * 1000, list(range(1000)))
    memory.begin_epoch(1)
    assert memory.strength.tolist() == [0.5] * 1009


def test_the_control_gives_the_same_strength_at_the_same_time():
    memory = Memorization(3, config=MemorizationConfig(constant=0.25))
    memory.begin_epoch(0)
    assert memory.strength.tolist() == [0, 0, 0]
    tell(memory, [1.0, 9.0], [0, 2])
    memory.begin_epoch(1)
    assert memory.strength.tolist() == [0.25] * 3


def test_a_run_that_goes_on_in_the_middle_of_an_epoch_is_as_strong():
    memory, later = Memorization(4), Memorization(4)
    tell(memory, [1.0, 2.0, 3.0], [0, 1, 2])
    memory.begin_epoch(1)
    tell(memory, [5.0], [0])
    later.load_state_dict(memory.state_dict())
    later.enter_epoch(1)
    assert torch.equal(later.strength, memory.strength)
    for each in (memory, later):
        tell(each, [4.0, 4.5], [3, 1])
        each.begin_epoch(2)
    assert torch.equal(later.strength, memory.strength)
    assert later.strength[3] != 0.5


def test_in_an_objective_losses_and_gradients_are_untouched():
    def made(*rebalancers: Memorization) -> Objective:
        torch.manual_seed(0)
        return Objective(
            SimCLR(0.3), torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 8)), None, rebalancers
        )

    view1, view2 = torch.randn(2, 5, 3, 2, 2)
    plain, boosted = made(), made(Memorization(9))
    losses = [objective(view1, view2, torch.tensor([8, 1, 2, 3, 5])) for objective in (plain, boosted)]
    for each in losses:
        each.mean().backward()
    assert torch.equal(*losses)
    assert torch.equal(plain.network[1].weight.grad, boosted.network[1].weight.grad)
    memory = boosted.rebalancers[0]
    torch.testing.assert_close(memory.average[[8, 1, 2, 3, 5]], losses[0].detach())
    assert not memory.average.requires_grad
    boosted.enter_epoch(1, begins=True)
    assert boosted.strength is memory.strength
    assert boosted.strength.amax() > 0.5


def test_losses_in_half_precision_are_remembered_in_single():
    memory = Memorization(2)
    losses = torch.tensor([1.5, 2.5], dtype=torch.bfloat16)
    assert memory(losses, NOTHING, torch.tensor([0, 1])) is losses
    assert memory.average.dtype == torch.float32
    assert memory.average.tolist() == [1.5, 2.5]


STEPS = [
    ([0, 3, 1, 5], [1.0, 2.0, 3.0, 4.0]),
    ([2, 0, 0, 5], [7.0, 5.0, 3.0, 6.0]),
    ([1, 3, 4, 1], [2.0, 8.0, 1.0, 9.0]),
]


def state_of_rank(rank: int, _folder: Path) -> dict[str, torch.Tensor]:
    memory, share = Memorization(7), slice(2 * rank, 2 * rank + 2)
    for samples, losses in STEPS:
        assert tell(memory, losses[share], samples[share]).tolist() == losses[share]
    memory.begin_epoch(1)
    return memory.state_dict()


@pytest.mark.slow
def test_two_ranks_remember_what_one_does(tmp_path: Path):
    memory = Memorization(7)
    for samples, losses in STEPS:
        tell(memory, losses, samples)
    memory.begin_epoch(1)
    for state in results_of_two(state_of_rank, tmp_path):
        for name, value in memory.state_dict().items():
            assert torch.equal(state[name], value)
    assert memory.seen.tolist() == [True] * 6 + [False]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"momentum": 1.0}, r"in \[0, 1\), not 1.0"),
        ({"momentum": -0.1}, "not -0.1"),
        ({"constant": 1.5}, r"strength lies in \[0, 1\], not 1.5"),
        ({"constant": math.nan}, "not nan"),
    ],
)
def test_config_refuses_nonsense(values, said):
    with pytest.raises(ValueError, match=said):
        MemorizationConfig(**values)
