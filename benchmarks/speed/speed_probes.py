"""Linear probes and kNN on cached features: time and accuracy, against scikit-learn.

    python benchmarks/speed/speed_probes.py [--data DIR] [--quick] [--threads 2]

prints Markdown. The features come from one layer of random patches on CIFAR-10, which takes seconds; without `--data`
they are synthetic. They have the number, the correlation and about the difficulty of an encoder's features.
"""

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn import functional as F

from sdclr.data.scan import load_images
from sdclr.data.sources import SubsetSource, open_source
from sdclr.evaluation.config import LINEAR, LOGISTIC, LogisticConfig
from sdclr.evaluation.knn import knn_predict
from sdclr.evaluation.logistic import logistic_probe
from sdclr.evaluation.probes import linear_probe
from speed_harness import Candidate, Comparison, Effort, Findings, Table, Target, compare

LBFGS, SGD = "sdclr, L-BFGS", "sdclr, SGD protocol"
ONE, SKLEARN_ONE = "sdclr, L-BFGS, one penalty", "scikit-learn LogisticRegression, one penalty"
KNN, SKLEARN_KNN = "sdclr knn_predict", "scikit-learn KNeighborsClassifier"

PATCH, STRIDE, POOL = 6, 2, 7
NEIGHBORS, TEMPERATURE = 200, 0.1


@dataclass(frozen=True, kw_only=True)
class ProbeSize:
    """Numbers of images, features and classes."""

    images: int = 50_000
    held: int = 2_000
    """Held-out images for choosing rate, epoch and penalty."""
    test: int = 8_000
    width: int = 512
    classes: int = 10

    def __str__(self) -> str:
        return f"{self.images:,} images of {self.width} features, {self.classes} classes"


class Features(NamedTuple):
    """Features (N, D) float32 and class ids (N,) of three sets, and the name of the images."""

    train: tuple[NDArray[np.float32], NDArray[np.int64]]
    held: tuple[NDArray[np.float32], NDArray[np.int64]]
    test: tuple[NDArray[np.float32], NDArray[np.int64]]
    of: str


@dataclass(frozen=True, kw_only=True)
class ProbePlan:
    """Sizes and durations of the measurements."""

    probes: tuple[tuple[ProbeSize, Effort, bool], ...]
    """Sizes, efforts, and whether scikit-learn is compared."""
    knn: tuple[tuple[ProbeSize, Effort, bool], ...]


def thorough() -> ProbePlan:
    return ProbePlan(
        probes=(
            (ProbeSize(), Effort(rounds=3, seconds=90, warmup=0), False),
            (ProbeSize(classes=100), Effort(rounds=1, seconds=0, warmup=0), False),
            # scikit-learn takes minutes at full size.
            (ProbeSize(images=10_000, width=256), Effort(rounds=3, seconds=60, warmup=0), True),
        ),
        knn=((ProbeSize(test=10_000, held=0), Effort(rounds=3, seconds=60, warmup=0), True),),
    )


def quick() -> ProbePlan:
    small = ProbeSize(images=10_000, held=1_000, test=2_000, width=256)
    return ProbePlan(
        probes=((small, Effort(rounds=3, seconds=10, warmup=0), True),),
        knn=((small, Effort(rounds=3, seconds=5, warmup=0), True),),
    )


def make_features(size: ProbeSize, data: Path | None) -> Features:
    """Features of one size. More than ten classes are made by splitting each class."""
    total = size.images + size.held + size.test
    x, y = _made(total, size.width) if data is None else _of_cifar10(data, size)
    if size.classes != 10:
        y = _split(x, y, size.classes)
    ends = (0, size.images, size.images + size.held, total)
    parts = [(x[low:high].numpy(), y[low:high].numpy()) for low, high in itertools.pairwise(ends)]
    return Features(*parts, of="made-up images" if data is None else "CIFAR-10")


def _of_cifar10(data: Path, size: ProbeSize) -> tuple[Tensor, Tensor]:
    """Training images first, then held and test images from the test split."""
    generator = torch.Generator().manual_seed(0)
    images, labels = [], []
    for split, count in (("train", size.images), ("test", size.held + size.test)):
        source = open_source(data, split=split)
        chosen = torch.randperm(len(source), generator=generator)[:count].numpy()  # files may be sorted by class
        images.append(load_images(SubsetSource(source, chosen, name=split)).images)
        labels.append(torch.as_tensor(np.asarray(source.labels)[chosen]))
    return patch_features(torch.cat(images), size.width, generator=generator), torch.cat(labels)


def patch_features(images: Tensor, width: int, *, generator: torch.Generator) -> Tensor:
    """Rectified responses to whitened random patches of the first images, with both signs, pooled in quadrants.

    After Coates, Ng & Lee, *An analysis of single-layer networks in unsupervised feature learning*, AISTATS 2011.

    Args:
        images: (N, 3, 32, 32) uint8.
        width: Number of features D, a multiple of 8.
        generator: Chooses the patches.

    Returns:
        (N, D) float32.
    """
    patches = F.unfold(_equalised(images[:500]), PATCH, stride=STRIDE).transpose(1, 2).flatten(0, 1)
    mean = patches.mean(dim=0)
    values, vectors = torch.linalg.eigh(torch.cov(patches.T))
    whiten = vectors @ torch.diag((values + 0.1).rsqrt()) @ vectors.T
    chosen = patches[torch.randperm(len(patches), generator=generator)[: width // 8]]
    filters = F.normalize((chosen - mean) @ whiten) @ whiten
    rows = []
    for part in torch.split(images, 500):
        responses = F.conv2d(_equalised(part), filters.view(-1, 3, PATCH, PATCH), -filters @ mean, stride=STRIDE)
        either = torch.cat([F.relu(responses - 0.25), F.relu(-responses - 0.25)], dim=1)
        rows.append(F.avg_pool2d(either, POOL).flatten(1))
    return torch.cat(rows)


def _equalised(images: Tensor) -> Tensor:
    floats = images.float()
    deviation, mean = torch.std_mean(floats, dim=(1, 2, 3), keepdim=True)
    return (floats - mean) / (deviation + 10)


def _made(count: int, width: int) -> tuple[Tensor, Tensor]:
    """Rectified random mixtures of 64 factors; the class shifts 16 of them."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(10, (count,), generator=generator)
    factors = torch.randn(count, 64, generator=generator)
    factors[:, :16] += 0.55 * torch.randn(10, 16, generator=generator)[y]
    mixing = torch.randn(64, width, generator=generator) * torch.logspace(0, -1, 64)[:, None]
    return F.relu(factors @ mixing + 0.3 * torch.randn(count, width, generator=generator)), y


def _split(x: Tensor, y: Tensor, classes: int) -> Tensor:
    """Split each of ten classes by a noisy random rule on the features."""
    generator = torch.Generator().manual_seed(1)
    parts = classes // 10
    scores = F.normalize(x - x.mean(dim=0)) @ torch.randn(x.shape[1], parts, generator=generator)
    noise = -torch.rand(scores.shape, generator=generator).log().neg().log()
    return y * parts + (2 * scores / scores.std() + noise).argmax(dim=1)


def compare_probes(
    size: ProbeSize, features: Features, effort: Effort, *, peers: bool = True
) -> tuple[Comparison, Table]:
    """Seconds for a linear probe, its accuracy, and its distance from the optimum.

    scikit-learn fits standardized features with the penalty that sdclr chose; sdclr is also timed with this penalty.
    """
    found: dict[str, _Layer] = {}
    train, held, (test_x, test_y) = features.train, features.held, features.test
    best = logistic_probe(*train, *held, size.classes)
    alone = LogisticConfig(penalties=(best.penalty,))

    def ours(name: str, config: LogisticConfig) -> None:
        probe = logistic_probe(*train, *held, size.classes, config)
        found[name] = _Layer(probe.weight.numpy(), probe.bias.numpy(), probe.evaluations, probe.validation_accuracy)

    def protocol() -> None:
        probe = linear_probe(*train, *held, size.classes, LINEAR)
        found[SGD] = _Layer(probe.weight.numpy(), probe.bias.numpy(), LINEAR.epochs, probe.validation_accuracy)

    candidates = [Candidate(LBFGS, partial(ours, LBFGS, LOGISTIC)), Candidate(SGD, protocol)]
    if peers:
        candidates.append(Candidate(ONE, partial(ours, ONE, alone)))
        candidates.append(Candidate(SKLEARN_ONE, lambda: found.update({SKLEARN_ONE: _sklearn(features, best.penalty)})))
    grid = f"{len(LINEAR.learning_rates)} rates for {LINEAR.epochs} epochs"
    penalties = f"{len(LOGISTIC.penalties)} penalties, unless the row names one"
    note = f"Features of {features.of}. L-BFGS: {penalties}; SGD: {grid}."
    compared = compare(f"Linear probe, {size}", note, "s", candidates, effort)
    rows = [
        (
            name,
            100 * layer.accuracy(test_x, test_y),
            100 * layer.held,
            f"{value:.6f}",
            gradient,
            layer.passes,
        )
        for name, layer in found.items()
        for value, gradient in [layer.objective(train, best.penalty)]
    ]
    table = Table(
        title=f"Linear probe, {size}: results",
        note=f"Objective and largest entry of its gradient are those of penalty {best.penalty:g} on standardized "
        "features, in double precision. SGD minimizes the objective of penalty 0, and stops early where that helps.",
        heading=("", "test / %", "held out / %", "objective", "gradient", "passes over the images"),
        rows=rows,
    )
    return compared, table


class _Layer(NamedTuple):
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    passes: int
    held: float

    def accuracy(self, x: NDArray[np.float32], y: NDArray[np.int64]) -> float:
        return float(((x @ self.weight.T + self.bias).argmax(axis=1) == y).mean())

    def objective(self, train: tuple[NDArray[np.float32], NDArray[np.int64]], penalty: float) -> tuple[float, float]:
        """Value, and largest entry of the gradient, for the weights of standardized features."""
        x, y = torch.from_numpy(train[0]).double(), torch.from_numpy(train[1])
        deviation, mean = torch.std_mean(x, dim=0, correction=0)
        deviation[deviation == 0] = 1
        raw = torch.from_numpy(self.weight).double()
        weight = raw * deviation
        bias = torch.from_numpy(self.bias).double() + raw @ mean
        standard = (x - mean).div_(deviation)
        logits = standard @ weight.T + bias
        value = F.cross_entropy(logits, y) + penalty / 2 * weight.square().sum()
        error = (logits.softmax(dim=1) - F.one_hot(y, len(bias))) / len(y)
        gradient = error.T @ standard + penalty * weight
        return float(value), float(max(gradient.abs().max(), error.sum(dim=0).abs().max()))


def _sklearn(features: Features, penalty: float) -> _Layer:
    """scikit-learn's optimum for one penalty, converted to raw features."""
    train_x, train_y = features.train
    regression = LogisticRegression(C=1 / (penalty * len(train_x)), tol=LOGISTIC.tolerance, max_iter=10_000)
    model = make_pipeline(StandardScaler(), regression).fit(train_x, train_y)
    scaler = model[0]
    weight = regression.coef_ / scaler.scale_
    bias = regression.intercept_ - weight @ scaler.mean_
    held = float((model.predict(features.held[0]) == features.held[1]).mean())
    return _Layer(weight, bias, int(regression.n_iter_[0]), held)


def compare_knn(size: ProbeSize, features: Features, effort: Effort, *, peers: bool = True) -> tuple[Comparison, float]:
    """Seconds to classify all test images by their neighbors, and the accuracy of sdclr.

    Raises:
        ValueError: If scikit-learn predicts another class for more than one image in a thousand.
    """
    (train_x, train_y), (test_x, test_y) = features.train, features.test
    k = min(NEIGHBORS, len(train_x))
    found: dict[str, NDArray[np.int64]] = {}

    def ours() -> None:
        found[KNN] = knn_predict(train_x, train_y, test_x, size.classes, k=k, temperature=TEMPERATURE)

    def theirs() -> None:
        model = KNeighborsClassifier(k, weights=_weights, algorithm="brute", metric="cosine").fit(train_x, train_y)
        found[SKLEARN_KNN] = model.predict(test_x)

    candidates = [Candidate(KNN, ours), *([Candidate(SKLEARN_KNN, theirs)] if peers else [])]
    note = f"Features of {features.of}; {k} neighbors by cosine, weighted. Both predict the same classes."
    title = f"kNN, {len(test_x):,} queries against {len(train_x):,} images of {size.width} features"
    compared = compare(title, note, "s", candidates, effort)
    if peers and (differing := float((found[KNN] != found[SKLEARN_KNN]).mean())) > 1e-3:
        raise ValueError(f"{title}: {differing:.2%} of the classes differ, so it is not the same work")
    return compared, float((found[KNN] == test_y).mean())


def _weights(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.exp((1 - distance) / TEMPERATURE)


def find_probes(plan: ProbePlan, data: Path | None) -> Findings:
    """Run the plan, on CIFAR-10 if its folder is given."""
    targets: list[Target] = []
    comparisons: list[Comparison] = []
    tables: list[Table] = []
    for size, effort, peers in plan.probes:
        compared, table = compare_probes(size, make_features(size, data), effort, peers=peers)
        accuracy = {str(row[0]): float(row[1]) for row in table.rows}
        targets.append(Target(what=f"Seconds of L-BFGS, {size}", limit=10, measured=compared.median(LBFGS)))
        lost = accuracy[SGD] - accuracy[LBFGS]
        targets.append(Target(what=f"Points of test accuracy that SGD is ahead, {size}", limit=1, measured=lost))
        comparisons.append(compared)
        tables.append(table)
    scores = []
    for size, effort, peers in plan.knn:
        compared, score = compare_knn(size, make_features(size, data), effort, peers=peers)
        targets.append(Target(what=f"Seconds of {compared.title}", limit=5, measured=compared.median(KNN)))
        comparisons.append(compared)
        scores.append((compared.title, 100 * score))
    tables.append(Table(title="kNN: results", note="The accuracy of both.", heading=("", "test / %"), rows=scores))
    return Findings(targets=targets, comparisons=comparisons, tables=tables)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10 as parquet files; made-up features without it")
    parser.add_argument("--quick", action="store_true", help="fewer images and rounds")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    print(find_probes(quick() if options.quick else thorough(), options.data).markdown())


if __name__ == "__main__":
    main()
