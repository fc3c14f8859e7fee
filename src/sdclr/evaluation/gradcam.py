"""Grad-CAM: which parts of an image an encoder's score rests on (Selvaraju et al., ICCV 2017).

A score needs no classifier: `similarity_target` takes the likeness to a class's mean feature, for which a few labeled
images are enough; `logit_target` takes a linear probe's logit.
"""

import difflib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn import functional as F

from sdclr.errors import InputError
from sdclr.evaluation.probes import LinearClassifier
from sdclr.features.extract import checked_features, checked_labels, evaluating

Target = Callable[[Tensor], Tensor]
"""Scores `(N,)` of features `(N, D)`, differentiable."""


def gradcam(encoder: nn.Module, images: Tensor, target: Target, *, layer: str | None = None) -> Tensor:
    """Heat maps: where the layer's activations speak for the target.

    A channel's weight is the spatial mean of the score's gradient in it (eq. 1); the map is the weighted sum of the
    channels, negative values cut off (eq. 2), brought to the image's size by bilinear interpolation and divided by its
    maximum. An image in which nothing speaks for the target has a map of zeros.

    The encoder runs in eval mode, in which no image influences another's map. Its training mode and the gradients of
    its parameters stay as they were. Memory is that of one forward pass with gradients: give large sets in parts.

    Args:
        encoder: Maps images `(N, C, H, W)` to features `(N, D)`; or a pruned twin's `part("encoder")`.
        images: `(N, C, H, W)`, whatever the encoder takes.
        target: The scores to explain: one for each row of features, which depends on that row alone.
        layer: Dotted name of the module whose output is looked at; by default what `last_map` finds.

    Returns:
        `(N, H, W)` float32 in [0, 1], on the encoder's device.

    Raises:
        InputError: The encoder has no spatial map or no such layer, or the target gives no score for each image.
    """
    if images.ndim != 4 or not len(images):
        raise InputError(f"images must be (N, C, H, W) with at least one image, not {tuple(images.shape)}")
    with evaluating(encoder) as where, torch.enable_grad():
        images = images.to(where)
        name = layer if layer is not None else last_map(encoder, images[:1])
        with _watched(encoder, name) as seen:
            features = encoder(images)
        if not seen or seen[-1].ndim != 4:
            found = f"gives {tuple(seen[-1].shape)}" if seen else "gives no tensor"
            raise InputError(f"layer {name!r} {found}, not a map (N, C, h, w): name a convolutional one")
        maps = seen[-1]
        scores = target(features)
        if scores.shape != (len(images),) or not scores.requires_grad:
            raise InputError(f"the target gave {tuple(scores.shape)}: it must return a differentiable score per image")
        (slopes,) = torch.autograd.grad(scores.sum(), maps)
    with torch.no_grad():
        weights = slopes.float().mean(dim=(2, 3), keepdim=True)
        heat = F.relu((weights * maps.float()).sum(dim=1, keepdim=True))
        heat = F.interpolate(heat, size=images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
        peaks = heat.amax(dim=(1, 2), keepdim=True)
        return torch.where(peaks > 0, heat / torch.where(peaks > 0, peaks, 1.0), 0.0)


@torch.no_grad()
def last_map(encoder: nn.Module, images: Tensor, *, min_side: int = 2) -> str:
    """The module with the last spatial map `(N, C, h, w)` before pooling: of a ResNet, its last stage.

    Small images leave little of a map: one position tells nothing, and 2 x 2 hardly where. Smaller maps than asked for
    are passed over, so that a stage before the last may be taken.

    Args:
        encoder: The network; it is run once, in the mode that it is in.
        images: An image `(1, C, H, W)`.
        min_side: What both sides of the map must have, in positions.

    Returns:
        The module's dotted name in `encoder.named_modules()`.

    Raises:
        InputError: There is none, or what comes after it are tokens, as in vision transformers.
    """
    last: list[tuple[str, Tensor]] = []

    def note(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(_: nn.Module, __: object, output: object) -> None:
            if not isinstance(output, Tensor) or output.ndim < 3 or _positions(output) == 1:
                return
            if not _is_map(output, images) or min(output.shape[2:]) >= min_side:
                last[:] = [(name, output)]

        return hook

    handles = [module.register_forward_hook(note(name)) for name, module in encoder.named_modules()]
    try:
        encoder(images)
    finally:
        for handle in handles:
            handle.remove()
    if not last or not _is_map(last[0][1], images):
        found = f"but in {tuple(last[0][1].shape)} of {last[0][0]!r}" if last else f"of {min_side} x {min_side} or more"
        raise InputError(f"the encoder does not end in a map (N, C, h, w) {found}: name a convolutional `layer`")
    return last[0][0]


def class_prototypes(
    features: ArrayLike | Tensor, labels: ArrayLike | Tensor, num_classes: int, *, centred: bool = False
) -> Tensor:
    """Mean direction of each class: the mean of its normalized features, of length 1.

    Features that come out of a ReLU have most of their direction in common, whatever the class. `centred` takes that
    away: what is left is what a class has beyond the others, and a heat map for it tells more of the class.

    Args:
        features: `(N, D)`.
        labels: `(N,)` class ids in `[0, num_classes)`.
        num_classes: Number of classes K.
        centred: Give each prototype's difference from the mean of all of them.

    Returns:
        `(K, D)` float32; zeros for a class without images.

    Raises:
        InputError: Shapes or labels that do not fit.
    """
    x = F.normalize(checked_features(features, "features"))
    y = checked_labels(labels, "labels", count=len(x), num_classes=num_classes).to(x.device)
    sums = torch.zeros(num_classes, x.shape[1], device=x.device).index_add_(0, y, x)
    prototypes = F.normalize(sums)
    if centred:
        present = prototypes.any(dim=1)
        prototypes[present] -= prototypes[present].mean(dim=0)
    return prototypes


def similarity_target(prototypes: Tensor, labels: ArrayLike | Tensor) -> Target:
    """Cosine between an image's features and the prototype of its class.

    Behind global average pooling the weighted sum of such a score has mean 0 over the positions: its map shows what is
    more like the class than the image as a whole.

    Args:
        prototypes: `(K, D)`, as `class_prototypes` gives them.
        labels: `(N,)` class ids of the images.

    Raises:
        InputError: A label that is no class, or a class that has no prototype.
    """
    count = len(torch.as_tensor(labels))
    known = checked_labels(labels, "labels", count=count, num_classes=len(prototypes)).to(prototypes.device)
    wanted = prototypes[known]
    if not bool(wanted.any(dim=1).all()):
        absent = int(known[~wanted.any(dim=1)][0])
        raise InputError(f"class {absent} has no prototype: give at least one labeled image of it")
    return lambda features: F.cosine_similarity(features, wanted.to(features.device))


def logit_target(classifier: LinearClassifier, labels: ArrayLike | Tensor) -> Target:
    """A linear probe's logit of the image's class.

    Args:
        classifier: A probe trained on the encoder's features.
        labels: `(N,)` class ids of the images.

    Raises:
        InputError: A label that is no class of the probe.
    """
    count, classes = len(torch.as_tensor(labels)), len(classifier.bias)
    known = checked_labels(labels, "labels", count=count, num_classes=classes)
    weight, bias = classifier.weight[known], classifier.bias[known]
    return lambda features: (features * weight.to(features.device)).sum(dim=1) + bias.to(features.device)


@contextmanager
def _watched(encoder: nn.Module, name: str) -> Iterator[list[Tensor]]:
    """The outputs of a module, as leaves of the graph of all that comes after it."""
    modules = dict(encoder.named_modules())
    if name not in modules:
        near = difflib.get_close_matches(name, modules, n=4)
        hint = f"; did you mean {', '.join(near)}?" if near else "; `encoder.named_modules()` names them"
        raise InputError(f"the encoder has no layer {name!r}{hint}")
    seen: list[Tensor] = []

    def cut(_: nn.Module, __: object, output: object) -> Tensor | None:
        if not isinstance(output, Tensor):
            return None
        seen.append(output.detach().requires_grad_())
        return seen[-1].clone()  # what comes next may work in place, which no leaf allows

    handle = modules[name].register_forward_hook(cut)
    try:
        yield seen
    finally:
        handle.remove()


def _positions(output: Tensor) -> int:
    """How many positions there are at the least: 1 for a vector in whatever shape."""
    sides = sorted(output.shape[1:])
    return int(torch.Size(sides[:-1]).numel())


def _is_map(output: Tensor, images: Tensor) -> bool:
    """Whether an output is `(N, C, h, w)`: some transformers have `(N, h, w, C)`, whose last two sides do not fit."""
    if output.ndim != 4:
        return False
    height, width = images.shape[2:]
    return abs(output.shape[2] * width - output.shape[3] * height) <= max(height, width)  # rounded by strides
