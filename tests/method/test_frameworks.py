"""BYOL, SimSiam, MoCo v3, Barlow Twins, VICReg and DCL: each against its paper's formula, and damaged."""

import math

import pytest
import torch
import torch.nn.functional as F
from lightly.loss import BarlowTwinsLoss, DCLLoss
from torch import nn

from sdclr.method import BYOL, BarlowTwins, MoCoV3, Objective, SelfCompetitor, SimSiam, VICReg, nt_xent
from sdclr.method.frameworks import BarlowTwinsConfig, BYOLConfig, MoCoV3Config, SimSiamConfig

N, D = 6, 8


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, D))


def views() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(N, 3, 2, 2), torch.randn(N, 3, 2, 2)


def moved(network: nn.Module) -> None:
    """So that a momentum network differs from it."""
    with torch.no_grad():
        network[1].weight.mul_(1.5)


def byol(network: nn.Module, *, damaged: bool = False) -> BYOL:
    return BYOL(network, dim=D, config=BYOLConfig(hidden=5), damaged=damaged)


def moco_v3(network: nn.Module, *, damaged: bool = False) -> MoCoV3:
    return MoCoV3(network, dim=D, temperature=0.3, config=MoCoV3Config(hidden=5), damaged=damaged)


def simsiam(_: nn.Module, *, damaged: bool = False) -> SimSiam:
    return SimSiam(dim=D, config=SimSiamConfig(hidden=5), damaged=damaged)


def barlow(_: nn.Module, *, damaged: bool = False) -> BarlowTwins:
    del damaged
    return BarlowTwins(config=BarlowTwinsConfig(scale=1.0))


def vicreg(_: nn.Module, *, damaged: bool = False) -> VICReg:
    del damaged
    return VICReg()


ALL = {"byol": byol, "moco_v3": moco_v3, "simsiam": simsiam, "barlow_twins": barlow, "vicreg": vicreg}


def cosines(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Row by row, in double precision."""
    return torch.stack([(p @ q) / (p.norm() * q.norm()) for p, q in zip(x.double(), y.double(), strict=True)])


@pytest.mark.parametrize("damaged", [False, True])
def test_byol_is_eq_2(damaged):
    network = small()
    framework = byol(network, damaged=damaged)
    moved(network)
    b = SelfCompetitor(network, 0.5) if damaged else network
    view1, view2 = views()
    prediction1, prediction2 = framework.predictor(network(view1)), framework.predictor(b(view2), twin=damaged)
    target1, target2 = framework.target.network(view1), framework.target.network(view2)
    expected = (2 - 2 * cosines(prediction1, target2)) + (2 - 2 * cosines(prediction2, target1))
    torch.testing.assert_close(framework(network, b, view1, view2).double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("damaged", [False, True])
def test_simsiam_is_eq_2_with_targets_of_the_dense_branch(damaged):
    network = small()
    framework = simsiam(network, damaged=damaged)
    b = SelfCompetitor(network, 0.5) if damaged else network
    view1, view2 = views()
    z1, z2 = network(view1), network(view2)
    p1, p2 = framework.predictor(z1), framework.predictor(b(view2), twin=damaged)
    expected = -(cosines(p1, z2) + cosines(p2, z1)) / 2
    torch.testing.assert_close(framework(network, b, view1, view2).double(), expected, rtol=1e-5, atol=1e-6)


def test_simsiam_stops_the_gradient_of_targets():
    network = small()
    framework = simsiam(network)
    view1, view2 = views()
    loss = framework(network, network, view1, view2).mean()
    ours = torch.autograd.grad(loss, list(network.parameters()))
    z1, z2 = network(view1), network(view2)
    p1, p2 = framework.predictor(z1), framework.predictor(z2)
    plain = -(F.cosine_similarity(p1, z2.detach()).mean() + F.cosine_similarity(p2, z1.detach()).mean()) / 2
    for mine, other in zip(ours, torch.autograd.grad(plain, list(network.parameters())), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("damaged", [False, True])
def test_moco_v3_is_algorithm_1(damaged):
    network = small()
    framework = moco_v3(network, damaged=damaged)
    moved(network)
    b = SelfCompetitor(network, 0.5) if damaged else network
    view1, view2 = views()
    query1, query2 = framework.predictor(network(view1)), framework.predictor(b(view2), twin=damaged)
    key1, key2 = framework.target.network(view1), framework.target.network(view2)

    def contrast(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        losses = []
        for i, query in enumerate(queries):
            scores = [float(cosines(query[None], key[None]).detach()) / 0.3 for key in keys]
            losses.append(-2 * 0.3 * (scores[i] - math.log(sum(math.exp(score) for score in scores))))
        return torch.tensor(losses)

    expected = contrast(query1, key2) + contrast(query2, key1)
    torch.testing.assert_close(framework(network, b, view1, view2), expected, rtol=1e-4, atol=1e-5)


def test_barlow_twins_is_eq_1_and_equals_lightly():
    network = small()
    view1, view2 = views()
    a, b = network(view1), network(view2)
    found = barlow(network)(network, network, view1, view2)
    total = 0.0
    columns = [[(c - c.mean()) / c.std(correction=0) for c in z.detach().double().T] for z in (a, b)]
    for i, one in enumerate(columns[0]):
        for j, other in enumerate(columns[1]):
            correlation = float(one @ other) / N
            total += (1 - correlation) ** 2 if i == j else 0.0051 * correlation**2
    assert found.tolist() == pytest.approx([total] * N, rel=1e-3)
    theirs = BarlowTwinsLoss(lambda_param=0.0051)(a, b)
    torch.testing.assert_close(found[0], theirs, rtol=1e-3, atol=1e-4)


def test_vicreg_is_eq_6():
    network = small()
    view1, view2 = views()
    a, b = network(view1).detach().double(), network(view2).detach().double()
    batch = 0.0
    for z in (a, b):
        for j in range(D):
            batch += 25 / D * max(0.0, 1 - math.sqrt(float(z[:, j].var()) + 1e-4))
            for i in range(D):
                if i != j:
                    shared = float(((z[:, i] - z[:, i].mean()) * (z[:, j] - z[:, j].mean())).sum()) / (N - 1)
                    batch += shared**2 / D
    expected = [25 * float(((x - y) ** 2).mean()) + batch for x, y in zip(a, b, strict=True)]
    assert vicreg(network)(network, network, view1, view2).tolist() == pytest.approx(expected, rel=1e-4)


def test_the_decoupled_loss_equals_lightly_and_its_formula():
    a, b = torch.randn(2, 7, D, dtype=torch.float64)
    rows = F.normalize(torch.cat([a, b]))
    s = (rows @ rows.T / 0.2).exp()
    losses = []
    for i in range(14):
        positive = (i + 7) % 14
        negatives = sum(s[i, k] for k in range(14) if k not in {i, positive})
        losses.append(-torch.log(s[i, positive] / negatives))
    found = nt_xent(a, b, 0.2, reduction="none", decoupled=True)
    torch.testing.assert_close(found, torch.stack(losses).view(2, 7).mean(0))
    torch.testing.assert_close(found.mean(), DCLLoss(temperature=0.2)(a, b))
    with pytest.raises(ValueError, match="decoupled"):
        nt_xent(a, b, focal=1.0, decoupled=True)


@pytest.mark.parametrize("name", ALL)
def test_a_damaged_branch_takes_part_and_momentum_networks_do_not_learn(name):
    network = small()
    framework = ALL[name](network, damaged=True)
    competitor = SelfCompetitor(network, 0.5)
    view1, view2 = views()
    loss = framework(network, competitor, view1, view2)
    assert loss.shape == (N,)
    loss.mean().backward()
    own = dict(competitor._norm.named_parameters())
    assert own
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in own.values())
    target = getattr(framework, "target", None)
    assert target is None or all(parameter.grad is None for parameter in target.parameters())


@pytest.mark.parametrize("name", ["byol", "moco_v3", "simsiam"])
def test_a_damaged_branch_has_normalization_of_its_own_in_the_predictor(name):
    network = small()
    framework = ALL[name](network, damaged=True)
    before = framework.predictor.twin_norm.running_mean.clone()
    framework(network, network, *views())
    assert torch.equal(framework.predictor.twin_norm.running_mean, before)
    framework(network, SelfCompetitor(network, 0.5), *views())
    assert not torch.equal(framework.predictor.twin_norm.running_mean, before)


@pytest.mark.parametrize("name", ["byol", "moco_v3"])
def test_the_momentum_rises_to_one(name):
    network = small()
    framework = ALL[name](network)
    objective = Objective(framework, network)
    start = framework.momentum
    with torch.no_grad():
        network[1].weight.add_(1.0)
    before = framework.target.network[1].weight.clone()
    objective.after_step(0.5)
    assert framework.target.momentum == pytest.approx(1 - (1 - start) / 2)
    torch.testing.assert_close(framework.target.network[1].weight, before + (1 - start) / 2)
    objective.after_step(1.0)
    assert framework.target.momentum == 1


@pytest.mark.parametrize(("name", "least"), [("barlow_twins", 0.99 * D), ("vicreg", 0.98 * 50)])
def test_a_collapse_costs_where_the_loss_forbids_it(name, least):
    constant = nn.Sequential(nn.Flatten(), nn.Linear(12, D))
    nn.init.zeros_(constant[1].weight)
    loss = ALL[name](constant)(constant, constant, *views())
    assert loss.isfinite().all()
    assert float(loss.detach().mean()) > least
