"""The pruned twin: its output, its gradients, its normalization, its state, on networks of every kind."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch._dynamo.testing import CompileCounter

from sdclr.encoders import EncoderConfig, HeadConfig, create_network
from sdclr.method import SelfCompetitor, magnitude_masks


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 8))


NETWORKS = {
    "mlp": (mlp, (4, 12)),
    "torchvision resnet18": (lambda: torchvision.models.resnet18(num_classes=10), (2, 3, 32, 32)),
    "torchvision resnet50": (lambda: torchvision.models.resnet50(num_classes=10), (2, 3, 32, 32)),
    "timm convnext": (lambda: timm.create_model("convnext_atto", num_classes=0), (2, 3, 32, 32)),
    "timm vit": (
        lambda: timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32, depth=2),
        (2, 3, 32, 32),
    ),
    "group norm": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 4, 3)),
        (2, 3, 8, 8),
    ),
}


@pytest.fixture(params=NETWORKS)
def network_and_input(request):
    build, shape = NETWORKS[request.param]
    return build(), torch.randn(shape)


def pruned_copy(competitor: SelfCompetitor) -> nn.Module:
    """An explicit second network: deep-copied, with zeros written where the mask says so."""
    twin = copy.deepcopy(competitor.network)
    with torch.no_grad():
        for name, mask in competitor.masks.items():
            twin.get_parameter(name).mul_(mask)
    return twin


def test_output_is_that_of_an_explicitly_pruned_copy(network_and_input):
    network, x = network_and_input
    competitor = SelfCompetitor(network, 0.5)
    twin = pruned_copy(competitor)
    for training in (True, False):
        competitor.train(training)
        twin.train(training)
        torch.testing.assert_close(competitor(x), twin(x))


def test_gradients_are_those_of_two_explicit_networks(network_and_input):
    network, x = network_and_input
    y = torch.randn_like(x)
    competitor = SelfCompetitor(network, 0.5)
    dense, sparse = copy.deepcopy(network), pruned_copy(competitor)
    (network(x).square().mean() + competitor(y).cos().mean()).backward()
    (dense(x).square().mean() + sparse(y).cos().mean()).backward()
    masks, own = competitor.masks, dict(competitor._norm.named_parameters())
    for name, parameter in network.named_parameters():
        expected = dense.get_parameter(name).grad
        other = sparse.get_parameter(name).grad
        if name.replace(".", "/") in own:  # normalization: a gradient for each branch, to each its own
            torch.testing.assert_close(own[name.replace(".", "/")].grad, other)
        elif name in masks:  # kept weights hear both branches, removed ones the dense branch alone
            expected = expected + other * masks[name]
        else:
            expected = expected + other
        torch.testing.assert_close(parameter.grad, expected, atol=1e-5, rtol=1e-4)


def test_gradients_are_those_of_finite_differences():
    torch.manual_seed(1)
    network = nn.Sequential(nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 2)).double()
    competitor = SelfCompetitor(network, 0.4)
    x, y = torch.randn(3, 2, 3, 3).double(), torch.randn(3, 2, 3, 3).double()

    def loss() -> torch.Tensor:
        return F.cosine_similarity(network(x), competitor(y)).sum()

    loss().backward()
    step = 1e-6
    for parameter in competitor.parameters():
        flat, gradient = parameter.data.view(-1), parameter.grad.view(-1)
        for i in range(flat.numel()):
            flat[i] += step
            above = loss().item()
            flat[i] -= 2 * step
            below = loss().item()
            flat[i] += step
            assert (above - below) / (2 * step) == pytest.approx(float(gradient[i]), abs=2e-5)


def test_masks_are_one_global_threshold_over_the_encoder_alone():
    network = create_network(EncoderConfig(width=4), HeadConfig(), 32)
    competitor = SelfCompetitor(network, 0.7)
    convolutions = {n: p for n, p in network.named_parameters() if n.startswith("encoder.") and p.ndim == 4}
    assert list(competitor.masks) == list(convolutions)
    for name, mask in magnitude_masks(convolutions, 0.7).items():
        assert torch.equal(mask, competitor.masks[name])
    assert any("conv1" in name for name in competitor.masks)
    assert any("downsample" in name for name in competitor.masks)
    removed = sum(int((~m).sum()) for m in competitor.masks.values())
    total = sum(m.numel() for m in competitor.masks.values())
    assert removed == -(-7 * total // 10)


def test_prunable_is_asked_with_names_and_modules():
    network = mlp()
    competitor = SelfCompetitor(network, 0.5, prunable=lambda name, module: name == "3" and module is network[3])
    assert list(competitor.masks) == ["3.weight"]
    with pytest.raises(ValueError, match="no prunable weight"):
        SelfCompetitor(network, 0.5, prunable=lambda name, module: False)  # noqa: ARG005


def test_a_bare_layer_can_be_pruned():
    competitor = SelfCompetitor(nn.Linear(3, 4), 0.5)
    assert list(competitor.masks) == ["weight"]
    assert competitor.sparsity() == {"weight": 0.5}


def test_refresh_follows_the_weights_and_the_ratio():
    network = mlp()
    competitor = SelfCompetitor(network, 0.5)
    buffers = {name: mask.data_ptr() for name, mask in competitor.masks.items()}
    before = {name: mask.clone() for name, mask in competitor.masks.items()}
    with torch.no_grad():
        network[0].weight.copy_(torch.randn_like(network[0].weight) * 5)
    assert all(torch.equal(mask, before[name]) for name, mask in competitor.masks.items())  # lazily
    competitor.refresh()
    assert not torch.equal(competitor.masks["0.weight"], before["0.weight"])
    assert buffers == {name: mask.data_ptr() for name, mask in competitor.masks.items()}
    competitor.ratio = 0.25
    competitor.refresh()
    assert sum(int((~m).sum()) for m in competitor.masks.values()) == -(-320 // 4)


def test_each_branch_keeps_its_own_running_statistics():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    competitor = SelfCompetitor(network, 0.5)
    start = network[1].running_mean.clone()
    competitor(torch.randn(8, 3, 4, 4) + 3)
    assert torch.equal(network[1].running_mean, start)
    assert not torch.equal(competitor._norm.get_buffer("1/running_mean"), start)
    assert int(competitor._norm.get_buffer("1/num_batches_tracked")) == 1
    assert int(network[1].num_batches_tracked) == 0
    own = competitor._norm.get_buffer("1/running_mean").clone()
    competitor.eval()
    x = torch.randn(8, 3, 4, 4)
    with torch.no_grad():
        weight = network[0].weight * competitor.masks["0.weight"]
        z = F.conv2d(x, weight, network[0].bias)
        expected = F.batch_norm(z, own, competitor._norm.get_buffer("1/running_var"))
        torch.testing.assert_close(competitor(x), expected)
    assert torch.equal(competitor._norm.get_buffer("1/running_mean"), own)


def test_shared_normalization_is_an_option():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    competitor = SelfCompetitor(network, 0.5, independent_norm=False)
    assert len(list(competitor.parameters())) == len(list(network.parameters()))
    competitor(torch.randn(8, 3, 4, 4) + 3)
    assert int(network[1].num_batches_tracked) == 1


def test_statistics_alone_can_be_independent():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    competitor = SelfCompetitor(network, 0.0, independent_norm="statistics")
    assert len(list(competitor.parameters())) == len(list(network.parameters()))
    x = torch.randn(8, 3, 4, 4) + 3
    torch.testing.assert_close(competitor(x), copy.deepcopy(network)(x))
    assert int(network[1].num_batches_tracked) == 0
    assert int(competitor._norm.get_buffer("1/num_batches_tracked")) == 1
    weights = torch.randn(8, 4, 4, 4)  # the sum of normalized outputs has no gradient
    for branch in (network, competitor):
        (branch(x) * weights).sum().backward()
    of_both = network[1].weight.grad.clone()
    network.zero_grad()
    (network(x) * weights).sum().backward()
    torch.testing.assert_close(of_both, 2 * network[1].weight.grad)


@pytest.mark.parametrize("norm", [nn.SyncBatchNorm(4), nn.LayerNorm([4, 2, 2]), nn.GroupNorm(2, 4), nn.BatchNorm2d(4)])
def test_every_kind_of_normalization_gets_one_extra_set(norm):
    network = nn.Sequential(nn.Conv2d(3, 4, 1), norm)
    competitor = SelfCompetitor(network, 0.5)
    extra = len(list(competitor.parameters())) - len(list(network.parameters()))
    assert extra == len(list(norm.parameters())) == 2
    competitor.eval()  # SyncBatchNorm trains on GPUs only
    competitor(torch.randn(2, 3, 2, 2)).sum().backward()
    assert norm.weight.grad is None
    assert competitor._norm.get_parameter("1/weight").grad is not None


def test_one_optimizer_trains_both_branches_and_no_weight_is_copied():
    network = mlp()
    competitor = SelfCompetitor(network, 0.5)
    assert {id(p) for p in network.parameters()} < {id(p) for p in competitor.parameters()}
    norm_sizes = 2 * 16
    assert sum(p.numel() for p in competitor.parameters()) == sum(p.numel() for p in network.parameters()) + norm_sizes
    floats = sum(b.numel() for b in competitor.buffers() if b.is_floating_point())
    assert floats == 0  # masks are boolean; LayerNorm has no running statistics


def test_the_state_dict_carries_masks_and_both_norm_sets():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    competitor = SelfCompetitor(network, 0.5)
    competitor(torch.randn(8, 3, 4, 4) + 3)
    with torch.no_grad():
        network[0].weight.mul_(torch.rand_like(network[0].weight))  # masks no longer follow from the weights
    state = competitor.state_dict()
    other = SelfCompetitor(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), 0.5)
    other.load_state_dict(state)
    assert torch.equal(other.masks["0.weight"], competitor.masks["0.weight"])
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(other.eval()(x), competitor.eval()(x), rtol=0, atol=0)


def test_a_part_of_the_twin_is_that_part_of_a_pruned_copy():
    network = create_network(EncoderConfig(width=4), HeadConfig(), 32)
    competitor = SelfCompetitor(network, 0.6).eval()
    x = torch.rand(2, 3, 32, 32)
    expected = pruned_copy(competitor).encoder(x)
    torch.testing.assert_close(competitor.part("encoder")(x), expected)
    assert not torch.allclose(network.encoder(x), expected)


def test_compiled_equals_eager_and_a_refresh_recompiles_nothing():
    network = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
    competitor = SelfCompetitor(network, 0.5)
    counter = CompileCounter()
    compiled = torch.compile(competitor, fullgraph=True, backend=counter)
    x = torch.randn(5, 6)
    for _ in range(3):
        torch.testing.assert_close(compiled(x), competitor(x))
        with torch.no_grad():
            network[0].weight.normal_()
        competitor.refresh()
    assert counter.frame_count == 1


@pytest.mark.parametrize("compiled", [False, True])
def test_under_autocast_masked_weights_are_those_that_autocast_would_make(compiled):
    network = create_network(EncoderConfig(width=4), HeadConfig(dim=8), 32)
    competitor = SelfCompetitor(network, 0.5).eval()
    x = torch.rand(4, 3, 32, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = pruned_copy(competitor)(x)
        twin = torch.compile(competitor, fullgraph=True, backend="eager") if compiled else competitor
        given = twin(x)
        weights = competitor.twin()
    assert given.dtype == torch.bfloat16
    assert torch.equal(given, expected)
    assert {weights[name].dtype for name in competitor.masks} == {torch.bfloat16}
    given.float().square().sum().backward()
    gradients = {name: dict(network.named_parameters())[name].grad for name in competitor.masks}
    assert all(gradient.dtype == torch.float32 for gradient in gradients.values())
    assert all(not gradient[~competitor.masks[name]].any() for name, gradient in gradients.items())
