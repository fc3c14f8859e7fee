"""Evaluation of an encoder by frequent and rare attributes, where an image has several labels.

Jiang et al. (ICML 2021, section 3.3) mention collections whose *attributes* are long-tailed. A linear layer on frozen
features predicts each attribute, and average precision measures the result. Many, Medium and Few are groups of
attributes by the number of images with the attribute in the encoder's training set.

A random ranking has an average precision equal to the attribute's share of the test images, its base rate. A rare
attribute therefore has a low one on a long-tailed test set, whatever the encoder. Base rates are reported too, and the
area under the ROC curve, which is 50 % at random for every attribute.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from sdclr.config import to_json
from sdclr.data.attributes import Attributes
from sdclr.data.sources import ImageSource, Source, attributes_of, open_source
from sdclr.errors import InputError
from sdclr.evaluation.attribute_probe import AttributeProbe, attribute_holdout, attribute_probe
from sdclr.evaluation.balance import NO_GROUPS, Balance, balance
from sdclr.evaluation.config import AttributeConfig
from sdclr.evaluation.evaluate import branch_encoder, described, without_nan
from sdclr.features.extract import extract_features
from sdclr.files import write_json
from sdclr.longtail.config import GroupRule
from sdclr.longtail.splits import class_groups
from sdclr.training.resolve import EncoderLike, resolve_encoder
from sdclr.training.run import Run
from sdclr.version import __version__

__all__ = [
    "AttributeConfig",
    "AttributeProbe",
    "AttributeResult",
    "AttributeScore",
    "attribute_balance",
    "attribute_groups",
    "attribute_holdout",
    "attribute_probe",
    "auroc",
    "average_precision",
    "evaluate_attributes",
]


@dataclass(frozen=True, kw_only=True)
class AttributeScore:
    """Results of one probe on the test images, in percent; nan for attributes that are untrained or untested."""

    balance: Balance
    """Average precision by group."""
    average_precision: list[float]
    """`(A,)` average precision of each attribute."""
    auroc_balance: Balance
    """Area under the ROC curve by group."""
    auroc: list[float]
    """`(A,)` area under the ROC curve of each attribute."""
    untrained: list[str]
    """Attributes that no training image of the probe has, or that all have."""
    details: dict[str, Any]
    """Number of images, and chosen penalties."""


@dataclass(frozen=True, kw_only=True)
class AttributeResult:
    """Results of an evaluation by attributes, and a description that allows to repeat it."""

    names: tuple[str, ...]
    """`(A,)` names of the attributes."""
    linear: AttributeScore
    few_shot: AttributeScore
    base_rate: Balance
    """Share of the test images with an attribute, in percent: the average precision of a random ranking."""
    description: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON, with null for unknown values."""
        scores = {
            kind: {
                "balance": score.balance._asdict(),
                "average_precision": score.average_precision,
                "auroc_balance": score.auroc_balance._asdict(),
                "auroc": score.auroc,
                "untrained": score.untrained,
                **score.details,
            }
            for kind, score in (("linear", self.linear), ("few_shot", self.few_shot))
        }
        plain: dict[str, Any] = without_nan(
            {"attributes": list(self.names), **scores, "base_rate": self.base_rate._asdict(), **self.description}
        )
        return plain


def attribute_groups(positive_counts: ArrayLike, *, rule: GroupRule = "thirds") -> dict[str, NDArray[np.int64]]:
    """Many, Medium and Few attributes by the number of training images with the attribute; see `class_groups`."""
    return class_groups(positive_counts, rule=rule)


def average_precision(scores: ArrayLike, values: ArrayLike) -> NDArray[np.float64]:
    """Average precision of each attribute over the images with a known value.

    Args:
        scores: (N, A), higher for likelier attributes.
        values: (N, A) 1 present, 0 absent, -1 unknown.

    Returns:
        (A,) in [0, 1]; nan if no image is known to have the attribute.
    """
    from sklearn.metrics import average_precision_score

    return _per_attribute(scores, values, average_precision_score, negatives=False)


def auroc(scores: ArrayLike, values: ArrayLike) -> NDArray[np.float64]:
    """Area under the ROC curve of each attribute. As in `average_precision`, but also nan if all images have it."""
    from sklearn.metrics import roc_auc_score

    return _per_attribute(scores, values, roc_auc_score, negatives=True)


def attribute_balance(
    per_attribute: ArrayLike, positive_counts: ArrayLike | None, *, rule: GroupRule = "thirds"
) -> Balance:
    """Many / Medium / Few / All and Std of a metric, grouped by the number of training images with each attribute.

    Args:
        per_attribute: (A,) average precision or another metric; nan is left out.
        positive_counts: (A,) images with each attribute in the encoder's training set.
        rule: Rule of the groups; see `class_groups`.

    Returns:
        The five values, in the unit of `per_attribute`; only `all` without counts, or if all counts are equal.

    Raises:
        InputError: If there is not one count per attribute.
    """
    figures = np.asarray(per_attribute, dtype=np.float64)
    if positive_counts is None:
        return balance(figures, NO_GROUPS)
    counts = np.asarray(positive_counts)
    if counts.shape != figures.shape:
        raise InputError(f"there are counts {counts.shape} for figures {figures.shape}: give one of each per attribute")
    return balance(figures, attribute_groups(counts, rule=rule) if len(np.unique(counts)) > 1 else NO_GROUPS)


def evaluate_attributes(
    train: ImageSource,
    test: ImageSource,
    config: AttributeConfig | None = None,
    *,
    encoder: EncoderLike = None,
    out: str | Path | None = None,
    attribute_counts: Mapping[str, int] | None = None,
    device: str | torch.device = "cpu",
    workers: int = 0,
) -> AttributeResult:
    """Probe a frozen encoder for each attribute and write `attributes.json` into the results of its run.

    Results of the sparse branch go to `attributes-sparse.json`.

    Args:
        train: Images with attributes (see `sdclr.data.sources.attributes_of`), for the probes.
        test: Test images with attributes of the same names.
        config: Settings of the evaluation; `AttributeConfig()` by default.
        encoder: A finished run or its folder, an exported folder, `timm:NAME`, a module (see `sdclr.load_encoder`); by
            default the pretrained encoder of `load_encoder()`.
        out: Folder for the results; by default `results` in the encoder's run. Without either nothing is written.
        attribute_counts: Images with each attribute, by name, in the encoder's training set, which define Many, Medium
            and Few; by default the counts that the run recorded, otherwise those of `train`.
        device: Device of the encoder.
        workers: Number of processes that decode images.

    Returns:
        The scores.

    Raises:
        InputError: If a source has no attributes, the sources share no attribute, or the run has no such branch.

    Examples:
        >>> result = sdclr.evaluate_attributes("train.csv", "test.csv", encoder="runs/digits")
        >>> result.names
        ('pointed', 'round', 'straight')
        >>> len(result.linear.average_precision)
        3
    """
    config = config or AttributeConfig()
    train, test = open_source(train), open_source(test)
    labeled, asked = _known(train), _known(test)
    if not set(labeled.names) & set(asked.names):
        raise InputError(f"{train.name} and {test.name} have no attribute in common: their names must match")
    names = labeled.names + tuple(name for name in asked.names if name not in labeled.names)
    resolved = resolve_encoder(encoder, train)
    counts, origin = _counts(resolved.run, labeled, names, attribute_counts)
    network = branch_encoder(resolved, config.branch)

    def encoded(source: Source, attributes: Attributes) -> _Encoded:
        found = extract_features(
            network,
            source,
            preprocessing=resolved.preprocessing,
            batch_size=config.batch_size,
            device=device,
            workers=workers,
        )
        values = attributes.named(names).take(found.kept).values
        known = (values >= 0).any(axis=1)
        return _Encoded(source, found.values[known], values[known], len(found.bad))

    fit, judge = encoded(train, labeled), encoded(test, asked)
    kept, held = attribute_holdout(fit.values, config.validation, config.seed)

    def score(sets: list[NDArray[np.int64]]) -> AttributeScore:
        x, values = fit.x, fit.values
        probes = [attribute_probe(x[part], values[part], x[held], values[held], config.logistic) for part in sets]
        return _score(probes, judge, names, counts=counts, rule=config.groups, images=len(sets[0]))

    shots = [
        kept[attribute_holdout(fit.values[kept], config.few_shot, config.seed + n)[1]] for n in range(config.draws)
    ]
    rates = _base_rates(judge.values)
    result = AttributeResult(
        names=names,
        linear=score([kept]),
        few_shot=score(shots),
        base_rate=attribute_balance(100 * rates, counts, rule=config.groups),
        description={
            "run": resolved.short_name,
            "branch": config.branch,
            "attribute_counts": dict(zip(names, counts.tolist(), strict=True)),
            "counted_in": origin,
            "base_rates": (100 * rates).tolist(),
            "untested": [name for name, rate in zip(names, rates, strict=True) if not rate > 0],
            "config": to_json(config),
            "train": described(fit.source, fit.bad),
            "test": described(judge.source, judge.bad),
            "sdclr": __version__,
            "torch": torch.__version__,
        },
    )
    file = "attributes.json" if config.branch == "dense" else f"attributes-{config.branch}.json"
    folder = resolved.results if out is None else Path(out)
    if folder is not None:
        write_json(folder / file, result.to_json())
    return result


class _Encoded(NamedTuple):
    """Images of a source with features `x` `(N, D)` and known attributes `values` `(N, A)`."""

    source: Source
    x: NDArray[np.float32]
    values: NDArray[np.int8]
    bad: int


def _base_rates(values: NDArray[np.int8]) -> NDArray[np.float64]:
    """Share of the images with each attribute, among those with a known value, `(A,)`; nan without such images."""
    known = (values >= 0).sum(axis=0)
    rates: NDArray[np.float64] = np.divide(
        (values == 1).sum(axis=0), known, out=np.full(values.shape[1], np.nan), where=known > 0
    )
    return rates


def _score(
    probes: list[AttributeProbe],
    judge: _Encoded,
    names: tuple[str, ...],
    *,
    counts: NDArray[np.int64],
    rule: GroupRule,
    images: int,
) -> AttributeScore:
    """Mean results of the probes, by attribute and by group."""

    def mean(figure: Callable[[ArrayLike, ArrayLike], NDArray[np.float64]]) -> NDArray[np.float64]:
        figures = [np.where(probe.trained, figure(probe.scores(judge.x), judge.values), np.nan) for probe in probes]
        average: NDArray[np.float64] = 100 * np.mean(figures, axis=0)
        return average

    precision, area = mean(average_precision), mean(auroc)
    trained = np.all([probe.trained for probe in probes], axis=0)
    return AttributeScore(
        balance=attribute_balance(precision, counts, rule=rule),
        average_precision=precision.tolist(),
        auroc_balance=attribute_balance(area, counts, rule=rule),
        auroc=area.tolist(),
        untrained=[name for name, known in zip(names, trained, strict=True) if not known],
        details={
            "images": images,
            "penalty": [probe.penalty.tolist() for probe in probes],
            "converged": all(probe.converged for probe in probes),
        },
    )


def _per_attribute(
    scores: ArrayLike, values: ArrayLike, figure: Callable[..., float], *, negatives: bool
) -> NDArray[np.float64]:
    """`figure(truth, scores)` of each attribute; nan if positive images, or required negative ones, are missing."""
    ranked, truth = np.asarray(scores), np.asarray(values)
    if ranked.shape != truth.shape or ranked.ndim != 2:
        raise InputError(f"scores {ranked.shape} and values {truth.shape} differ: give (images, attributes) of each")
    found = np.full(truth.shape[1], np.nan)
    for attribute, column in enumerate(truth.T):
        known = column >= 0
        if (column == 1).any() and ((column == 0).any() or not negatives):
            found[attribute] = figure(column[known], ranked[known, attribute])
    return found


def _known(source: Source) -> Attributes:
    attributes = attributes_of(source)
    if attributes is None or not (attributes.values >= 0).any():
        raise InputError(
            f"{source.name} has no attributes: give a table with a column `attributes`, or columns named attr:NAME"
        )
    return attributes


def _counts(
    run: Run | None, train: Attributes, names: tuple[str, ...], given: Mapping[str, int] | None
) -> tuple[NDArray[np.int64], str]:
    """Number of images with each attribute, 0 if not counted, and the origin of the counts."""
    recorded = None if run is None else run.source.get("attribute_counts")
    for counts, origin in ((given, "given"), (recorded, "run")):
        if counts:
            if not set(counts) & set(names):
                raise InputError(
                    f"the counts name no attribute of the images, only {', '.join(list(counts)[:3])}, …: give "
                    "attribute_counts by their names"
                )
            return np.array([counts.get(name, 0) for name in names], dtype=np.int64), origin
    return train.named(names).positive_counts(), "train"
