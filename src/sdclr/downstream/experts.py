"""Classifiers: an encoder with one linear layer, and several experts with a shared stem and a router."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdclr.encoders import CifarResNet, Encoder
from sdclr.errors import InputError

OWN_STAGES = 2
"""Number of last ResNet stages that each expert has separately."""


class CosineClassifier(nn.Module):
    """A linear layer on normalized features with normalized weights: `s cos(w_k, x)` (LDAM: Cao et al. 2019, eq. 12).

    Args:
        features: D.
        num_classes: K.
        scale: s.
    """

    def __init__(self, features: int, num_classes: int, scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_classes, features))
        self.scale = scale
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new directions, uniformly."""
        nn.init.normal_(self.weight)
        with torch.no_grad():
            self.weight.copy_(F.normalize(self.weight))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K) of features (N, D)."""
        return self.scale * F.linear(F.normalize(x), F.normalize(self.weight))


class Classifier(nn.Module):
    """An encoder and one linear layer.

    Args:
        encoder: Maps images to features `(N, D)`.
        head: Maps features to logits `(N, K)`.
    """

    def __init__(self, encoder: Encoder, head: nn.Linear | CosineClassifier) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K) of images (N, 3, H, W), float in [0, 1]."""
        logits: Tensor = self.head(self.encoder(images))
        return logits


class Router(nn.Module):
    """Decides from the outputs of the experts so far whether to use another (RIDE: Wang et al., ICLR 2021, section 3).

    `W2 (ReLU(W1 x / ||x||) ⊕ v)`, where x are the features of the last expert used, and v the largest mean logits of
    all experts used, in descending order. They are converted to log-probabilities, so that all methods have the same
    scale.

    Args:
        features: D.
        num_classes: K.
        hidden: Dimension to which the features are reduced.
        top: Number of logits used.
    """

    def __init__(self, features: int, num_classes: int, hidden: int = 16, top: int = 30) -> None:
        super().__init__()
        self.top = min(top, num_classes)
        self.reduce = nn.Linear(features, hidden)
        self.decide = nn.Linear(hidden + self.top, 1)

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        """Decision logits `(N,)` from features (N, D) and mean logits (N, K); above 0 means another expert."""
        seen = logits.log_softmax(dim=1).topk(self.top, dim=1).values
        decision: Tensor = self.decide(torch.cat([self.reduce(F.normalize(features)).relu(), seen], dim=1))
        return decision.squeeze(1)


class Experts(nn.Module):
    """Several classifiers with a shared stem and early stages of a ResNet, and separate last two stages (RIDE).

    Each expert takes its late stages from one encoder; the first encoder also provides the shared part. Copies of one
    pretrained encoder start with equal stages. Their classifiers have different initial weights, so their gradients
    differ from the first step, and the diversity loss increases the difference.

    Args:
        encoders: One ResNet for each expert, with equal architecture.
        num_classes: K.
        scale: Scale s of cosine classifiers; None gives plain linear layers.

    Raises:
        InputError: If the encoder is not a ResNet with stages.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, encoders: Sequence[Encoder], num_classes: int, *, scale: float | None) -> None:
        super().__init__()
        first = encoders[0]
        features = first.num_features
        self.shared, _ = split_backbone(first)
        self.experts = nn.ModuleList(split_backbone(encoder)[1] for encoder in encoders)
        self.heads = nn.ModuleList(linear_head(features, num_classes, scale) for _ in encoders)
        self.routers = nn.ModuleList(Router(features, num_classes) for _ in encoders[1:])
        self.register_buffer("mean", first.mean.clone(), persistent=False)
        self.register_buffer("std", first.std.clone(), persistent=False)

    def features(self, images: Tensor) -> list[Tensor]:
        """Features (N, D) of each expert for images (N, 3, H, W), float in [0, 1]."""
        shared = self.shared((images - self.mean) / self.std)
        return [expert(shared) for expert in self.experts]

    def logits(self, features: Sequence[Tensor]) -> Tensor:
        """Logits (E, N, K) of each expert from its own features, in float32."""
        return torch.stack([head(x).float() for head, x in zip(self.heads, features, strict=True)])

    def forward(self, images: Tensor) -> Tensor:
        """Logits (E, N, K)."""
        return self.logits(self.features(images))

    def decisions(self, features: Sequence[Tensor], logits: Tensor) -> Tensor:
        """Logits (E - 1, N) of the routers after expert 1, 2, …; above 0 means that the next expert is used."""
        so_far = running_mean(logits)
        pairs = zip(self.routers, features[:-1], so_far[:-1], strict=True)
        return torch.stack([router(x.float(), mean) for router, x, mean in pairs])


def linear_head(
    features: int, num_classes: int, scale: float | None, *, bias: bool = True
) -> nn.Linear | CosineClassifier:
    """A new linear classifier; normalized if a scale is given."""
    if scale is not None:
        return CosineClassifier(features, num_classes, scale)
    return nn.Linear(features, num_classes, bias=bias)


def split_backbone(encoder: Encoder) -> tuple[nn.Sequential, nn.Sequential]:
    """Split a ResNet into stem and early stages, and the last two stages with the pooling. Modules are not copied.

    Raises:
        InputError: If the encoder is not a ResNet with stages.
    """
    from timm.models.resnet import ResNet

    backbone = encoder.backbone
    if not isinstance(backbone, (ResNet, CifarResNet)):
        raise InputError(
            f"RIDE's experts need a ResNet (resnet18, resnet32, …), not {encoder.config.name!r}: give one, or "
            "--method balanced_softmax, which takes any"
        )
    parts = {name: module for name, module in backbone.named_children() if name != "fc"}
    stages = [name for name in parts if name.startswith("layer")]
    names = list(parts)
    border = names.index(stages[-OWN_STAGES])
    early, late = (nn.Sequential(*(parts[name] for name in chosen)) for chosen in (names[:border], names[border:]))
    return early, late


def copies(encoder: Encoder, number: int) -> list[Encoder]:
    """The encoder itself and copies of it."""
    return [encoder, *(copy.deepcopy(encoder) for _ in range(number - 1))]


def running_mean(logits: Tensor) -> Tensor:
    """Mean logits (E, N, K) of the first 1, 2, … experts."""
    asked = torch.arange(1, len(logits) + 1, device=logits.device, dtype=logits.dtype)
    return logits.cumsum(dim=0) / asked[:, None, None]


def router_targets(logits: Tensor, labels: Tensor) -> Tensor:
    """Images for which another expert helps: the mean of those so far is wrong, and a later one is right.

    Args:
        logits: (E, N, K).
        labels: (N,) class ids.

    Returns:
        (E - 1, N) of 0 and 1, for the decision after expert 1, 2, …
    """
    right = logits.argmax(dim=-1) == labels
    wrong_so_far = running_mean(logits).argmax(dim=-1) != labels
    later = torch.stack([right[asked:].any(dim=0) for asked in range(1, len(logits))])
    return (wrong_so_far[:-1] & later).to(logits.dtype)


def router_loss(decisions: Tensor, targets: Tensor, weight: float) -> Tensor:
    """Binary cross-entropy with weight ω_on for images that another expert helps (RIDE: Wang et al. 2021, sec. 3).

    `-(ω_on y log σ(r) + (1 - y) log(1 - σ(r)))`, as a weighted mean, so that a large ω_on does not cause large steps.

    Args:
        decisions: (E - 1, N) logits r.
        targets: (E - 1, N) y, 0 or 1.
        weight: ω_on.
    """
    weights = 1 + (weight - 1) * targets
    losses = F.binary_cross_entropy_with_logits(decisions, targets, reduction="none")
    return (weights * losses).sum() / weights.sum()


def route(logits: Tensor, decisions: Tensor) -> tuple[Tensor, Tensor]:
    """Mean logits of the experts that the routers select for each image, in order until a decision is not above 0.

    Args:
        logits: (E, N, K).
        decisions: (E - 1, N); above 0 selects the next expert.

    Returns:
        Mean logits (N, K) of the selected experts, and their number (N,).
    """
    asked = 1 + (decisions > 0).long().cumprod(dim=0).sum(dim=0)
    means = running_mean(logits)
    return means[asked - 1, torch.arange(logits.shape[1], device=logits.device)], asked
