"""Grad-CAM against its formula, and on networks whose answer is known."""

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from sdclr.encoders import EncoderConfig, create_encoder
from sdclr.errors import InputError
from sdclr.evaluation.gradcam import class_prototypes, gradcam, last_map, logit_target, similarity_target
from sdclr.evaluation.probes import LinearClassifier
from sdclr.method import SelfCompetitor

SIDE = 12


class Tiny(nn.Module):
    """Two convolutions, a head that is not linear in the map, and an activation that works in place on it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 5, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(5, 6)

    def forward(self, images):
        maps = self.act(self.second(torch.tanh(self.norm(self.first(images)))))
        return torch.tanh(self.head(self.pool(maps).flatten(1)))


class Bright(nn.Module):
    """A detector of brightness: one channel with the images' mean over 3 x 3 pixels, above a threshold."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Conv2d(3, 2, 3, padding=1, bias=False)
        with torch.no_grad():
            self.look.weight[0] = 1 / 27
            self.look.weight[1] = -1 / 27

    def forward(self, images):
        return F.relu(self.look(images)).mean(dim=(2, 3))


def images(count=3):
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def first_score(features):
    return features[:, 0] ** 2 + features[:, 1]


def written_out(network, batch, through):
    """Eq. 1 and 2 in so many loops: gradients by autograd from one image's map to its score."""
    found = []
    for image in batch:
        maps = network.second(torch.tanh(network.norm(network.first(image[None])))).detach().requires_grad_()
        activated = F.relu(maps)
        activated.retain_grad()
        first_score(torch.tanh(network.head(activated.mean(dim=(2, 3)))))[0].backward()
        looked_at = maps if through == "second" else activated
        channels, height, width = looked_at.shape[1:]
        total = torch.zeros(height, width)
        for channel in range(channels):
            weight = sum(looked_at.grad[0, channel, i, j] for i in range(height) for j in range(width))
            total += weight / (height * width) * looked_at.detach()[0, channel]
        resized = F.interpolate(total.clamp(min=0)[None, None], (SIDE, SIDE), mode="bilinear", align_corners=False)
        found.append(resized[0, 0] / resized.max() if resized.max() > 0 else resized[0, 0])
    return torch.stack(found)


@pytest.mark.parametrize("layer", ["second", "act", None])
def test_maps_are_those_of_the_formula(layer):
    network = Tiny().eval()
    network.norm.running_mean.uniform_(-0.2, 0.2)
    expected = written_out(network, images(), layer)
    assert (expected.amax(dim=(1, 2)) > 0).any(), "a network in which nothing speaks for the score proves nothing"
    network.zero_grad(set_to_none=True)
    torch.testing.assert_close(gradcam(network, images(), first_score, layer=layer), expected)


def test_the_last_map_before_pooling_is_found():
    assert last_map(Tiny().eval(), images(1)) == "act"


def test_a_detector_looks_at_what_it_detects():
    picture = torch.full((2, 3, 16, 16), 0.1)
    picture[0, :, 3:7, 10:14] = 1.0
    picture[1, :, 9:13, 2:6] = 1.0
    heat = gradcam(Bright(), picture, lambda features: features[:, 0], layer="look")
    for number, (top, left) in enumerate([(3, 10), (9, 2)]):
        row, column = divmod(int(heat[number].argmax()), 16)
        assert top <= row < top + 4
        assert left <= column < left + 4
        inside = heat[number, top : top + 4, left : left + 4]
        assert inside.min() > heat[number].mean() * 2
        assert heat[number].max() == 1


def test_where_nothing_speaks_for_the_target_there_is_no_heat():
    heat = gradcam(Bright(), images(), lambda features: -features[:, 0], layer="look")
    assert not heat.any()


def test_heat_does_not_depend_on_the_other_images():
    network = Tiny().eval()
    together = gradcam(network, images(4), first_score)
    alone = torch.cat([gradcam(network, image[None], first_score) for image in images(4)])
    torch.testing.assert_close(together, alone)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 100), st.sampled_from([(8, 8), (9, 13), (16, 8)]))
def test_heat_lies_between_0_and_1_whatever_the_scale_of_the_score(seed, scale, sides):
    torch.manual_seed(seed)
    network, batch = Tiny().eval(), torch.rand(2, 3, *sides)
    heat = gradcam(network, batch, first_score)
    assert heat.shape == (2, *sides)
    assert heat.min() >= 0
    assert all(peak in {0.0, 1.0} for peak in heat.amax(dim=(1, 2)).tolist())
    torch.testing.assert_close(gradcam(network, batch, lambda x: scale * first_score(x)), heat, rtol=1e-4, atol=1e-5)


def test_memory_format_makes_no_difference():
    network = create_encoder(EncoderConfig(width=4), 16).eval()
    batch = torch.rand(2, 3, 16, 16)
    usual = gradcam(network, batch, first_score)
    other = gradcam(
        network.to(memory_format=torch.channels_last), batch.to(memory_format=torch.channels_last), first_score
    )
    torch.testing.assert_close(other, usual, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("outside", [torch.enable_grad, torch.no_grad])
def test_the_encoder_is_left_as_it_was(frozen, outside):
    network = Tiny().train()
    network.norm.eval()
    network.requires_grad_(not frozen)
    network.head.weight.grad = torch.full_like(network.head.weight, 3.0)
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with outside():
        heat = gradcam(network, images(), first_score)
    assert not heat.requires_grad
    assert [module.training for module in network.modules()] == [True, True, False, True, True, True, True]
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    assert (gradients.pop("head.weight") == 3).all()
    assert not any(gradient is not None for gradient in gradients.values())
    assert all(parameter.requires_grad is not frozen for parameter in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())


def test_no_hook_stays_behind_when_it_fails():
    network = Tiny()

    def broken(_):
        raise KeyError

    with pytest.raises(KeyError):
        gradcam(network, images(), broken)
    assert not any(module._forward_hooks for module in network.modules())
    assert network.training


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("resnet18", "layer4"),
        ("convnext_atto", "norm_pre"),
        ("mobilenetv3_small_050", "blocks"),
        ("efficientnet_lite0", "bn2"),
        ("regnetx_002", "final_conv"),
    ],
)
def test_the_last_stage_is_found_in_any_convolutional_network(name, layer):
    network = timm.create_model(name, num_classes=0).eval()
    batch = torch.rand(1, 3, 64, 64)
    assert last_map(network, batch) == layer
    heat = gradcam(network, batch, lambda features: features.pow(2).sum(dim=1))
    assert heat.shape == (1, 64, 64)
    assert heat.max() == 1


def test_a_map_of_one_position_is_passed_over():
    assert last_map(create_encoder(EncoderConfig(width=4), 8).eval(), torch.rand(1, 3, 8, 8)) == "backbone.layer3"


def test_maps_smaller_than_asked_for_are_passed_over():
    encoder, batch = create_encoder(EncoderConfig(width=4), 16).eval(), torch.rand(1, 3, 16, 16)
    found = [last_map(encoder, batch, min_side=side) for side in (2, 3, 4, 5, 16)]
    assert found == [f"backbone.layer{stage}" for stage in (4, 3, 3, 2, 1)]
    with pytest.raises(InputError, match="17 x 17 or more"):
        last_map(encoder, batch, min_side=17)


@pytest.mark.parametrize(("name", "size"), [("vit_tiny_patch16_224", 32), ("swin_tiny_patch4_window7_224", 224)])
def test_networks_of_tokens_are_refused(name, size):
    network = create_encoder(EncoderConfig(name=name), size).eval()
    with pytest.raises(InputError, match="does not end in a map"):
        gradcam(network, torch.rand(1, 3, size, size), first_score)


@pytest.mark.parametrize(
    ("layer", "words"),
    [("secnd", "did you mean second"), ("zzzz", "named_modules"), ("head", "not a map"), ("unused", "no tensor")],
)
def test_a_wrong_layer_is_named(layer, words):
    network = Tiny()
    network.unused = nn.Identity()
    with pytest.raises(InputError, match=words):
        gradcam(network, images(), first_score, layer=layer)


def test_wrong_targets_and_images_are_refused():
    with pytest.raises(InputError, match="score per image"):
        gradcam(Tiny(), images(), lambda features: features)
    with pytest.raises(InputError, match="score per image"):
        gradcam(Tiny(), images(), lambda features: features[:, 0].detach())
    with pytest.raises(InputError, match="at least one image"):
        gradcam(Tiny(), images()[:0], first_score)


def test_a_pruned_twin_is_looked_at_like_its_network():
    encoder = create_encoder(EncoderConfig(width=4), 16)
    network = nn.Sequential()
    network.encoder = encoder
    network.eval()
    batch = torch.rand(2, 3, 16, 16)
    whole = SelfCompetitor(network, 0.0).part("encoder")
    torch.testing.assert_close(gradcam(whole, batch, first_score), gradcam(encoder, batch, first_score))
    pruned = gradcam(SelfCompetitor(network, 0.8).part("encoder"), batch, first_score)
    assert not torch.allclose(pruned, gradcam(encoder, batch, first_score))


def test_prototypes_are_mean_directions():
    x = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    y = np.array([0, 2, 2, 0, 0, 2, 0, 2, 2])
    found = class_prototypes(x, y, 4).numpy()
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    for number in (0, 2):
        mean = unit[y == number].mean(axis=0)
        np.testing.assert_allclose(found[number], mean / np.linalg.norm(mean), rtol=1e-5)
    assert not found[[1, 3]].any()


def test_centered_prototypes_are_what_a_class_has_beyond_the_others():
    x, y = np.random.default_rng(0).normal(3, 1, size=(9, 4)), np.array([0, 2, 2, 0, 0, 2, 0, 2, 3])
    plain, centered = (class_prototypes(x, y, 5, centered=centered).numpy() for centered in (False, True))
    present = [0, 2, 3]
    np.testing.assert_allclose(centered[present], plain[present] - plain[present].mean(axis=0), rtol=1e-4, atol=1e-6)
    assert not centered[[1, 4]].any()


def test_targets_are_the_cosine_and_the_logit():
    generator = np.random.default_rng(1)
    features, prototypes = generator.normal(size=(3, 4)), generator.normal(size=(5, 4))
    labels = np.array([4, 0, 4])
    cosines = [
        f @ prototypes[y] / np.linalg.norm(f) / np.linalg.norm(prototypes[y])
        for f, y in zip(features, labels, strict=True)
    ]
    target = similarity_target(torch.tensor(prototypes), labels)
    np.testing.assert_allclose(target(torch.tensor(features)).numpy(), cosines)
    probe = LinearClassifier(weight=torch.tensor(prototypes), bias=torch.arange(5.0), validation_accuracy=0)
    logits = (features @ prototypes.T + np.arange(5))[np.arange(3), labels]
    np.testing.assert_allclose(logit_target(probe, labels)(torch.tensor(features)).numpy(), logits)


def test_a_class_without_prototype_is_named():
    prototypes = class_prototypes(np.eye(2), [0, 1], 3)
    with pytest.raises(InputError, match="class 2 has no prototype"):
        similarity_target(prototypes, [0, 2])
    with pytest.raises(InputError, match="labels holds 3"):
        similarity_target(prototypes, [3])
