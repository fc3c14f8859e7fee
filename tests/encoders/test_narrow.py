"""Narrow strided convolutions, whose gradient oneDNN may compute wrongly."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

from sdclr.encoders import EncoderConfig, create_encoder
from sdclr.encoders.narrow import StridedPointwise, replace_narrow_convolutions

TRAIN = """
import torch
from sdclr.encoders import EncoderConfig, create_encoder
torch.set_num_threads(1)
encoder = create_encoder(EncoderConfig(width=4), 8).to(memory_format=torch.channels_last).train()
images = torch.rand(16, 3, 8, 8).to(memory_format=torch.channels_last)
for _ in range(100):
    encoder(images).square().mean().backward()
"""


@pytest.mark.parametrize(("stride", "groups", "bias"), [(2, 1, False), (3, 1, True), (2, 2, True), ((1, 2), 1, False)])
def test_outputs_and_gradients_are_those_of_a_plain_convolution(stride, groups, bias):
    torch.manual_seed(0)
    plain = nn.Conv2d(4, 6, 1, stride=stride, groups=groups, bias=bias)
    narrow = nn.Sequential(copy.deepcopy(plain))
    replace_narrow_convolutions(narrow)
    assert type(narrow[0]) is StridedPointwise
    images = torch.randn(3, 4, 7, 9)
    plain = plain.double()  # which oneDNN does not compute
    expected = plain(images.double())
    expected.square().sum().backward()
    found = narrow(images.to(memory_format=torch.channels_last))
    found.square().sum().backward()
    torch.testing.assert_close(found.contiguous(), expected.float())
    torch.testing.assert_close(narrow.eval()(images), expected.float())
    for one, other in zip(narrow.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad.float())


def test_only_affected_layers_are_replaced_and_names_stay():
    narrow, wide = (create_encoder(EncoderConfig(width=width), 8) for width in (4, 16))
    assert [name for name, module in narrow.named_modules() if isinstance(module, StridedPointwise)] == [
        f"backbone.layer{stage}.0.downsample.0" for stage in (2, 3)
    ]
    assert not any(isinstance(module, StridedPointwise) for module in wide.modules())
    assert narrow.state_dict().keys() == wide.state_dict().keys()


def test_training_a_narrow_network_does_not_corrupt_memory():
    """In a process of its own: without the replacement it crashes, on a CPU with AVX2 and no AVX-512."""
    done = subprocess.run([sys.executable, "-c", TRAIN], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
