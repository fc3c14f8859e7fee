"""The multi-expert network and its router."""

import pytest
import torch
from torch import nn

from sdclr.downstream.experts import (
    Classifier,
    CosineClassifier,
    Experts,
    Router,
    copies,
    route,
    router_loss,
    router_targets,
    running_mean,
)
from sdclr.encoders import EncoderConfig, create_encoder
from sdclr.errors import InputError

K = 4


def built(name: str = "resnet20", number: int = 3) -> Experts:
    encoder = create_encoder(EncoderConfig(name=name, width=4), 16)
    return Experts(copies(encoder, number), K, scale=30.0)


@pytest.mark.parametrize(("name", "shared"), [("resnet20", 1), ("resnet18", 2), ("resnet50", 2)])
def test_experts_share_the_stem_and_own_the_last_two_stages(name: str, shared: int) -> None:
    encoder = create_encoder(EncoderConfig(name=name, width=4), 16)
    early = {"conv1", "bn1", *(f"layer{stage}" for stage in range(1, shared + 1))}
    experts = Experts(copies(encoder, 3), K, scale=None)
    of_stem = {id(p) for n, p in encoder.backbone.named_parameters() if n.split(".")[0] in early}
    assert {id(p) for p in experts.shared.parameters()} == of_stem
    own = [{id(p) for p in expert.parameters()} for expert in experts.experts]
    late = sum(p.numel() for n, p in encoder.backbone.named_parameters() if n.split(".")[0] not in early)
    for number, parameters in enumerate(own):
        assert sum(p.numel() for p in experts.experts[number].parameters()) == late
        assert not parameters & of_stem
        assert all(not parameters & other for other in own[:number])


@pytest.mark.parametrize("name", ["resnet20", "resnet18"])
def test_copies_of_an_encoder_start_with_its_features_and_classifiers_of_their_own(name: str) -> None:
    encoder = create_encoder(EncoderConfig(name=name, width=4, mean=(0.2, 0.3, 0.4)), 16).eval()
    experts = Experts(copies(encoder, 3), K, scale=30.0).eval()
    images = torch.rand(5, 3, 16, 16)
    expected = encoder(images)
    features = experts.features(images)
    assert len(features) == 3
    for each in features:
        torch.testing.assert_close(each, expected, rtol=0, atol=0)
    first, second, _ = experts(images)
    assert not torch.allclose(first, second)


def test_only_what_an_expert_owns_learns_from_its_loss() -> None:
    experts = built()
    experts(torch.rand(4, 3, 16, 16))[1].sum().backward()
    assert all(p.grad is not None for p in [*experts.shared.parameters(), *experts.experts[1].parameters()])
    assert all(p.grad is None or not p.grad.any() for p in experts.experts[0].parameters())


def test_other_encoders_are_refused() -> None:
    with pytest.raises(InputError, match=r"need a ResNet .*not 'convnext_atto'"):
        Experts([create_encoder(EncoderConfig(name="convnext_atto"), 32)] * 2, K, scale=None)


def test_a_cosine_classifier_sees_directions_alone() -> None:
    head, x = CosineClassifier(6, K, 30.0), torch.randn(5, 6)
    cosines = nn.functional.cosine_similarity(x[:, None], head.weight[None], dim=-1)
    torch.testing.assert_close(head(x), 30 * cosines)
    torch.testing.assert_close(head(7 * x), head(x))


def test_a_classifier_is_its_head_on_its_encoder() -> None:
    encoder, head = create_encoder(EncoderConfig(name="resnet20", width=4), 16).eval(), nn.Linear(16, K)
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(Classifier(encoder, head)(images), head(encoder(images)))


def expert_logits(*answers: list[int]) -> torch.Tensor:
    """Experts that are sure of what they say, the later the more: (E, N, K)."""
    return torch.stack([(3.0**e) * torch.eye(K)[torch.tensor(row)] for e, row in enumerate(answers)])


def test_router_targets_by_cases() -> None:
    labels = torch.tensor([0, 0, 0, 0, 0])
    # Image 0: right at once. 1: the second is right. 2: only the third. 3: nobody. 4: right, then wrong.
    logits = expert_logits([0, 1, 1, 1, 0], [0, 0, 2, 2, 1], [0, 0, 0, 3, 1])
    targets = router_targets(logits, labels)
    assert targets[0].tolist() == [0, 1, 1, 0, 0]
    # After two, image 1 is right together; image 4 is wrong but the third is wrong as well.
    assert targets[1].tolist() == [0, 0, 1, 0, 0]


def test_an_image_goes_on_as_long_as_the_routers_say_so() -> None:
    logits = torch.randn(3, 4, K)
    decisions = torch.tensor([[-1.0, 1.0, 1.0, -1.0], [1.0, -1.0, 1.0, -1.0]])
    routed, asked = route(logits, decisions)
    assert asked.tolist() == [1, 2, 3, 1]
    for image, number in enumerate([1, 2, 3, 1]):
        torch.testing.assert_close(routed[image], logits[:number, image].mean(dim=0))


def test_running_mean() -> None:
    logits = torch.randn(4, 3, K)
    for asked in range(1, 5):
        torch.testing.assert_close(running_mean(logits)[asked - 1], logits[:asked].mean(dim=0))


def test_router_loss_weighs_images_that_another_expert_helps() -> None:
    decisions = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([[1, 0, 0, 1, 0], [0, 0, 1, 0, 0]], dtype=torch.float64)
    total = mass = 0.0
    for r, y in zip(decisions.flatten().tolist(), targets.flatten().tolist(), strict=True):
        on = 1 / (1 + torch.tensor(-r).exp().item())
        weight = 100.0 if y else 1.0
        total -= weight * torch.tensor(on if y else 1 - on).log().item()
        mass += weight
    assert router_loss(decisions, targets, 100.0).item() == pytest.approx(total / mass, rel=1e-5)
    assert torch.autograd.gradcheck(lambda r: router_loss(r, targets, 7.0), decisions)


def test_a_router_does_not_see_the_order_of_classes_nor_the_length_of_features() -> None:
    router, features, logits = Router(6, K, top=3), torch.randn(5, 6), torch.randn(5, K)
    decisions = router(features, logits)
    assert decisions.shape == (5,)
    torch.testing.assert_close(router(3 * features, logits[:, torch.tensor([2, 0, 3, 1])]), decisions)


def test_routers_see_the_last_expert_asked_and_the_mean_so_far() -> None:
    experts = built().eval()
    features = experts.features(torch.rand(5, 3, 16, 16))
    logits = experts.logits(features)
    decisions = experts.decisions(features, logits)
    assert decisions.shape == (2, 5)
    torch.testing.assert_close(decisions[1], experts.routers[1](features[1], logits[:2].mean(dim=0)))
