"""Evaluation of an encoder: probes on its frozen features, accuracy per class and group, and the spread of groups."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from sdclr.choices import Amp
from sdclr.config import to_json
from sdclr.data.sources import ImageSource, Source, SubsetSource, fingerprint, open_source
from sdclr.encoders import Preprocessing
from sdclr.errors import InputError
from sdclr.evaluation.balance import NO_GROUPS, Balance, balance, per_class_accuracy
from sdclr.evaluation.config import EvaluateConfig, ProbeConfig
from sdclr.evaluation.knn import knn_predict
from sdclr.evaluation.probes import Probe, linear_probe, linear_probe_augmented, stratified_holdout
from sdclr.features.extract import Features, extract_features, load_views, settled_amp
from sdclr.files import require_space, write_json
from sdclr.longtail.splits import class_groups
from sdclr.precision import autocast_dtype
from sdclr.training.resolve import EncoderLike, ResolvedEncoder, resolve_encoder
from sdclr.version import __version__


@dataclass(frozen=True)
class Score:
    """One classifier's accuracy on the test images, in percent."""

    balance: Balance
    """Accuracy by group; without class counts, only `all` is known."""
    per_class: list[float]
    """`(K,)` accuracy of each class; nan without test images."""
    details: dict[str, Any]
    """Learning rate and epoch of a probe, or neighbors of kNN."""

    @property
    def std_classes(self) -> float:
        """Population standard deviation over the classes with test images: the paper's Std for balanced sets."""
        known = np.array([accuracy for accuracy in self.per_class if not math.isnan(accuracy)])
        return float(known.std()) if known.size else math.nan


@dataclass(frozen=True)
class Result:
    """Results of an evaluation, and a description that allows to repeat it."""

    linear: Score
    few_shot: Score
    knn: Score
    description: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON, with null for unknown values."""
        scores = {
            name: {
                "balance": score.balance._asdict(),
                "per_class": score.per_class,
                "std_classes": score.std_classes,
                **score.details,
            }
            for name, score in (("linear", self.linear), ("few_shot", self.few_shot), ("knn", self.knn))
        }
        plain: dict[str, Any] = without_nan({**scores, **self.description})
        return plain


def evaluate(
    train: ImageSource,
    test: ImageSource,
    config: EvaluateConfig | None = None,
    *,
    encoder: EncoderLike = None,
    out: str | Path | None = None,
    class_counts: ArrayLike | None = None,
    validation: ImageSource | None = None,
    few_shot: ImageSource | None = None,
    device: str | torch.device = "cpu",
    workers: int = 0,
    amp: Amp = "none",
) -> Result:
    """Probe a frozen encoder (Jiang et al., ICML 2021, §4.2) and write `BRANCH.json` into the results of its run.

    The classifiers are a linear probe on all labeled images, a few-shot probe on about one percent of them, and kNN.
    Probes choose learning rate and epoch on images held out from `train`. Accuracies are measured on `test`.

    Args:
        train: Labeled images, balanced in the paper's protocol.
        test: Labeled images of the same classes.
        config: The protocol; `EvaluateConfig()` by default.
        encoder: A finished run or its folder, an exported folder, `timm:NAME`, a module (see `sdclr.load_encoder`); by
            default the pretrained encoder of `load_encoder()`.
        out: Folder for `BRANCH.json`; by default `results` in the encoder's run. Without a run and without `out`
            nothing is written.
        class_counts: Training images of the encoder per class, which define Many, Medium and Few; by default the counts
            that the run recorded. Without them, only the mean over classes is reported.
        validation: Labeled images for the choice of learning rate and epoch; by default some are held out from `train`.
        few_shot: The labeled images of the few-shot probe; by default drawn from `train`.
        device: Device of the encoder.
        workers: Number of processes that decode images.
        amp: Precision of the encoder; `auto` uses bfloat16 if it is clearly faster (as timed on a CPU). With `augment`
            it applies to the test images only, and probes are trained on float32 features.

    Returns:
        The scores.

    Raises:
        InputError: If a source has no labels, classes do not match, the run has no such branch, or a few-shot set is
            given together with `shots` or `draws`.
        StorageError: If the folder cannot be written.

    Examples:
        >>> result = sdclr.evaluate("digits", "digits:test", sdclr.EvaluateConfig(shots=2), encoder="runs/digits")
        >>> len(result.linear.per_class)
        10
        >>> result.few_shot.balance.all > 10  # percent, better than chance
        True
    """
    config = config or EvaluateConfig()
    if few_shot is not None and (config.shots is not None or config.draws > 1):
        raise InputError("the few-shot set is given: leave out shots and draws, which draw one")
    given = {"train": train, "test": test, "validation": validation, "few_shot_set": few_shot}
    sources = {name: open_source(source) for name, source in given.items() if source is not None}
    _check_sources(*sources.values())
    resolved = resolve_encoder(encoder, sources["train"])
    folder = resolved.results if out is None else Path(out)
    if folder is not None:
        require_space(folder, 0)
    network, preprocessing = branch_encoder(resolved, config.branch), resolved.preprocessing
    amp = settled_amp(amp, network, preprocessing.image_size, device)
    seen = {
        name: _labeled(
            extract_features(
                network,
                source,
                preprocessing=preprocessing,
                batch_size=config.batch_size,
                device=device,
                workers=workers,
                amp=amp,
            ),
            source,
        )
        for name, source in sources.items()
    }
    judge = seen["test"]
    classes = max(len(sources["train"].classes), *(int(labeled.y.max()) + 1 for labeled in seen.values()))
    known = None if resolved.run is None else resolved.run.source.get("class_counts")
    counts = known if class_counts is None else np.asarray(class_counts).tolist()
    groups = _groups(counts, classes, config)

    def score(predictions: list[NDArray[np.int64]], details: dict[str, Any]) -> Score:
        per_class = 100 * np.mean([per_class_accuracy(p, judge.y, classes) for p in predictions], axis=0)
        return Score(balance(per_class, groups or NO_GROUPS), per_class.tolist(), details)

    taught, held = _taught_and_held(seen, config)
    probe = _augmented(network, held, classes, preprocessing, workers) if config.augment else _cached(held, classes)
    full = probe(taught, config.linear)
    shots, sets = _few_shot_sets(seen, taught, config, classes)
    few = [probe(chosen, config.few_shot) for chosen in sets]
    voted = knn_predict(taught.x, taught.y, judge.x, classes, k=config.k)
    result = Result(
        linear=score([full.predict(judge.x)], _details([full]) | {"images": len(taught.y)}),
        few_shot=score([p.predict(judge.x) for p in few], _details(few) | {"images": len(sets[0].y), "shots": shots}),
        knn=score([voted], {"k": min(config.k, len(taught.y)), "images": len(taught.y)}),
        description={
            "run": resolved.short_name,
            "branch": config.branch,
            "groups": {name: ids.tolist() for name, ids in groups.items()} if groups else None,
            "class_counts": counts,
            "config": to_json(config),
            "precision": str(autocast_dtype(amp, torch.device(device)) or torch.float32).removeprefix("torch."),
            **{name: described(labeled.source, labeled.bad) for name, labeled in seen.items()},
            "sdclr": __version__,
            "torch": torch.__version__,
        },
    )
    if folder is not None:
        write_json(folder / f"{config.branch}.json", result.to_json())
    return result


def branch_encoder(resolved: ResolvedEncoder, branch: Literal["dense", "sparse"]) -> nn.Module:
    """The encoder (dense), or the encoder of the run's self-competitor (sparse).

    Raises:
        InputError: If there is no such branch.
    """
    if branch == "dense":
        return resolved.encoder
    run = resolved.require_run("the sparse branch")
    objective = run.objective()
    if objective.competitor is None:
        raise InputError(f"{run.path} was trained without damage: it has a dense branch only")
    return objective.competitor.part("encoder")


def draw_shots(labels: NDArray[np.int64], shots: int, seed: int) -> NDArray[np.int64]:
    """Positions of `shots` random images of each class, or of all images of a smaller class."""
    generator = np.random.default_rng(seed)
    chosen = [generator.permutation(np.flatnonzero(labels == label))[:shots] for label in np.unique(labels)]
    return np.sort(np.concatenate(chosen))


@dataclass(frozen=True)
class _Labeled:
    """Images of a source with features `x` `(N, D)`, labels `y` `(N,)` and positions in the source."""

    source: Source
    x: NDArray[np.float32]
    y: NDArray[np.int64]
    positions: NDArray[np.int64]
    bad: int

    def part(self, chosen: NDArray[np.int64]) -> "_Labeled":
        """Some of its rows."""
        return _Labeled(self.source, self.x[chosen], self.y[chosen], self.positions[chosen], self.bad)


def _labeled(features: Features, source: Source) -> _Labeled:
    labels = np.asarray(source.labels)[features.kept]
    known = labels >= 0
    if not known.any():
        raise InputError(f"none of the images of {source.name} has a label")
    return _Labeled(source, features.values[known], labels[known], features.kept[known], len(features.bad))


def _check_sources(train: Source, *others: Source) -> None:
    for source in (train, *others):
        if source.labels is None:
            raise InputError(
                f"{source.name} has no labels: probes need labeled images (class folders or a label column)"
            )
        if train.classes and source.classes and tuple(train.classes) != tuple(source.classes):
            raise InputError(
                f"{train.name} and {source.name} have different classes: their folders or class names must match"
            )


def _taught_and_held(seen: dict[str, _Labeled], config: EvaluateConfig) -> tuple[_Labeled, _Labeled]:
    """Training set of the probes, and validation set for the choice of learning rate and epoch."""
    fit = seen["train"]
    if "validation" in seen:
        return fit, seen["validation"]
    kept, held = stratified_holdout(fit.y, config.validation, config.seed)
    return fit.part(kept), fit.part(held)


def _few_shot_sets(
    seen: dict[str, _Labeled], taught: _Labeled, config: EvaluateConfig, classes: int
) -> tuple[int, list[_Labeled]]:
    """Maximum number of labeled images per class, and the few-shot sets."""
    if "few_shot_set" in seen:
        return int(np.bincount(seen["few_shot_set"].y).max()), [seen["few_shot_set"]]
    shots = config.shots or max(1, round(0.01 * len(taught.y) / classes))
    return shots, [taught.part(draw_shots(taught.y, shots, config.seed + draw)) for draw in range(config.draws)]


_Prober = Callable[[_Labeled, ProbeConfig], Probe]
"""Trains a probe on labeled images, with the held-out images for validation."""


def _cached(held: _Labeled, classes: int) -> _Prober:
    def probe(chosen: _Labeled, protocol: ProbeConfig) -> Probe:
        return linear_probe(chosen.x, chosen.y, held.x, held.y, classes, protocol)

    return probe


def _augmented(encoder: nn.Module, held: _Labeled, classes: int, preprocessing: Preprocessing, workers: int) -> _Prober:
    def views(labeled: _Labeled) -> Tensor:
        source = SubsetSource(labeled.source, labeled.positions)
        return load_views(source, preprocessing=preprocessing, workers=workers).images

    judged = views(held)

    def probe(chosen: _Labeled, protocol: ProbeConfig) -> Probe:
        pad = preprocessing.image_size // 8  # 4 px of 32, as in the paper
        return linear_probe_augmented(encoder, views(chosen), chosen.y, judged, held.y, classes, protocol, pad=pad)

    return probe


def _groups(counts: list[int] | None, classes: int, config: EvaluateConfig) -> dict[str, NDArray[np.int64]] | None:
    if counts is None or len(set(counts)) < 2:
        return None  # no frequent and rare classes
    if len(counts) != classes:
        raise InputError(f"there are {len(counts)} class counts but {classes} classes: give one count for each class")
    return class_groups(counts, rule=config.groups)


def _details(probes: list[Probe]) -> dict[str, Any]:
    return {
        "learning_rate": [probe.learning_rate for probe in probes],
        "epoch": [probe.epoch for probe in probes],
        "validation_accuracy": [probe.validation_accuracy for probe in probes],
        "edge_of_grid": [probe.edge for probe in probes],
    }


def described(source: Source, bad: int) -> dict[str, Any]:
    """Images in the results of an evaluation, with the number of unreadable ones."""
    return {"name": source.name, "images": len(source), "bad_images": bad, "fingerprint": fingerprint(source)}


def without_nan(value: Any) -> Any:
    """Plain JSON with null instead of nan."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
