"""What an encoder is judged by, and how records and tables are written: shared by the experiments of this folder."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression
from torch import nn

from sdclr.data.sources import Source
from sdclr.encoders import Preprocessing
from sdclr.evaluation.balance import balance, per_class_accuracy
from sdclr.evaluation.logistic import logistic_probe
from sdclr.features.extract import extract_features
from sdclr.features.nearest import nearest
from sdclr.longtail.splits import class_groups
from sdclr.mining.kinds import find_kinds, kind_rarity

NEIGHBORS: Final = 10
RARE_CLASSES: Final = 3
DRAWS: Final = 5

Labeled = tuple[NDArray[np.float32], NDArray[np.int64]]


def features_of(encoder: nn.Module, source: Source, size: int) -> Labeled:
    """Features and labels of the images that can be read."""
    found = extract_features(encoder, source, preprocessing=Preprocessing(image_size=size))
    return found.values, np.asarray(source.labels)[found.kept]


def linear(train: Labeled, held: Labeled, test: Labeled, counts: NDArray[Any]) -> dict[str, float]:
    """Linear probe at its optimum: mean over classes, groups, and the accuracy on held-out labels."""
    classes = len(counts)
    layer = logistic_probe(*train, *held, classes)
    accuracy = 100 * per_class_accuracy(layer.predict(test[0]), test[1], classes)
    found = balance(accuracy, class_groups(counts))
    validation = 100 * per_class_accuracy(layer.predict(held[0]), held[1], classes)
    names = {"all": "All", "many": "Many", "medium": "Medium", "few": "Few", "std": "Std"}
    scores = {names.get(key, key): float(value) for key, value in found._asdict().items()}
    return scores | {"held": float(np.nanmean(validation))}


def few_shot(train: Labeled, test: Labeled, labels: int) -> float:
    """Mean accuracy over classes with so many labels a class, or all of a class that has fewer; mean of five draws."""
    (x, y), (judged, truth) = train, test
    classes, found = int(truth.max()) + 1, []
    for draw in range(DRAWS):
        rng = np.random.default_rng(draw)
        chosen = np.concatenate([rng.permutation(np.flatnonzero(y == label))[:labels] for label in range(classes)])
        model = LogisticRegression(C=0.01, max_iter=300).fit(x[chosen], y[chosen])
        found.append(100 * per_class_accuracy(model.predict(judged), truth, classes).mean())
    return float(np.mean(found))


def rare(features: NDArray[np.float32], labels: NDArray[np.int64], counts: NDArray[np.int64]) -> dict[str, float]:
    """AUROC of "belongs to one of the three smallest classes", by distance and as `sdclr mine` ranks."""
    wanted = np.isin(labels, np.argsort(counts, kind="stable")[:RARE_CLASSES])
    distance = nearest(torch.from_numpy(features), NEIGHBORS).distances.mean(dim=1).numpy()
    kinds = find_kinds(torch.from_numpy(features))
    return {"AUROC distance": area(distance, wanted), "AUROC mine": area(kind_rarity(kinds, distance), wanted)}


def area(scores: NDArray[Any], wanted: NDArray[np.bool_]) -> float:
    """Area under the ROC curve by ranks."""
    positive = int(wanted.sum())
    ranks = rankdata(scores)[wanted].sum()
    return float((ranks - positive * (positive + 1) / 2) / (positive * int((~wanted).sum())))


def records(file: Path) -> list[dict[str, Any]]:
    """The finished cells."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def append(file: Path, record: dict[str, Any]) -> None:
    """Add a finished cell, with the commit of the code."""
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    with file.open("a") as stream:
        stream.write(json.dumps(record | {"commit": found.stdout.strip()}) + "\n")
    print(json.dumps(record), flush=True)


def spread(values: Sequence[float], column: str, *, signed: bool = False) -> str:
    """Mean ± sample standard deviation."""
    digits, sign = 3 if "AUROC" in column else 1, "+" if signed else ""
    deviation = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):{sign}.{digits}f}{deviation}"
