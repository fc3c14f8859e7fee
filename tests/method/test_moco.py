"""MoCo against the formula written plainly; its queue, its momentum network, its self-damaged form."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sdclr.method import MoCo, MomentumNetwork, Objective, SelfCompetitor
from sdclr.method.frameworks import MoCoConfig


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 8))


def views(n: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(n, 3, 2, 2), torch.randn(n, 3, 2, 2)


def plainly(queries: torch.Tensor, keys: torch.Tensor, queue: torch.Tensor, temperature: float) -> list[float]:
    """He et al., eq. 1, query by query, in double precision."""
    rows = [[row / row.norm() for row in part.detach().double()] for part in (queries, keys, queue)]
    losses = []
    for query, key in zip(rows[0], rows[1], strict=True):
        positive = math.exp(float(query @ key) / temperature)
        negatives = sum(math.exp(float(query @ negative) / temperature) for negative in rows[2])
        losses.append(-math.log(positive / (positive + negatives)))
    return losses


@pytest.mark.parametrize("symmetric", [True, False])
def test_equals_the_formula(symmetric):
    network = small()
    moco = MoCo(network, dim=8, temperature=0.3, config=MoCoConfig(queue=7, symmetric=symmetric))
    with torch.no_grad():
        network[1].weight.mul_(1.5)  # so that queries and keys come from different weights
    queue, (view1, view2) = moco.keys.clone(), views()
    target = moco.target.network
    expected = plainly(network(view1), target(view2), queue, 0.3)
    if symmetric:
        other = plainly(network(view2), target(view1), queue, 0.3)
        expected = [(one + two) / 2 for one, two in zip(expected, other, strict=True)]
    assert moco(network, network, view1, view2).tolist() == pytest.approx(expected, abs=1e-5)


def test_focal_weighs_each_direction():
    network = small()
    view1, view2 = views()
    plain, focal = (
        MoCo(network, dim=8, config=MoCoConfig(queue=7, symmetric=False), focal=gamma).eval() for gamma in (0.0, 2.0)
    )
    focal.keys.copy_(plain.keys)
    loss = plain(network, network, view1, view2)
    torch.testing.assert_close(focal(network, network, view1, view2), (1 - (-loss).exp()) ** 2 * loss)


def test_the_second_branch_sees_the_second_view_and_keys_come_from_the_dense_weights():
    network = small()
    competitor = SelfCompetitor(network, 0.5)
    moco = MoCo(network, dim=8, config=MoCoConfig(queue=7))
    queue, (view1, view2) = moco.keys.clone(), views()
    target = moco.target.network
    first = plainly(network(view1), target(view2), queue, 0.2)
    second = plainly(competitor(view2), target(view1), queue, 0.2)
    expected = [(one + two) / 2 for one, two in zip(first, second, strict=True)]
    assert moco(network, competitor, view1, view2).tolist() == pytest.approx(expected, abs=1e-5)


def test_gradients_reach_the_network_and_not_the_momentum_network():
    network = small()
    moco = MoCo(network, dim=8, config=MoCoConfig(queue=7))
    moco(network, network, *views()).mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in moco.parameters())


def test_the_oldest_keys_give_way():
    network = small()
    moco = MoCo(network, dim=8, config=MoCoConfig(queue=8))
    before, (view1, view2) = moco.keys.clone(), views(3)
    moco(network, network, view1, view2)
    with torch.no_grad():
        fresh = F.normalize(torch.cat([network(view1), network(view2)]), dim=1)
    torch.testing.assert_close(moco.keys, torch.cat([fresh, before[6:]]))
    assert int(moco.position) == 6
    moco(network, network, view1, view2)
    torch.testing.assert_close(moco.keys[6:], fresh[:2])
    torch.testing.assert_close(moco.keys[:4], fresh[2:])
    assert int(moco.position) == 4


def test_a_batch_longer_than_the_queue_leaves_its_last_keys():
    network = small()
    moco = MoCo(network, dim=8, config=MoCoConfig(queue=2, symmetric=False))
    view1, view2 = views(5)
    moco(network, network, view1, view2)
    with torch.no_grad():
        torch.testing.assert_close(moco.keys.sort(0).values, F.normalize(network(view2)[-2:], dim=1).sort(0).values)


def test_evaluation_leaves_the_queue_alone():
    network = small()
    moco = MoCo(network, dim=8, config=MoCoConfig(queue=8)).eval()
    before = moco.keys.clone()
    moco(network, network, *views())
    assert torch.equal(moco.keys, before)


def test_the_momentum_network_follows():
    network = small()
    objective = Objective(MoCo(network, dim=8, config=MoCoConfig(queue=8, momentum=0.9)), network)
    before = network[1].weight.detach().clone()
    with torch.no_grad():
        network[1].weight.add_(1.0)
    objective.after_step(0.5)
    torch.testing.assert_close(objective.framework.target.network[1].weight, before + 0.1)
    assert objective.framework.target.network[1].weight.data_ptr() != network[1].weight.data_ptr()


def test_the_state_comes_back():
    network = small()
    moco = MoCo(network, dim=8, config=MoCoConfig(queue=8))
    moco(network, network, *views(3))
    again = MoCo(small(), dim=8, config=MoCoConfig(queue=8))
    again.load_state_dict(moco.state_dict())
    pair = views()
    assert torch.equal(moco(network, network, *pair), again(network, network, *pair))
    assert torch.equal(moco.keys, again.keys)


def test_what_makes_no_sense_is_refused():
    network = small()
    with pytest.raises(ValueError, match="symmetric"):
        MoCo(network, dim=8, config=MoCoConfig(queue=8, symmetric=False))(
            network, SelfCompetitor(network, 0.5), *views()
        )
    with pytest.raises(ValueError, match="queue is 0: give 1 or more"):
        MoCoConfig(queue=0)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        MomentumNetwork(network, 1.5)
