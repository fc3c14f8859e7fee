"""The faster copy of an encoder gives the encoder's features, or there is none."""

import copy
import threading

import pytest
import timm
import torch
from torch import nn

from sdclr.encoders import EncoderConfig, as_encoder, create_encoder, wrap_encoder
from sdclr.features import inference
from sdclr.features.inference import for_inference, run_in_pieces


def stirred(encoder):
    """The encoder with statistics and affine parameters as training leaves them."""
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    return encoder.eval()


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def norms(module):
    return [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]


@pytest.mark.parametrize("name", ["resnet18", "resnet20", "test_efficientnet", "test_mambaout", "test_convnext"])
def test_features_are_equal_and_batch_norm_is_gone(name):
    encoder = stirred(create_encoder(EncoderConfig(name=name), 32))
    before = copy.deepcopy(encoder.state_dict())
    fast = for_inference(encoder)
    assert fast is not encoder
    assert norms(fast) == []
    images = torch.rand(3, 3, 32, 32)
    expected = encoder(images)
    torch.testing.assert_close(fast(images), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())


def test_every_training_mode_is_left_alone():
    encoder = create_encoder(EncoderConfig(width=4), 8).train()
    encoder.backbone.layer1.eval()
    modes = [module.training for module in encoder.modules()]
    assert not for_inference(encoder).training
    assert [module.training for module in encoder.modules()] == modes


class TwoUses(nn.Module):
    """The convolution's output goes to batch norm and past it, so that nothing may be folded."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, images):
        out = self.conv(images)
        return (out + self.norm(out)).mean(dim=(2, 3))


def test_where_folding_changes_features_the_encoder_stays():
    encoder = stirred(wrap_encoder(TwoUses(), image_size=8))
    assert for_inference(encoder) is encoder


class Held(nn.Module):
    """Holds what cannot be copied."""

    def __init__(self, what):
        super().__init__()
        self.what = what

    def forward(self, images):
        return images.mean(dim=(2, 3))


@pytest.mark.parametrize("what", [threading.Lock(), nn.Parameter(torch.zeros(1, 1, 1, 1, 1))], ids=["lock", "volume"])
def test_what_cannot_be_copied_or_laid_out_stays(what):
    encoder = wrap_encoder(Held(what), image_size=8)
    assert for_inference(encoder) is encoder


def test_other_modules_stay():
    module = nn.Flatten()
    assert for_inference(module) is module


def test_a_model_of_timm_with_its_classifier():
    encoder = as_encoder(timm.create_model("test_resnet", pretrained=False))
    images = torch.rand(2, 3, 160, 160)
    torch.testing.assert_close(for_inference(encoder)(images), encoder(images), rtol=1e-3, atol=1e-4)


def test_large_batches_run_in_pieces(monkeypatch):
    sizes = []

    class Seen(nn.Module):
        def forward(self, x):
            sizes.append(len(x))
            return x.flatten(1).sum(dim=1, keepdim=True)

    images = torch.rand(23, 3, 4, 4)
    monkeypatch.setattr(inference, "NUMBERS_AT_ONCE", 10 * 48)
    torch.testing.assert_close(run_in_pieces(Seen(), images), images.sum(dim=(1, 2, 3))[:, None])
    assert sizes == [10, 10, 3]
    monkeypatch.setattr(inference, "NUMBERS_AT_ONCE", 1)  # an image is never split
    assert len(run_in_pieces(Seen(), images)) == 23
