"""Grad-CAM: heat maps of the image regions that determine a score (Selvaraju et al., ICCV 2017).

A score does not need a classifier: `similarity_target` is the similarity to a class's mean feature, for which a few
labeled images are enough. `logit_target` is the logit of a linear probe.
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
    """Heat maps of the positions where the layer's activations increase the target.

    A channel's weight is the spatial mean of the score's gradient in it (eq. 1). The map is the weighted sum of the
    channels with negative values set to 0 (eq. 2), bilinearly interpolated to the image's size and divided by its
    maximum. If no position increases the target, the map is zero.

    The encoder runs in eval mode, so images do not influence each other's maps. Its training mode is restored, and the
    gradients of its parameters do not change. Memory is that of one forward pass with gradients: split large sets.

    Args:
        encoder: Maps images `(N, C, H, W)` to features `(N, D)`; or a pruned twin's `part("encoder")`.
        images: `(N, C, H, W)` input of the encoder.
        target: The scores to explain: one for each row of features, which depends on that row only.
        layer: Dotted name of the module whose output is used; by default the result of `last_map`.

    Returns:
        `(N, H, W)` float32 in [0, 1], on the encoder's device.

    Raises:
        InputError: If the encoder has no spatial map or no such layer, or the target does not give a differentiable
            score per image.
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
    """The module with the last spatial map `(N, C, h, w)` before pooling, such as the last stage of a ResNet.

    For small images the last map can be too small to localize anything. Maps below the minimum side are skipped, so
    that the result may be an earlier stage.

    Args:
        encoder: The network, which is run once in its current mode.
        images: An image `(1, C, H, W)`.
        min_side: Minimum of both sides of the map, in positions.

    Returns:
        The module's dotted name in `encoder.named_modules()`.

    Raises:
        InputError: If there is no such map, or tokens follow it, as in vision transformers.
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
    features: ArrayLike | Tensor, labels: ArrayLike | Tensor, num_classes: int, *, centered: bool = False
) -> Tensor:
    """Mean direction of each class: the mean of its normalized features, scaled to length 1.

    Features after a ReLU have similar directions in all classes. `centered` removes this common part, so that heat maps
    are more specific to the class.

    Args:
        features: `(N, D)`.
        labels: `(N,)` class ids in `[0, num_classes)`.
        num_classes: Number of classes K.
        centered: Subtract the mean of all prototypes from each.

    Returns:
        `(K, D)` float32; zeros for a class without images.

    Raises:
        InputError: If shapes or labels do not match.
    """
    x = F.normalize(checked_features(features, "features"))
    y = checked_labels(labels, "labels", count=len(x), num_classes=num_classes).to(x.device)
    sums = torch.zeros(num_classes, x.shape[1], device=x.device).index_add_(0, y, x)
    prototypes = F.normalize(sums)
    if centered:
        present = prototypes.any(dim=1)
        prototypes[present] -= prototypes[present].mean(dim=0)
    return prototypes


def similarity_target(prototypes: Tensor, labels: ArrayLike | Tensor) -> Target:
    """Cosine similarity between an image's features and the prototype of its class.

    After global average pooling, the weighted sum of channels for this score has mean 0 over the positions. Its map
    shows the positions that are more similar to the class than the whole image.

    Args:
        prototypes: `(K, D)`, from `class_prototypes`.
        labels: `(N,)` class ids of the images.

    Raises:
        InputError: If a label is not a class id, or a class has no prototype.
    """
    count = len(torch.as_tensor(labels))
    known = checked_labels(labels, "labels", count=count, num_classes=len(prototypes)).to(prototypes.device)
    wanted = prototypes[known]
    if not bool(wanted.any(dim=1).all()):
        absent = int(known[~wanted.any(dim=1)][0])
        raise InputError(f"class {absent} has no prototype: give at least one labeled image of it")
    return lambda features: F.cosine_similarity(features, wanted.to(features.device))


def logit_target(classifier: LinearClassifier, labels: ArrayLike | Tensor) -> Target:
    """A linear probe's logit for the image's class.

    Args:
        classifier: A probe trained on the encoder's features.
        labels: `(N,)` class ids of the images.

    Raises:
        InputError: If a label is not a class of the probe.
    """
    count, classes = len(torch.as_tensor(labels)), len(classifier.bias)
    known = checked_labels(labels, "labels", count=count, num_classes=classes)
    weight, bias = classifier.weight[known], classifier.bias[known]
    return lambda features: (features * weight.to(features.device)).sum(dim=1) + bias.to(features.device)


@contextmanager
def _watched(encoder: nn.Module, name: str) -> Iterator[list[Tensor]]:
    """Collect the outputs of a module, as leaves of the graph of the following modules."""
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
        return seen[-1].clone()  # the next module may work in place, which is not allowed on leaves

    handle = modules[name].register_forward_hook(cut)
    try:
        yield seen
    finally:
        handle.remove()


def _positions(output: Tensor) -> int:
    """Lower bound of the number of positions; 1 for a vector in any shape."""
    sides = sorted(output.shape[1:])
    return int(torch.Size(sides[:-1]).numel())


def _is_map(output: Tensor, images: Tensor) -> bool:
    """Whether an output is `(N, C, h, w)`, not `(N, h, w, C)` as in some transformers: compares the aspect ratio."""
    if output.ndim != 4:
        return False
    height, width = images.shape[2:]
    return abs(output.shape[2] * width - output.shape[3] * height) <= max(height, width)  # rounded by strides
