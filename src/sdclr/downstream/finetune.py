"""Train a classifier on labeled long-tailed images, from a pretrained encoder or from scratch, and test it.

Jiang et al., *Self-Damaging Contrastive Learning* (ICML 2021), section 4.5, train RIDE from pretrained encoders.
"""

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdclr.choices import Amp
from sdclr.config import differences, from_json, to_json
from sdclr.data.changes import file_states, warn_of_changes
from sdclr.data.intensities import intensities_of, with_intensities
from sdclr.data.sources import ImageSource, Source, fingerprint, open_source
from sdclr.data.stored import CACHE_GB
from sdclr.downstream.budget import as_begun, choose_length
from sdclr.downstream.config import FinetuneConfig
from sdclr.downstream.experts import Classifier, split_backbone
from sdclr.downstream.images import Batches, LabeledImages, known_labels, labeled_images
from sdclr.downstream.loop import Trainer, seed_torch
from sdclr.downstream.machine import settle_dtype
from sdclr.downstream.methods import create_model, stages
from sdclr.downstream.scoring import Look, choose_tau, predict, score
from sdclr.encoders import Encoder
from sdclr.encoders.digest import network_digest
from sdclr.errors import InputError
from sdclr.evaluation.balance import Balance
from sdclr.evaluation.evaluate import Score, without_nan
from sdclr.evaluation.probes import stratified_holdout
from sdclr.files import parsing, read_json, write_json
from sdclr.files.alone import only_process
from sdclr.intensities import Intensities
from sdclr.progress import tell
from sdclr.time_budget import Budget
from sdclr.training.distributed import resolve_device
from sdclr.training.interrupts import listening
from sdclr.training.randomness import own_randomness
from sdclr.training.resolve import EncoderLike, ResolvedEncoder, resolve_encoder
from sdclr.version import __version__
from sdclr.views.config import ViewConfig

LARGE_SIZE = 224
"""Side of the views of large images from scratch, in pixels."""


@dataclass(frozen=True)
class FinetuneResult:
    """Test results of a classifier, and a description that allows to repeat the training."""

    score: Score
    """Accuracy by group; with RIDE, for the experts that the routers select. The details contain results of the method:
    `tau`; or the mean number of selected experts, the balance of all experts together, and the accuracy of each."""
    description: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON, with null for unknown values."""
        score = self.score
        plain: dict[str, Any] = without_nan(
            {
                "balance": score.balance._asdict(),
                "per_class": score.per_class,
                "details": score.details,
                **self.description,
            }
        )
        return plain

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "FinetuneResult":
        """The inverse of `to_json`; null accuracies become nan."""
        rest = {key: value for key, value in values.items() if key not in {"balance", "per_class", "details"}}
        per_class = [float("nan") if value is None else value for value in values["per_class"]]
        return cls(Score(Balance.from_json(values["balance"]), per_class, values["details"]), rest)


def finetune(
    train: ImageSource,
    test: ImageSource,
    config: FinetuneConfig | None = None,
    *,
    start: EncoderLike = None,
    out: Path | str,
    device: str | torch.device = "cpu",
    workers: int = 0,
    amp: Amp = "auto",
    checkpoint_minutes: float = 5.0,
    minutes: float | Budget | None = None,
    cache_gb: float = CACHE_GB,
) -> FinetuneResult:
    """Train a classifier, test it, and write `result.json` into `out`. A repeated call resumes, or reads the result.

    Args:
        train: Labeled long-tailed images; their class counts determine weights, margins, and Many, Medium and Few.
        test: Labeled images of the same classes, balanced.
        config: The method; `FinetuneConfig()` by default, which is balanced softmax.
        start: Initial weights, with the encoder's input size and normalization: "scratch" for random weights, or an
            encoder by any of its names (see `sdclr.load_encoder`); by default the default pretrained encoder.
        out: Folder for checkpoints, metrics and the result.
        device: Device of the training.
        workers: Number of processes that decode images.
        amp: Mixed precision: `bf16`, `none`, or `auto`. With `auto` a new training uses bf16 if it is clearly faster
            (as timed on a CPU), and a resumed one keeps its precision.
        checkpoint_minutes: Maximum number of minutes between checkpoints; 0 saves at every step.
        minutes: Time budget in minutes, including the test: measures the speed and chooses the numbers of epochs,
            instead of those in `config`. The folder stores the choice, so that a resumed training is the same.
        cache_gb: Disk space in GB for decoded large images; 0 decodes them in every epoch.

    Returns:
        The score on the test images.

    Raises:
        InputError: If images, labels or configuration cannot be used, or the folder holds another training.
        FloatingPointError: If the loss is not finite.
        Interrupted: On Ctrl-C or SIGTERM, after the state is saved.

    Examples:
        >>> config = sdclr.FinetuneConfig(method="ce", epochs=1)
        >>> result = sdclr.finetune("digits", "digits:test", config, start="runs/digits", out="runs/classifier")
        >>> len(result.score.per_class)  # accuracy of each of the ten digits
        10
    """
    limit, out = Budget.of(minutes), Path(out)
    config = as_begun(out, config or FinetuneConfig(), limit)
    if amp == "fp16":
        raise InputError("fine-tuning has no loss scaling for fp16: give bf16, none or auto")
    train_set, test_set = open_source(train), open_source(test)
    num_classes = _num_classes(train_set, test_set)
    resolved = None if start == "scratch" else resolve_encoder(start, train_set)
    initial = None if resolved is None else resolved.encoder
    seen = _intensities(out, resolved, train_set)
    train_set, test_set = with_intensities(train_set, seen), with_intensities(test_set, seen)
    if initial is not None and config.method == "ride":
        split_backbone(initial)  # raises an error for other networks before images are read
    identity = _identity(config, resolved, train_set, test_set)
    finished = _claimed(out, identity)
    if finished is not None:
        return finished
    begun = (out / "config.json").exists()
    place = resolve_device(str(device))
    alone = only_process(out, ".training", "trains", "name another folder with --out")
    with alone, own_randomness(place), listening() as interrupts:
        warn_of_changes(out / "image_files.npy", train_set, file_states(train_set), begun=begun)
        images = labeled_images(train_set, device=place, workers=workers, listed_in=out / "bad_images.csv")
        look = Look(image_size=_image_size(config, initial, images), device=place, amp=amp, workers=workers)
        fit, held = _held_out(images, config)
        how: dict[str, Any] = {"out": out, "checkpoint_minutes": checkpoint_minutes, "cache_gb": cache_gb}
        if limit and not begun:
            rehearsed = _trainer(config, copy.deepcopy(initial), fit, look, num_classes, **how)
            config = choose_length(rehearsed, config, limit, len(test_set))
            identity = _identity(config, resolved, train_set, test_set)
            del rehearsed  # frees its memory
        trainer = _trainer(config, initial, fit, look, num_classes, **how)
        write_json(out / "config.json", identity)  # this file marks the folder as the training's
        trainer.train(interrupts)
        model, details = trainer.model, {"images": len(fit)}
        if isinstance(model, Classifier) and config.method == "tau_norm":
            details |= choose_tau(model, held, config.tau, look)
        predictions = predict(model, test_set, look)
    counts = np.bincount(images.labels, minlength=num_classes)
    description = {
        **identity,
        "class_counts": counts.tolist(),
        "image_size": look.image_size,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "test_images": len(predictions.labels),
        "seconds": round(trainer.seconds, 1),
        "sdclr": __version__,
        "torch": torch.__version__,
    }
    result = FinetuneResult(score(predictions, counts, config.groups, details), description)
    write_json(out / "result.json", result.to_json())
    return result


def _trainer(
    config: FinetuneConfig,
    encoder: Encoder | None,
    images: LabeledImages,
    look: Look,
    num_classes: int,
    *,
    out: Path,
    checkpoint_minutes: float,
    cache_gb: float,
) -> Trainer:
    views = ViewConfig(
        image_size=look.image_size, crop_scale=config.crop_scale, flip=config.flip, jitter=0, gray=0, blur=0
    )
    if 2 <= len(images) < config.batch_size:
        tell(f"batches of {len(images)} images instead of {config.batch_size}: there are no more")
        config = replace(config, batch_size=len(images))
    seed_torch(config.seed, "weights", look.device)
    model = create_model(config, encoder, look.image_size, num_classes)
    model = model.to(look.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    todo = stages(config, np.bincount(images.labels, minlength=num_classes))
    return Trainer(
        model,
        todo,
        Batches(images, views, config.seed, config.batch_size, look.device, look.workers, cache_gb),
        config,
        folder=out,
        dtype=settle_dtype(model, todo[0], look, batch=config.batch_size, folder=out),
        checkpoint_minutes=checkpoint_minutes,
    )


def _intensities(out: Path, init: ResolvedEncoder | None, train: Source) -> Intensities:
    """Intensity range of the images: from an existing training, from the initial encoder, or from the images."""
    seen, given = intensities_of(train)
    if (out / "config.json").exists() and not given:
        kept = read_json(out / "config.json", keys={"config": dict}).get("intensities")
        if isinstance(kept, dict):
            return from_json(Intensities, kept).over(seen)
    return seen if init is None or init.intensities is None else init.intensities


def _num_classes(train: Source, test: Source) -> int:
    """Number of classes of the training images, after a check that the test images have the same."""
    number = max(len(train.classes), int(known_labels(train).max()) + 1)
    beyond = int(known_labels(test).max())
    if (train.classes and test.classes and tuple(train.classes) != tuple(test.classes)) or beyond >= number:
        raise InputError(
            f"{train.name} and {test.name} have different classes: their folders or class names must match"
        )
    return number


def _identity(config: FinetuneConfig, init: ResolvedEncoder | None, train: Source, test: Source) -> dict[str, Any]:
    """Everything that determines a result: initial weights, images and configuration."""
    start = None
    if init is not None:
        start = {"run": init.short_name, "encoder": network_digest(init.encoder)}
    images = {
        part: {"name": source.name, "images": len(source), "fingerprint": fingerprint(source)}
        for part, source in (("train", train), ("test", test))
    }
    seen = intensities_of(train)[0]
    ranged = {"intensities": to_json(seen)} if seen else {}
    return {"method": config.method, "init": start, **images, **ranged, "config": to_json(config)}


def _claimed(out: Path, identity: dict[str, Any]) -> FinetuneResult | None:
    """The result in a folder, if there is one.

    Raises:
        InputError: If the folder holds another training.
    """
    if not (out / "config.json").exists():
        return None
    before = read_json(out / "config.json", keys={"config": dict})
    changed = [key for key in identity if key != "config" and before.get(key) != identity[key]]
    with parsing(out / "config.json"):
        old = from_json(FinetuneConfig, before["config"])
    changed += differences(old, from_json(FinetuneConfig, identity["config"]))
    if changed:
        raise InputError(
            f"{out} holds a training with other settings or images ({'; '.join(changed)}): name another folder"
        )
    result = out / "result.json"
    if not result.exists():
        return None
    with parsing(result, "remove it, and run `sdclr finetune` again"):
        return FinetuneResult.from_json(read_json(result))


def _image_size(config: FinetuneConfig, encoder: Encoder | None, images: LabeledImages) -> int:
    if encoder is not None:
        if config.image_size not in {None, encoder.image_size}:
            raise InputError(
                f"image_size is {config.image_size}, but the encoder was made for {encoder.image_size} px: leave it out"
            )
        return encoder.image_size
    if config.image_size is not None:
        return config.image_size
    return LARGE_SIZE if images.pixels is None else int(images.pixels.shape[-1])


def _held_out(images: LabeledImages, config: FinetuneConfig) -> tuple[LabeledImages, LabeledImages]:
    """Training images, and images for the choice of tau."""
    if config.method != "tau_norm" or config.tau is not None:
        return images, images.subset(np.array([], dtype=np.int64))
    kept, held = stratified_holdout(images.labels, config.validation, config.seed)
    return images.subset(kept), images.subset(held)
