"""Keep-masks: how many go, which ones, and that nothing else is touched."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdclr.method.pruning import layer_sparsity, magnitude_masks, pruned_count, random_masks

ratios = st.floats(0, 0.999) | st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
# Few distinct values, so that ties are the rule; both signs, so that magnitude differs from value.
weights = st.dictionaries(
    st.text("abc.", min_size=1, max_size=6),
    st.lists(st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0]), min_size=1, max_size=40),
    min_size=1,
    max_size=5,
).map(lambda raw: {name: torch.tensor(values) for name, values in raw.items()})


def by_sorting(values: torch.Tensor, ratio: float) -> list[bool]:
    """The definition, written plainly: sort by (magnitude, position) and remove the first ceil(ratio · N)."""
    order = sorted(range(len(values)), key=lambda i: (abs(float(values[i])), i))
    gone = set(order[: math.ceil(Fraction(str(ratio)) * len(values))])
    return [i not in gone for i in range(len(values))]


@given(weights, ratios)
def test_global_masks_are_those_of_a_sort(weights, ratio):
    masks = magnitude_masks(weights, ratio)
    assert list(masks) == list(weights)
    assert torch.cat(list(masks.values())).tolist() == by_sorting(torch.cat(list(weights.values())), ratio)


@given(weights, ratios)
def test_layer_masks_are_those_of_a_sort_in_each_layer(weights, ratio):
    for name, mask in magnitude_masks(weights, ratio, scope="layer").items():
        assert mask.tolist() == by_sorting(weights[name], ratio)


@given(weights, ratios)
def test_random_masks_remove_as_many(weights, ratio):
    masks = random_masks(weights, ratio, generator=torch.Generator().manual_seed(0))
    total = sum(w.numel() for w in weights.values())
    assert sum(int((~mask).sum()) for mask in masks.values()) == pruned_count(ratio, total)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_shape_type_and_input_are_kept(dtype):
    weight = torch.randn(8, 3, 3, 3).to(dtype).requires_grad_()
    before = weight.detach().clone()
    mask = magnitude_masks({"conv": weight}, 0.5)["conv"]
    assert mask.shape == weight.shape
    assert mask.dtype == torch.bool
    assert int(mask.sum()) == weight.numel() - math.ceil(0.5 * weight.numel())
    assert torch.equal(weight, before)
    assert weight.detach()[mask].abs().min() >= weight.detach()[~mask].abs().max()


def test_the_count_is_that_of_the_decimal_ratio():
    # In binary floating point 0.1 * 30 is 3.0000000000000004.
    assert pruned_count(0.1, 30) == 3
    assert pruned_count(0.9, 11_159_232) == math.ceil(Fraction(9, 10) * 11_159_232)


def test_ratio_zero_keeps_all():
    assert magnitude_masks({"w": torch.zeros(5)}, 0)["w"].all()


@pytest.mark.parametrize("ratio", [-0.1, 1, 1.0, 1.5, float("nan")])
def test_impossible_ratios_are_errors(ratio):
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        magnitude_masks({"w": torch.ones(3)}, ratio)


def test_nothing_to_prune_and_unknown_scope_are_errors():
    with pytest.raises(ValueError, match="nothing to prune"):
        magnitude_masks({}, 0.5)
    with pytest.raises(ValueError, match="unknown scope 'channel'"):
        magnitude_masks({"w": torch.ones(3)}, 0.5, scope="channel")


def test_a_network_in_place_of_its_weights_is_an_error():
    with pytest.raises(TypeError, match=r"weights is a Linear.*dict\(network.named_parameters\(\)\)"):
        magnitude_masks(torch.nn.Linear(2, 2), 0.5)


def test_random_masks_depend_on_their_generator_alone():
    weights = {"a": torch.randn(50, 4), "b": torch.randn(100)}
    state = torch.get_rng_state()
    first = random_masks(weights, 0.5, generator=torch.Generator().manual_seed(3))
    assert torch.equal(torch.get_rng_state(), state)
    torch.randn(7)
    again = random_masks(weights, 0.5, generator=torch.Generator().manual_seed(3))
    other = random_masks(weights, 0.5, generator=torch.Generator().manual_seed(4))
    assert all(torch.equal(first[name], again[name]) for name in weights)
    assert not all(torch.equal(first[name], other[name]) for name in weights)


@settings(max_examples=20)
@given(weights)
def test_layer_sparsity_is_the_share_removed(weights):
    for name, share in layer_sparsity(magnitude_masks(weights, 0.5)).items():
        assert 0 <= share <= 1
        assert share == pytest.approx(float((~magnitude_masks(weights, 0.5)[name]).float().mean()))
