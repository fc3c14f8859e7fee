"""How much is pruned, and when: schedules, the measure of forgetting, the ratio that finds itself, several at once."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sdclr.method import SelfCompetitor, SelfCompetitors, find_ratio, forgetting, scheduled_ratio
from sdclr.method.damage import bisect

SHARES = st.floats(0, 1)


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 16, 32), nn.BatchNorm1d(32)
    )


def images(n: int = 32) -> torch.Tensor:
    return torch.rand(n, 3, 6, 6, generator=torch.Generator().manual_seed(1))


@given(ratio=st.floats(0, 0.99), progress=SHARES, cycles=st.floats(0.5, 10))
def test_no_schedule_exceeds_its_ratio(ratio, progress, cycles):
    for schedule in ("constant", "ramp", "cyclic"):
        assert 0 <= scheduled_ratio(ratio, progress, schedule, cycles=cycles) <= ratio


def test_schedules_begin_and_end_where_they_say():
    assert [scheduled_ratio(0.8, share, "ramp") for share in (0, 0.25, 1)] == [0, 0.2, 0.8]
    assert [scheduled_ratio(0.8, share, "constant") for share in (0, 1)] == [0.8, 0.8]
    swings = [scheduled_ratio(0.8, share, "cyclic", cycles=2) for share in (0, 0.125, 0.25, 0.5, 0.75, 1)]
    assert swings == pytest.approx([0, 0.4, 0.8, 0, 0.8, 0])


@pytest.mark.parametrize("training", [True, False])
def test_forgetting_is_the_distance_to_a_network_pruned_by_hand_over_that_between_images(training):
    net = network().train(training)
    competitor = SelfCompetitor(net, 0.6)
    by_hand = copy.deepcopy(net).train()
    with torch.no_grad():
        for name, mask in competitor.masks.items():
            by_hand.get_parameter(name).mul_(mask)
        dense, pruned = copy.deepcopy(net).train()(images()), by_hand(images())
    pairs = [(one, other) for one in range(32) for other in range(32) if one != other]
    between = torch.stack([1 - F.cosine_similarity(dense[one], dense[other], dim=0) for one, other in pairs]).mean()
    expected = (1 - F.cosine_similarity(dense, pruned)) / between
    torch.testing.assert_close(forgetting(competitor, images()), expected)


def test_it_is_the_same_for_a_network_that_finds_all_images_alike():
    net = nn.Sequential(nn.Flatten(), nn.Linear(108, 32))
    competitor = SelfCompetitor(net, 0.6, prunable=lambda name, _: name == "1")
    alone = forgetting(competitor, images()).median()
    with torch.no_grad():
        net[1].bias.fill_(10)  # a direction that all outputs share
    assert float(forgetting(competitor, images()).median()) == pytest.approx(float(alone), rel=0.5)


def test_forgetting_leaves_no_trace():
    net = network().eval()
    net[1].train()  # each module has a mode of its own
    competitor = SelfCompetitor(net, 0.6)
    before, state = copy.deepcopy(competitor.state_dict()), torch.get_rng_state()
    forgetting(competitor, images())
    assert all(torch.equal(value, before[name]) for name, value in competitor.state_dict().items())
    assert [module.training for module in net.modules()].count(True) == 1
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("target", [0.05, 0.2, 0.4])
def test_the_ratio_found_makes_it_forget_as_much_as_asked(target):
    competitor = SelfCompetitor(network(), 0.9)
    ratio = find_ratio(competitor, images(), target, trials=12)
    forgotten = []
    for tried in (ratio, ratio + 0.02):
        competitor.ratio = tried
        competitor.refresh()
        forgotten.append(float(forgetting(competitor, images()).median()))
    assert forgotten[0] <= target < forgotten[1]


def test_the_ratio_has_a_ceiling():
    competitor = SelfCompetitor(network(), 0.9)
    assert find_ratio(competitor, images(), 0.999, highest=0.7) == 0.7


@given(edge=st.floats(0, 0.9), trials=st.integers(1, 12))
def test_bisection_comes_as_near_as_its_trials_allow(edge, trials):
    found = bisect(lambda ratio: ratio > edge, 0.0, 0.9, trials)
    assert found <= edge <= found + 0.9 / 2**trials + 1e-12


def test_several_competitors_share_a_batch():
    net = network()
    several = SelfCompetitors(net, (0.2, 0.5, 0.8), independent_norm=False)
    outputs = several(images(30))
    alone = [SelfCompetitor(net, ratio, independent_norm=False) for ratio in (0.2, 0.5, 0.8)]
    expected = torch.cat([twin(part) for twin, part in zip(alone, images(30).chunk(3), strict=True)])
    torch.testing.assert_close(outputs, expected)


def test_several_competitors_are_the_first_elsewhere():
    net = network()
    several = SelfCompetitors(net, (0.2, 0.8)).eval()
    torch.testing.assert_close(several(images()), SelfCompetitor(net, 0.2)(images()))
    assert several.removed() == pytest.approx(0.2, abs=0.001)
    assert [other.removed() for other in several.others] == [pytest.approx(0.8, abs=0.001)]


def test_every_competitor_has_a_norm_of_its_own_that_is_trained():
    several = SelfCompetitors(network(), (0.2, 0.5, 0.8))
    several(images(30)).square().sum().backward()
    own = [parameter for name, parameter in several.named_parameters() if "_norm" in name]
    assert len(own) == 3 * 4
    assert all(parameter.grad is not None for parameter in own)


def test_masks_of_all_are_refreshed():
    net = network()
    several = SelfCompetitors(net, (0.2, 0.8))
    before = [{name: mask.clone() for name, mask in twin.masks.items()} for twin in (several, *several.others)]
    with torch.no_grad():
        net[0].weight.copy_(net[0].weight.flip(0))
    several.refresh()
    for twin, old in zip((several, *several.others), before, strict=True):
        assert any(not torch.equal(mask, old[name]) for name, mask in twin.masks.items())


def test_one_ratio_at_least():
    with pytest.raises(ValueError, match="at least one"):
        SelfCompetitors(network(), ())
