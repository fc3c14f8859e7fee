"""A digest tells networks apart, and nothing else."""

import copy

import torch
from torch import nn

from sdclr.encoders import EncoderConfig, create_encoder
from sdclr.encoders.digest import network_digest


def test_it_follows_weights_names_and_statistics() -> None:
    torch.manual_seed(0)
    network = create_encoder(EncoderConfig(width=4), 8)
    before = network_digest(network)
    assert network_digest(copy.deepcopy(network)) == before
    assert network_digest(network.eval()) == before
    network.backbone.bn1.running_mean[0] += 1
    assert network_digest(network) != before
    plain, renamed = nn.Sequential(nn.Linear(2, 2)), nn.ModuleDict({"x": nn.Linear(2, 2)})
    renamed["x"].load_state_dict(plain[0].state_dict())
    assert network_digest(plain) != network_digest(renamed)


def test_the_order_of_networks_counts() -> None:
    one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    assert network_digest(one, other) != network_digest(other, one)


def test_half_precision_and_views_are_taken_as_they_are() -> None:
    network = nn.Linear(4, 4).to(torch.bfloat16)
    transposed = copy.deepcopy(network)
    transposed.weight = nn.Parameter(network.weight.detach().T.contiguous().T)
    assert network_digest(transposed) == network_digest(network)
