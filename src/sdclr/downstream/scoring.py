"""Predictions of a trained classifier, and their accuracy by class and group."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sdclr.choices import Amp
from sdclr.data.sources import Source, SubsetSource
from sdclr.downstream.experts import Classifier, route
from sdclr.downstream.images import LabeledImages
from sdclr.downstream.losses import tau_normalized
from sdclr.downstream.methods import Model
from sdclr.encoders import Preprocessing
from sdclr.evaluation.balance import NO_GROUPS, Balance, balance, per_class_accuracy
from sdclr.evaluation.evaluate import Score
from sdclr.features.extract import extract_features
from sdclr.longtail.splits import class_groups
from sdclr.progress import stage

TAUS = tuple(tenth / 10 for tenth in range(11))
"""Candidates for the exponent of tau-norm."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """Settings of a classifier's input and execution."""

    image_size: int
    device: torch.device
    amp: Amp
    workers: int


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Predictions of a classifier for the readable labeled images of a source.

    Attributes:
        labels: (M,) true classes.
        classes: (M,) predicted classes; with experts, by the experts that the routers select.
        together: (M,) classes predicted by all experts together; equal to `classes` without experts.
        each: Classes predicted by each expert, (M,) each; empty without experts.
        asked: (M,) number of selected experts; None without experts.
    """

    labels: NDArray[np.int64]
    classes: NDArray[np.int64]
    together: NDArray[np.int64]
    each: list[NDArray[np.int64]]
    asked: NDArray[np.int64] | None


@stage("testing")
def predict(model: Model, source: Source, look: Look) -> Predictions:
    """Run a classifier on a source. Images without a label are left out."""
    values, labels = _outputs(_Flat(model), source, look)
    if isinstance(model, Classifier):
        classes = values.argmax(dim=1).numpy()
        return Predictions(labels=labels, classes=classes, together=classes, each=[], asked=None)
    experts = len(model.experts)
    logits = values[:, : 1 - experts].reshape(len(values), experts, -1).transpose(0, 1)
    routed, asked = route(logits, values[:, 1 - experts :].T)
    return Predictions(
        labels=labels,
        classes=routed.argmax(dim=1).numpy(),
        together=logits.mean(dim=0).argmax(dim=1).numpy(),
        each=[each.argmax(dim=1).numpy() for each in logits],
        asked=asked.numpy(),
    )


def score(
    predictions: Predictions, counts: NDArray[np.int64], rule: Literal["thirds", "shots"], details: dict[str, Any]
) -> Score:
    """Accuracy by class and group, in percent.

    Args:
        predictions: Predictions for the test images.
        counts: (K,) training images of each class, which define the groups; no groups if they are equal.
        rule: Rule of the groups.
        details: Further values for the result.
    """
    groups = class_groups(counts, rule=rule) if len(set(counts.tolist())) > 1 else NO_GROUPS

    def judged(predicted: NDArray[np.int64]) -> tuple[Balance, list[float]]:
        per_class = 100 * per_class_accuracy(predicted, predictions.labels, len(counts))
        return balance(per_class, groups), per_class.tolist()

    figures, per_class = judged(predictions.classes)
    if predictions.asked is not None:
        details = details | {
            "experts_asked": float(predictions.asked.mean()),
            "all_experts": judged(predictions.together)[0]._asdict(),
            "each_expert": [judged(each)[0].all for each in predictions.each],
        }
    return Score(figures, per_class, details)


def choose_tau(model: Classifier, held: LabeledImages, given: float | None, look: Look) -> dict[str, Any]:
    """Normalize a classifier's weights by the best exponent, in place.

    The best exponent has the highest mean accuracy over the classes of held-out images. The smallest wins a tie.

    Args:
        model: The classifier.
        held: Images that it was not trained on; not used if the exponent is given.
        given: The exponent, or None to choose it.
        look: Settings of the input.

    Returns:
        `tau`, and if it was chosen `tau_validation`: the accuracies in percent by exponent.
    """
    weight = model.head.weight
    details: dict[str, Any] = {"tau": given}
    if given is None:
        features, labels = _outputs(model.encoder, SubsetSource(held.source, held.positions), look)
        accuracies = {}
        for tau in TAUS:
            said = (features @ tau_normalized(weight.detach(), tau).cpu().T).argmax(dim=1).numpy()
            accuracies[tau] = 100 * float(np.nanmean(per_class_accuracy(said, labels, len(weight))))
        given = max(accuracies, key=lambda tau: accuracies[tau])
        details = {"tau": given, "tau_validation": {str(tau): value for tau, value in accuracies.items()}}
    with torch.no_grad():
        weight.copy_(tau_normalized(weight, given))
    return details


class _Flat(nn.Module):
    """A classifier with one output row per image: the logits of all experts, and the routers' decisions."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        if isinstance(self.model, Classifier):
            plain: Tensor = self.model(images)
            return plain.float()
        features = self.model.features(images)
        logits = self.model.logits(features)
        return torch.cat([logits.transpose(0, 1).flatten(1), self.model.decisions(features, logits).T.float()], dim=1)


def _outputs(network: nn.Module, source: Source, look: Look) -> tuple[Tensor, NDArray[np.int64]]:
    """Outputs of a network for the readable labeled images, one row per image on the CPU, and the labels."""
    found = extract_features(
        network,
        source,
        preprocessing=Preprocessing(image_size=look.image_size),
        device=look.device,
        amp=look.amp,
        workers=look.workers,
    )
    labels = np.asarray(source.labels)[found.kept]
    return torch.from_numpy(found.values[labels >= 0]), labels[labels >= 0]
