"""Encoders as layers, and with the few bytes that a browser loads."""

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from sdclr.data.sources import ArraySource
from sdclr.encoders import EncoderConfig, create_encoder, load_encoder, wrap_encoder
from sdclr.features.extract import extract_features
from sdclr.reporting.browser_encoder import browser_encoder
from sdclr.reporting.encoder_graph import UnsupportedEncoderError, read_layers, run_layers
from sdclr.reporting.page_search import write_search


class Small(nn.Module):
    """Every operation that layers can say, in the ways that networks write them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 10, 3, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(10)
        self.wide = nn.Conv2d(10, 22, 1)
        self.depthwise = nn.Conv2d(22, 22, 5, stride=2, padding=2, groups=22, bias=False)
        self.second = nn.BatchNorm2d(22, affine=False)
        self.narrow = nn.Conv2d(22, 10, 1)
        self.across = nn.Conv2d(10, 10, (1, 3), padding=(0, 1))
        self.last = nn.Conv2d(10, 70, 1)
        for norm in (self.norm, self.second):
            nn.init.uniform_(norm.running_mean, -1, 1)
            nn.init.uniform_(norm.running_var, 0.5, 2)

    def forward(self, images):
        stem = F.relu6(self.norm(self.stem(F.pad(images, (0, 1, 0, 1)))), inplace=True)
        pooled = F.max_pool2d(stem, 3, 2, 1)
        wide = F.hardswish(self.wide(pooled))
        narrow = self.narrow(F.silu(self.second(self.depthwise(wide))))
        summed = narrow + self.across(narrow)
        summed += narrow
        return F.relu(self.last(summed)).clamp(max=3).mean((2, 3))


@pytest.fixture
def small():
    torch.manual_seed(0)
    return Small().eval()


def alike(network: nn.Module, size: int) -> None:
    images = torch.randn(3, 3, size, size)
    with torch.no_grad():
        expected = network(images)
    got = run_layers(read_layers(network, size), images)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_layers_compute_what_the_network_does(small):
    before = {name: value.clone() for name, value in small.state_dict().items()}
    alike(small, 32)
    alike(small, 45)
    assert all(torch.equal(value, before[name]) for name, value in small.state_dict().items())


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_050"])
def test_layers_of_networks_of_timm(name):
    alike(timm.create_model(name, num_classes=0).eval(), 64)


def test_layers_of_an_own_encoder():
    alike(create_encoder(EncoderConfig(name="resnet18", width=16), 32).backbone.eval(), 32)


def test_the_default_encoder_has_layers_with_norms_and_activations_inside():
    layers = read_layers(load_encoder().backbone, 64)
    assert [layer.kind for layer in layers].count("conv") == 49
    assert {layer.kind for layer in layers} == {"conv", "add", "mean"}
    assert layers[0].pad == (0, 1, 0, 1)  # the padding of its first framework is not symmetric


class Twice(nn.Module):
    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 8, 3), act

    def forward(self, images):
        both = self.conv(images)
        return (both + self.act(both)).mean((2, 3))


@pytest.mark.parametrize("act", [nn.ReLU(), nn.ReLU(inplace=True), nn.BatchNorm2d(8)])
def test_an_output_that_is_used_twice_is_changed_for_none_or_for_both(act):
    network = Twice(act).eval()
    if isinstance(act, nn.BatchNorm2d):
        with pytest.raises(UnsupportedEncoderError, match="follows no convolution"):
            read_layers(network, 16)
    else:
        alike(network, 16)


@pytest.mark.parametrize(
    ("network", "why"),
    [
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()), "gelu"),
        (nn.Sequential(nn.Conv2d(3, 8, 3, dilation=2), nn.AdaptiveAvgPool2d(1), nn.Flatten()), "dilated"),
        (nn.Sequential(nn.Conv2d(3, 8, 3, padding="same"), nn.AdaptiveAvgPool2d(1), nn.Flatten()), "conv2d.padding"),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 8, 3, groups=2), nn.AdaptiveAvgPool2d(1)), "2 groups"),
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten()), "before pooling"),
        (nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten()), "pools to"),
        (nn.Sequential(nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), "follows no convolution"),
        (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4)), "linear"),
    ],
)
def test_what_layers_cannot_say_is_refused(network, why):
    with pytest.raises(UnsupportedEncoderError, match=why):
        read_layers(network.eval(), 16)


def test_small_networks_hardly_change(small):
    encoder = wrap_encoder(small, image_size=32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    images = torch.rand(4, 3, 32, 32)
    restored = browser_encoder(encoder).restored()
    got = run_layers(restored, (images - encoder.mean) / encoder.std)
    with torch.no_grad():
        assert F.cosine_similarity(got, encoder(images)).min() > 0.999


def test_large_layers_have_one_byte_a_weight_and_depthwise_ones_two():
    found = browser_encoder(load_encoder(image_size=64))
    largest = {(layer.depthwise, layer.weight.numel() < 20_000): 0.0 for layer in found.layers if layer.kind == "conv"}
    for layer in found.layers:
        if layer.kind == "conv":
            assert torch.equal(layer.weight, layer.weight.round())
            key = (layer.depthwise, layer.weight.numel() < 20_000)
            largest[key] = max(largest[key], float(layer.weight.abs().max()))
    assert largest == {(False, False): 127, (False, True): 32767, (True, True): 32767, (True, False): 32767}


def test_an_encoder_that_is_too_large_is_refused(small):
    with pytest.raises(UnsupportedEncoderError, match="weights take"):
        browser_encoder(wrap_encoder(small, image_size=32), limit=1000)


def test_an_encoder_is_written_only_with_its_own_features(small, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    source, rows = ArraySource(images, name="made"), np.arange(40)
    encoder = wrap_encoder(small, image_size=32)
    features = extract_features(encoder, source, preprocessing=encoder.preprocessing).values
    own = write_search(tmp_path, "0" * 12, features, rows, source, encoder=encoder)
    assert own["encoder"]["scripts"]
    random = np.random.default_rng(1).normal(size=features.shape)
    for other in (random, features[:, :9]):
        told = write_search(tmp_path, "0" * 12, other, rows, source, encoder=encoder)
        assert told["index"]["scripts"]
        assert told["encoder"] is None
    gelu = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    encoder = wrap_encoder(gelu, image_size=32)
    features = extract_features(encoder, source, preprocessing=encoder.preprocessing).values
    assert write_search(tmp_path, "0" * 12, features, rows, source, encoder=encoder)["encoder"] is None
