"""Density weights: their bounds, their mean, their effect, and when they are made."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sdclr.method.rebalancing.density import (
    MAX_POWER,
    Density,
    DensityConfig,
    density_weights,
    effective_number,
)

# Ties, zeros and outliers among ordinary distances.
DISTANCES = st.lists(
    st.one_of(st.floats(0.01, 2.0), st.sampled_from([0.0, 1e-9, 0.1, 0.1, 50.0, 1e12])), min_size=1, max_size=60
).map(lambda values: torch.tensor(values, dtype=torch.float64))
BOUNDS = st.tuples(st.sampled_from([0.0, 0.1, 0.5, 0.9]), st.sampled_from([1.5, 4.0, 10.0, 100.0]))
STRENGTHS = st.one_of(
    st.floats(0, MAX_POWER).map(lambda power: {"power": power}),
    st.floats(0.05, 1).map(lambda share: {"effective": share}),
)
QUICK = settings(max_examples=40, deadline=None)


@QUICK
@given(DISTANCES, BOUNDS, STRENGTHS)
def test_weights_have_mean_one_keep_their_bounds_and_rise_with_the_distance(distances, bounds, strength):
    floor, cap = bounds
    weights = density_weights(distances, floor=floor, cap=cap, **strength)
    assert weights.dtype == torch.float64
    assert bool(weights.isfinite().all())
    assert float(weights.mean()) == pytest.approx(1, abs=1e-9)
    assert float(weights.min()) >= floor
    assert float(weights.max()) <= cap
    ordered = weights[distances.argsort()]
    assert bool((ordered.diff() >= 0).all())
    for value in distances.unique():
        assert len(weights[distances == value].unique()) == 1


@QUICK
@given(DISTANCES, BOUNDS, st.floats(0.05, 1))
def test_the_effective_number_is_reached_wherever_it_can_be(distances, bounds, share):
    floor, cap = bounds
    weights = density_weights(distances, effective=share, floor=floor, cap=cap)
    least = effective_number(density_weights(distances, power=MAX_POWER, floor=floor, cap=cap))
    assert effective_number(weights) == pytest.approx(max(share, least), abs=1e-6)


@QUICK
@given(DISTANCES, BOUNDS, st.floats(0, MAX_POWER), st.floats(0, MAX_POWER))
def test_the_effective_number_falls_as_the_power_rises(distances, bounds, one, other):
    floor, cap = bounds
    low, high = (
        effective_number(density_weights(distances, power=power, floor=floor, cap=cap))
        for power in sorted((one, other))
    )
    assert high <= low + 1e-9


@QUICK
@given(DISTANCES, STRENGTHS, st.floats(1e-6, 1e6))
def test_the_scale_of_the_distances_does_not_matter(distances, strength, scale):
    assume(bool((distances[distances > 0] > 1e-8).all()))
    torch.testing.assert_close(
        density_weights(distances * scale, **strength), density_weights(distances, **strength), rtol=1e-6, atol=1e-6
    )


def test_within_the_bounds_they_are_the_plain_formula():
    distances = torch.rand(500, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1
    powers = (distances / distances.mean()) ** 3
    expected = powers / powers.mean()
    assert expected.max() < 10
    torch.testing.assert_close(density_weights(distances, power=3, floor=0), expected, rtol=1e-9, atol=0)


def test_where_bounds_are_met_what_lies_between_keeps_its_proportions():
    distances = torch.tensor([0.0, 0.0, 1.0, 1.1, 1.2, 500.0], dtype=torch.float64)
    weights = density_weights(distances, power=2, floor=0.2, cap=3)
    assert weights[[0, 1, 5]].tolist() == pytest.approx([0.2, 0.2, 3])
    # The rest share what is left of 6: 2.6, by the squares of their distances.
    assert weights[2:5].tolist() == pytest.approx([2.6 * d * d / (1 + 1.21 + 1.44) for d in (1, 1.1, 1.2)])


def test_concentrated_distances_get_a_higher_power_for_the_same_effect():
    spread = torch.special.ndtri((torch.arange(4000, dtype=torch.float64) + 0.5) / 4000)  # a normal distribution
    narrow, wide = (spread * 0.1).exp(), (spread * 0.5).exp()
    # Five times the logarithms are a fifth of the power, so that both come to the same weights.
    torch.testing.assert_close(
        density_weights(narrow, effective=0.6), density_weights(wide, effective=0.6), rtol=1e-6, atol=1e-6
    )
    # Powers of a log-normal are log-normal, with an effective number of exp(-(ασ)²).
    free = density_weights(narrow, effective=0.6, floor=0, cap=1e6)
    power = float((free[0] / free[1]).log() / (narrow[0] / narrow[1]).log())
    assert power == pytest.approx(math.sqrt(-math.log(0.6)) / 0.1, rel=0.05)


def test_a_few_outliers_do_not_take_the_batch_from_the_rest():
    distances = 1 + 0.1 * torch.rand(10_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    distances[:10] = 1e9
    weights = density_weights(distances, effective=0.8)
    assert float(weights[:10].sum() / weights.sum()) == pytest.approx(10 * 10 / 10_000)
    assert effective_number(weights) == pytest.approx(0.8)
    rest = weights[10:]
    assert float(rest.max() / rest.min()) > 3


@pytest.mark.parametrize("distances", [torch.zeros(5), torch.ones(5), torch.full((1,), 0.3)])
def test_where_all_are_alike_all_weigh_alike(distances):
    for strength in ({"power": 4.0}, {"effective": 0.2}):
        assert density_weights(distances, **strength).tolist() == pytest.approx([1.0] * len(distances))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"power": 4.0}, "either the power or the effective number"),
        ({"effective": None}, "either the power or the effective number"),
        ({"effective": 0.0}, r"in \(0, 1\], not 0"),
        ({"effective": None, "power": -1.0}, r"lies in \[0, 64\]"),
        ({"cap": 1.0}, "0 <= floor < 1 < cap"),
        ({"floor": math.nan}, "0 <= floor < 1 < cap"),
        ({"start": 1.0}, r"in \[0, 1\), not at 1"),
        ({"every": 0}, "1 or more"),
        ({"clusters": -1}, "1 or more"),
        ({"exact": 1}, "2 or more"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        DensityConfig(**changes)


@pytest.mark.parametrize(
    "distances", [torch.tensor([1.0, math.nan]), torch.tensor([1.0, -0.1]), torch.ones(2, 2), torch.ones(0)]
)
def test_distances_that_are_none_are_refused(distances):
    with pytest.raises(ValueError, match="finite numbers of 0 or more"):
        density_weights(distances, power=1)


def test_a_look_is_due_every_few_epochs_from_the_start_on():
    density = Density(4, epochs=50, config=DensityConfig(start=0.21, every=7))
    assert [epoch for epoch in range(50) if density.due(epoch)] == [11, 18, 25, 32, 39, 46]


def test_until_there_are_weights_all_images_come_alike():
    density = Density(3, epochs=4, config=DensityConfig(effective=None, power=1.0))
    assert density.sampling is None
    assert density.weights.tolist() == [1, 1, 1]
    density.update(torch.tensor([1.0, 2.0, 3.0]))
    assert density.sampling is not None
    assert density.sampling.tolist() == pytest.approx([0.5, 1, 1.5])
    losses = torch.rand(2)
    assert density(losses, (losses, losses), torch.tensor([0, 2])) is losses


def test_the_control_deals_the_same_weights_out_at_random_and_always_to_the_same():
    distances = torch.rand(200, generator=torch.Generator().manual_seed(0))
    config = DensityConfig()
    true, one, two, other = (Density(200, epochs=4, config=each) for each in (
        config,
        dataclasses.replace(config, control="shuffled"),
        dataclasses.replace(config, control="shuffled"),
        dataclasses.replace(config, control="shuffled", seed=1),
    ))  # fmt: skip
    state = torch.get_rng_state()
    for density in (true, one, two, other):
        density.update(distances)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one.weights, two.weights)
    assert not torch.equal(one.weights, other.weights)
    assert torch.equal(one.weights.sort().values, true.weights.sort().values)
    assert abs(float(np.corrcoef(one.weights, true.weights)[0, 1])) < 0.3
    first = one.weights.argsort()
    one.update(distances * distances)  # the same order among images
    assert torch.equal(one.weights.argsort(), first)


def test_weights_travel_with_the_state():
    density = Density(5, epochs=4)
    density.update(torch.arange(5.0))
    other = Density(5, epochs=4)
    other.load_state_dict(density.state_dict())
    assert torch.equal(other.weights, density.weights)
    assert other.to(torch.device("cpu")).weights.dtype == torch.float64


def test_distances_of_another_set_are_refused():
    with pytest.raises(ValueError, match=r"\(4,\) distances for 5 images"):
        Density(5, epochs=4).update(torch.ones(4))
