"""The generalization gap: zero between images alike, positive where some are known by heart."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from sdclr.data.sources import ArraySource
from sdclr.encoders import EncoderConfig, HeadConfig, create_network
from sdclr.training.gap import generalization_gap
from sdclr.views.parameters import ViewConfig

VIEWS = ViewConfig(image_size=8, crop_scale=(0.3, 1.0))
HOW = {"views": VIEWS, "temperature": 0.2, "seed": 0}
HELD, TRAINED = torch.arange(0, 32), torch.arange(32, 64)


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.randint(0, 256, (64, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return create_network(EncoderConfig(width=8), HeadConfig(dim=32), 8)


class ByHeart(nn.Module):
    """Has a direction for each image that it knows, by its gray level, and one for all the others."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        number = (images.mean((1, 2, 3)) * 255 / 3).round().long()
        return nn.functional.one_hot(torch.where(number < 32, 0, number), 64).float()


def test_it_is_the_difference_of_the_mean_losses():
    levels = (3 * torch.arange(64, dtype=torch.uint8))[:, None, None, None].expand(64, 3, 8, 8).contiguous()
    plain = replace(VIEWS, jitter=0.0, gray=0.0)
    gap = generalization_gap(ByHeart(), levels, HELD, TRAINED, **(HOW | {"views": plain}), epoch=0)
    same, other = math.exp(1 / 0.2), 1.0
    known = -math.log(same / (same + 126 * other))
    unknown = -math.log(same / (same + 62 * same + 64 * other))
    assert gap == pytest.approx(unknown - known, rel=1e-4)


def test_exchanging_the_parts_turns_its_sign(network, pixels):
    there = generalization_gap(network, pixels, HELD, TRAINED, **HOW, epoch=0)
    assert there != 0
    swapped = torch.cat([pixels[32:], pixels[:32]])  # the same images at the same places of the batch
    back = generalization_gap(network, swapped, TRAINED, HELD, **HOW, epoch=0)
    assert back == pytest.approx(there)


def test_decoded_images_give_what_those_in_memory_give(network, pixels):
    source = ArraySource(np.ascontiguousarray(pixels.permute(0, 2, 3, 1).numpy()), name="made")
    one, two = (generalization_gap(network, images, HELD, TRAINED, **HOW, epoch=0) for images in (pixels, source))
    assert two == pytest.approx(one, abs=0.05)  # two renderers


def test_it_leaves_the_network_alone(network, pixels):
    network.train()
    network.head.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    random = torch.get_rng_state()
    generalization_gap(network, pixels, HELD, TRAINED, **HOW, epoch=0)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network.encoder.training
    assert not network.head.training
    assert torch.equal(torch.get_rng_state(), random)
