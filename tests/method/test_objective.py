"""The objective as a module, and the edges of settings that other tests of the method do not reach."""

import math

import pytest
import torch
from torch import nn

from sdclr.method import Objective, SelfCompetitor, SimCLR, nt_xent
from sdclr.method.damage import AdaptiveRatio
from sdclr.method.frameworks.config import BarlowTwinsConfig, BYOLConfig, VICRegConfig
from sdclr.method.frameworks.moco import MoCo, MoCoConfig
from sdclr.method.frameworks.moco_v3 import MoCoV3
from sdclr.method.frameworks.vicreg import VICReg, lacking_variance, shared_covariance
from sdclr.method.losses import focal_loss, gather
from sdclr.method.momentum import MomentumNetwork
from sdclr.method.processes import alone, world
from sdclr.method.rebalancing.rebalancer import Rebalancer, of_all


class Scaled(nn.Module):
    """A network whose call takes a keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 4)

    def forward(self, x, *, scale=1.0):
        return self.layer(x) * scale


class Doubled(Rebalancer):
    def forward(self, losses, *_):
        return 2 * losses


def test_the_competitor_is_a_twin_of_this_very_network():
    network, other = nn.Linear(6, 4), nn.Linear(6, 4)
    with pytest.raises(ValueError, match=r"^the competitor must be a twin of the same network object"):
        Objective(SimCLR(), network, SelfCompetitor(other, ratio=0.5))


def test_the_second_view_goes_through_the_competitor_and_losses_through_the_rebalancers():
    network = nn.Linear(6, 4)
    competitor = SelfCompetitor(network, ratio=0.5)
    a, b = torch.randn(2, 8, 6)
    objective = Objective(SimCLR(0.3), network, competitor, [Doubled()])
    assert objective.competitor is competitor
    expected = 2 * nt_xent(network(a), competitor(b), 0.3, reduction="none")
    torch.testing.assert_close(objective(a, b, torch.arange(8)), expected)


def test_the_twin_passes_keywords_on():
    network = Scaled()
    competitor = SelfCompetitor(network, ratio=0.5)
    x = torch.randn(3, 6)
    torch.testing.assert_close(competitor(x, scale=3.0), 3 * competitor(x))


def test_simclr_passes_its_variants_on():
    network = nn.Linear(6, 4)
    a, b = torch.randn(2, 8, 6)
    for variant in ({"focal": 2.0}, {"decoupled": True}):
        expected = nt_xent(network(a), network(b), 0.2, reduction="none", **variant)
        assert torch.equal(SimCLR(**variant)(network, network, a, b), expected)
        assert not torch.allclose(SimCLR()(network, network, a, b), expected)


def test_the_default_temperature_is_one_half():
    a, b = torch.randn(2, 8, 4)
    assert torch.equal(nt_xent(a, b), nt_xent(a, b, 0.5))


def test_a_focal_loss_of_zero_is_the_loss_itself():
    losses = torch.tensor([0.1, 2.0])
    assert torch.equal(focal_loss(losses, 0), losses)
    torch.testing.assert_close(focal_loss(losses, 1), (1 - torch.exp(-losses)) * losses)


def test_momenta_and_weights_at_their_edges():
    network = nn.Linear(2, 2)
    for momentum in (0.0, 1.0):
        MomentumNetwork(network, momentum)
        BYOLConfig(momentum=momentum)
    for momentum in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"in \[0, 1\], not"):
            BYOLConfig(momentum=momentum)
    BYOLConfig(hidden=1)
    with pytest.raises(ValueError, match="hidden is 0: give 1 or more"):
        BYOLConfig(hidden=0)
    VICRegConfig(invariance=0.0)
    for wrong in ({"scale": 0.0}, {"scale": math.inf}):
        with pytest.raises(ValueError, match="give a finite number above 0"):
            VICRegConfig(**wrong)
    for config, name in (
        (BarlowTwinsConfig, "off_diagonal"),
        (VICRegConfig, "invariance"),
        (VICRegConfig, "variance"),
        (VICRegConfig, "covariance"),
    ):
        for value in (-1.0, math.inf):
            with pytest.raises(ValueError, match=f"{name} is {value}: give a finite weight"):
                config(**{name: value})


def test_moco_needs_a_temperature_and_a_queue():
    network = nn.Linear(6, 4)
    assert MoCo(network, dim=4, config=MoCoConfig(queue=1)).keys.shape == (1, 4)
    with pytest.raises(ValueError, match=r"temperature and queue must be positive, not 0\.0"):
        MoCo(network, dim=4, temperature=0.0)
    with pytest.raises(ValueError, match=r"the temperature must be positive, not 0\.0"):
        MoCoV3(network, dim=4, temperature=0.0)


def test_vicreg_does_not_lose_precision_under_autocast():
    (a, b), config = torch.randn(2, 16, 4), VICRegConfig()
    batch = sum(config.variance * lacking_variance(z) + config.covariance * shared_covariance(z) for z in (a, b))
    exact = config.scale * (config.invariance * (a - b).square().mean(1) + batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(VICReg()(nn.Identity(), nn.Identity(), a, b), exact)


def test_the_same_images_are_held_out_for_the_same_seed_alone():
    torch.manual_seed(3)
    first = AdaptiveRatio(200)
    torch.manual_seed(4)
    again, other = AdaptiveRatio(200), AdaptiveRatio(200, seed=1)
    assert torch.equal(first.held, again.held)
    assert torch.equal(first.held, AdaptiveRatio(200, seed=0).held)
    assert not torch.equal(first.held, other.held)
    assert all(torch.equal(one, two) for one, two in zip(first.chosen(2), again.chosen(2), strict=True))
    assert not torch.equal(first.chosen(2)[1], first.chosen(3)[1])
    assert not AdaptiveRatio(300, own=100).held[100:].any()
    assert first.average.dtype == first.weight.dtype == torch.float64
    for gap in (0.1, 0.2):
        first.update(gap)
    assert first.gap == pytest.approx((0.9 * 0.1 * 0.1 + 0.1 * 0.2) / (0.9 * 0.1 + 0.1))
    assert first.ratio == pytest.approx(2 * first.gap)


def test_a_process_alone_sees_its_own_samples(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    rows = torch.randn(3, 2)
    assert world() == 2
    with alone():
        with alone():
            assert world() == 1
        assert gather(rows) == (rows, 0)
        assert of_all(rows).equal(rows)
    assert world() == 2
