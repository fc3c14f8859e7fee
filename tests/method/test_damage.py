"""How much is pruned, and when: schedules, the ratio that finds itself, several competitors at once."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sdclr.method import AdaptiveRatio, SelfCompetitor, SelfCompetitors, scheduled_ratio

SHARES = st.floats(0, 1)


def network() -> nn.Sequential:
    torch.manual_seed(0)
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


@given(st.lists(st.floats(-2, 3), min_size=1, max_size=20), st.floats(0.1, 5), st.floats(0, 0.95))
def test_the_ratio_is_the_gain_times_the_mean_gap(gaps, gain, momentum):
    adaptive = AdaptiveRatio(200, gain=gain, momentum=momentum)
    assert adaptive.ratio == 0
    for gap in gaps:
        adaptive.update(gap)
    weights = [momentum ** (len(gaps) - 1 - place) for place in range(len(gaps))]
    mean = sum(weight * gap for weight, gap in zip(weights, gaps, strict=True)) / sum(weights)
    assert adaptive.gap == pytest.approx(mean, abs=1e-6)
    assert adaptive.ratio == pytest.approx(min(0.9, max(0, gain * mean)), abs=1e-5)


@given(st.integers(80, 20_000), st.integers(0, 9))
def test_a_tenth_is_held_out_and_never_drawn(samples, seed):
    adaptive = AdaptiveRatio(samples, seed=seed)
    assert int(adaptive.held.sum()) == min(256, samples // 10)
    assert torch.equal(adaptive.sampling, (~adaptive.held).double())
    held, others = adaptive.chosen(3)
    assert len(held) == len(others) == len(set(others.tolist()))
    assert bool(adaptive.held[held].all())
    assert not bool(adaptive.held[others].any())
    assert not torch.equal(others, adaptive.chosen(4)[1])


def test_who_is_held_out_depends_on_the_seed():
    assert not torch.equal(AdaptiveRatio(400, seed=0).held, AdaptiveRatio(400, seed=1).held)


def test_too_few_images_to_hold_any_out():
    with pytest.raises(ValueError, match="79 are too few"):
        AdaptiveRatio(79)


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
