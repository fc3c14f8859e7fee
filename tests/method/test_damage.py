"""How much is pruned: the ratio that follows the generalization gap."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdclr.method import AdaptiveRatio


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
