"""Dropout in place of pruning: what is dropped, when, and that the dense network does not notice."""

import pytest
import torch
from torch import nn

from sdclr.encoders import EncoderConfig, HeadConfig, create_network
from sdclr.method import DropoutCompetitor


def test_a_share_of_the_outputs_goes_and_the_rest_grows():
    torch.manual_seed(0)
    network = nn.Linear(4, 20_000)
    network.weight.data.fill_(1.0)
    network.bias.data.zero_()
    output = DropoutCompetitor(network, 0.75)(torch.ones(1, 4))
    assert set(output.unique().tolist()) == {0.0, 16.0}  # 4 / (1 - 0.75)
    assert float((output == 0).float().mean()) == pytest.approx(0.75, abs=0.02)


@pytest.mark.parametrize("sides", [{}, {"kdim": 8, "vdim": 16}], ids=["one projection", "three projections"])
def test_of_attention_the_output_is_dropped_once(sides):
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(64, 2, **sides)
    query, key, value = (torch.randn(5, 40, size) for size in (64, sides.get("kdim", 64), sides.get("vdim", 64)))
    dropped, weights = DropoutCompetitor(attention, 0.5)(query, key, value)
    expected, expected_weights = attention(query, key, value)
    torch.testing.assert_close(weights, expected_weights)
    gone = dropped == 0
    assert float(gone.float().mean()) == pytest.approx(0.5, abs=0.02)
    torch.testing.assert_close(dropped[~gone], 2 * expected[~gone])


def test_draws_anew_each_time_and_not_in_eval_mode():
    network = nn.Linear(4, 100)
    competitor, x = DropoutCompetitor(network, 0.5), torch.randn(2, 4)
    assert not torch.equal(competitor(x), competitor(x))
    competitor.eval()
    torch.testing.assert_close(competitor(x), network(x))


def test_the_dense_network_drops_nothing():
    network = nn.Linear(4, 100)
    x = torch.randn(2, 4)
    expected = network(x)
    competitor = DropoutCompetitor(network, 0.5)
    competitor(x)
    assert torch.equal(network(x), expected)
    assert not network._forward_hooks


def test_hooks_go_when_the_forward_pass_fails():
    network = nn.Linear(4, 100)
    with pytest.raises(RuntimeError):
        DropoutCompetitor(network, 0.5)(torch.randn(2, 5))
    assert not network._forward_hooks


def test_only_the_encoder_is_dropped_and_no_weight_is_pruned():
    network = create_network(EncoderConfig(width=4), HeadConfig(dim=8), 8)
    competitor = DropoutCompetitor(network, 0.5)
    assert all(bool(mask.all()) for mask in competitor.masks.values())
    assert all(name.startswith("encoder.") for name in competitor.masks)
    competitor.refresh()
    assert all(share == 0 for share in competitor.sparsity().values())
    loss = competitor(torch.rand(4, 3, 8, 8)).square().mean()
    loss.backward()
    assert all(network.get_parameter(name).grad is not None for name in competitor.masks)


def test_a_share_of_one_is_refused():
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        DropoutCompetitor(nn.Linear(4, 4), 1.0)
