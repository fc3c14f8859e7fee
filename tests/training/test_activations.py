"""Blocks that compute twice: the same loss, gradients and statistics, from less that is kept."""

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from sdclr.encoders import EncoderConfig, HeadConfig, create_network
from sdclr.errors import InputError
from sdclr.method import Objective, SelfCompetitor, SimCLR
from sdclr.training.activations import checkpoint_activations

ENCODERS = [("resnet18", 32, 4, 8), ("resnet50", 64, 4, 16), ("vit_tiny_patch16_224", 32, None, 12)]


def objective(name: str, size: int, width: int | None) -> Objective:
    torch.manual_seed(0)
    network = create_network(EncoderConfig(name=name, width=width), HeadConfig(dim=8), size)
    return Objective(SimCLR(), network, SelfCompetitor(network, 0.5)).train()


def step(module: Objective, size: int) -> torch.Tensor:
    views = torch.rand(2, 6, 3, size, size, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(2)  # dropout, if any
    loss = module(*views)
    loss.mean().backward()
    return loss.detach()


@pytest.mark.parametrize(("name", "size", "width", "blocks"), ENCODERS)
def test_both_branches_give_the_same_losses_gradients_and_statistics(name, size, width, blocks):
    plain, saving = objective(name, size, width), objective(name, size, width)
    assert checkpoint_activations(saving.network) == blocks
    assert torch.equal(step(plain, size), step(saving, size))
    for (key, one), (other_key, two) in zip(plain.named_parameters(), saving.named_parameters(), strict=True):
        assert key == other_key
        assert one.grad is not None
        assert torch.equal(one.grad, two.grad), key
    one, two = plain.state_dict(), saving.state_dict()
    assert [key for key in one if not torch.equal(one[key], two[key])] == []


def test_less_is_kept_for_the_backward_pass():
    def kept(module: Objective) -> int:
        sizes: dict[int, int] = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with saved_tensors_hooks(note, lambda tensor: tensor):
            loss = module(*torch.rand(2, 16, 3, 32, 32))
        del loss
        return sum(sizes.values())

    plain, saving = objective("resnet18", 32, 16), objective("resnet18", 32, 16)
    checkpoint_activations(saving.network)
    assert kept(saving) < 0.4 * kept(plain)


def test_without_gradients_nothing_is_computed_twice():
    network = objective("resnet18", 32, 4).network
    checkpoint_activations(network)
    calls = []
    network.encoder.backbone.layer1[0].conv1.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        network(torch.rand(2, 3, 32, 32))
    assert len(calls) == 1
    network(torch.rand(2, 3, 32, 32)).sum().backward()
    assert len(calls) == 3


def test_a_network_without_blocks_is_refused():
    with pytest.raises(InputError, match="no repeated blocks"):
        checkpoint_activations(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
