"""Self-damage on vision transformers and ConvNeXts: which weights go, and what each branch learns from."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sdclr.encoders import EncoderConfig, HeadConfig, Network, create_network
from sdclr.method import Objective, SelfCompetitor, SimCLR, magnitude_masks
from sdclr.training.activations import checkpoint_activations

SIZE = 16
ENCODERS = {
    "vit": EncoderConfig(name="vit_tiny_patch16_224", width=24, patch=4),
    "convnext": EncoderConfig(name="convnext_atto", width=4),  # its linear layers are 1x1 convolutions
    "convnext v2": EncoderConfig(name="convnextv2_atto", width=4),  # with a response normalization
}


@pytest.fixture(params=ENCODERS)
def kind(request: Any) -> str:
    return str(request.param)


def made(kind: str) -> Network:
    """With weights as they are after some training: nothing at 0 or 1, where branches could not be told apart."""
    torch.manual_seed(0)
    network = create_network(ENCODERS[kind], HeadConfig(dim=8), SIZE)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def views(count: int = 4) -> Tensor:
    return torch.rand(2, count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def by_hand(competitor: SelfCompetitor) -> Network:
    """A second network, with zeros written where weights are removed."""
    pruned: Network = copy.deepcopy(competitor.network)
    with torch.no_grad():
        for name, mask in competitor.masks.items():
            pruned.get_parameter(name).mul_(mask)
    return pruned


def normalization(network: nn.Module) -> set[str]:
    """Names of the parameters of its layers of normalization."""
    layers = (nn.LayerNorm, nn.BatchNorm1d)
    return {
        f"{prefix}.{name}"
        for prefix, module in network.named_modules()
        if isinstance(module, layers)
        for name, _ in module.named_parameters()
    }


def own(competitor: SelfCompetitor) -> dict[str, Tensor]:
    """The twin's own parameters by the name of those that they stand for."""
    given = {id(parameter) for parameter in competitor.network.parameters()}
    mine = {name: value for name, value in competitor.named_parameters() if id(value) not in given}
    return {name.partition(".")[2].replace("/", "."): value for name, value in mine.items()}


def test_of_a_vision_transformer_all_linear_layers_and_the_patches_may_go() -> None:
    layers = ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"]
    expected = ["patch_embed.proj", *(f"blocks.{block}.{layer}" for block in range(12) for layer in layers)]
    masks = SelfCompetitor(made("vit"), 0.5).masks
    assert list(masks) == [f"encoder.backbone.{name}.weight" for name in expected]  # no token, no position
    removed = sum(int((~mask).sum()) for mask in masks.values())
    assert removed == sum(mask.numel() for mask in masks.values()) // 2


@pytest.mark.parametrize("kind", ["convnext", "convnext v2"])
def test_of_a_convnext_stem_blocks_and_steps_between_stages_may_go(kind: str) -> None:
    expected = ["stem.0"]
    layers = ("conv_dw", "mlp.fc1", "mlp.fc2")
    for stage, depth in enumerate((2, 2, 6, 2)):
        expected += [f"stages.{stage}.downsample.1"] if stage else []
        expected += [f"stages.{stage}.blocks.{block}.{layer}" for block in range(depth) for layer in layers]
    masks = SelfCompetitor(made(kind), 0.5).masks
    assert set(masks) == {f"encoder.backbone.{name}.weight" for name in expected}  # no scale of a layer


def test_one_threshold_holds_for_all_layers(kind: str) -> None:
    competitor = SelfCompetitor(made(kind), 0.6)
    weights = {name: competitor.network.get_parameter(name).detach() for name in competitor.masks}
    kept = torch.cat([weights[name].abs()[mask] for name, mask in competitor.masks.items()])
    removed = torch.cat([weights[name].abs()[~mask] for name, mask in competitor.masks.items()])
    assert float(kept.min()) > float(removed.max())
    assert all(torch.equal(mask, competitor.masks[name]) for name, mask in magnitude_masks(weights, 0.6).items())


@pytest.mark.parametrize("fused", [True, False])
def test_the_twin_is_the_network_with_weights_multiplied_by_hand(kind: str, *, fused: bool) -> None:
    network = made(kind)
    for module in network.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = fused
    competitor = SelfCompetitor(network, 0.5)
    images, pruned = views()[0], by_hand(competitor)
    torch.testing.assert_close(competitor(images), pruned(images))
    assert not torch.allclose(competitor(images), network(images), atol=1e-2)


def test_each_branch_gives_the_gradients_of_a_network_of_its_own(kind: str) -> None:
    network = made(kind)
    competitor = SelfCompetitor(network, 0.5)
    with torch.no_grad():  # as after some steps: the twin's normalization is no longer the network's
        for value in own(competitor).values():
            value.mul_(1.2)
    dense, pruned = copy.deepcopy(network), by_hand(competitor)
    with torch.no_grad():
        for name, value in own(competitor).items():
            pruned.get_parameter(name).copy_(value)
    (first, second), how = views(), SimCLR()
    how(network, competitor, first, second).mean().backward()
    how(dense, pruned, first, second).mean().backward()
    masks, mine = competitor.masks, own(competitor)
    assert set(mine) == normalization(network)
    for name, parameter in network.named_parameters():
        from_dense, from_pruned = (each.get_parameter(name).grad for each in (dense, pruned))
        if name in mine:
            expected = from_dense
            torch.testing.assert_close(mine[name].grad, from_pruned, atol=1e-6, rtol=1e-3)
        else:
            expected = from_dense + from_pruned * masks.get(name, torch.ones(()))
        torch.testing.assert_close(parameter.grad, expected, atol=1e-6, rtol=1e-3)


def test_the_pruned_branch_teaches_kept_weights_and_its_own_normalization_alone(kind: str) -> None:
    network = made(kind)
    competitor = SelfCompetitor(network, 0.5)
    competitor(views()[0]).square().sum().backward()
    for name, mask in competitor.masks.items():
        gradient = network.get_parameter(name).grad
        assert gradient is not None
        assert not gradient[~mask].any()
    assert any(bool(network.get_parameter(name).grad[mask].any()) for name, mask in competitor.masks.items())
    assert all(network.get_parameter(name).grad is None for name in normalization(network))
    assert all(value.grad is not None for value in own(competitor).values())
    rest = set(dict(network.named_parameters())) - normalization(network) - set(competitor.masks)
    assert all(network.get_parameter(name).grad is not None for name in rest)  # biases, tokens, positions, scales


def test_shared_normalization_hears_both_branches(kind: str) -> None:
    network = made(kind)
    competitor = SelfCompetitor(network, 0.5, independent_norm=False)
    assert own(competitor) == {}
    competitor(views()[0]).square().sum().backward()
    assert all(network.get_parameter(name).grad is not None for name in normalization(network))


@pytest.mark.parametrize("ratio", [None, 0.3])
def test_a_few_steps_lower_the_loss(kind: str, ratio: float | None) -> None:
    torch.manual_seed(0)
    network = create_network(ENCODERS[kind], HeadConfig(dim=8), SIZE)
    objective = Objective(SimCLR(), network, None if ratio is None else SelfCompetitor(network, ratio))
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-3)
    images = views(16)[0]
    losses = []
    for _ in range(8):
        loss = objective(images, images.flip(-1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_blocks_may_forget_what_they_computed(kind: str) -> None:
    plain = made(kind)
    saving = copy.deepcopy(plain)
    assert checkpoint_activations(saving) == 12
    gradients = []
    for network in (plain, saving):
        objective = Objective(SimCLR(), network, SelfCompetitor(network, 0.5))
        objective(*views()).mean().backward()
        gradients.append({name: value.grad for name, value in objective.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient is not None
        assert torch.equal(gradient, gradients[1][name]), name


@pytest.mark.parametrize("sides", [{}, {"kdim": 6, "vdim": 10}], ids=["one projection", "three projections"])
@pytest.mark.parametrize("training", [True, False])
def test_projections_of_torchs_attention_are_pruned(sides, training):
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, **sides).train(training)
    competitor = SelfCompetitor(attention, 0.5)
    projections = ["q_proj_weight", "k_proj_weight", "v_proj_weight"] if sides else ["in_proj_weight"]
    assert list(competitor.masks) == [*projections, "out_proj.weight"]
    query, key, value = (
        torch.randn(n, 4, size) for n, size in ((3, 8), (5, sides.get("kdim", 8)), (5, sides.get("vdim", 8)))
    )
    pruned = copy.deepcopy(attention)
    with torch.no_grad():
        for name, mask in competitor.masks.items():
            assert not mask.all()
            pruned.get_parameter(name).mul_(mask)
    torch.testing.assert_close(competitor(query, key, value)[0], pruned(query, key, value)[0])
