"""Which label-free indices follow the imbalance of a collection?

Subsets of CIFAR-10 with imbalance 1, 10, 50 and 100 are drawn by label with five class orders. All have 3,000 images,
so that no index can follow their number; a second series has natural totals. Every index of `sdclr diagnose` is
computed on each subset with fixed encoders, which were trained at imbalance 100. The script also measures which
quantities find, without labels, the images that the encoder misclassifies.

Expectation, written before the first run: sizes of k-means clusters follow the imbalance weakly, because k-means splits
dense regions into more clusters; the inequality of the distances to neighbors follows it better.

    python benchmarks/evidence/diagnosis.py --data $SDCLR_DATA/data/cifar10 \
        --encoders runs/simclr-split1 runs/sdclr-0.5-split1 …
        [--runs runs/rarity] --cache /tmp/diagnosis --out docs/results/diagnosis.md
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from cifar10_lt import commit
from rarity_runs import matrix, subset_of
from sdclr.data.drawing import train_validation_split
from sdclr.data.sources import Source, SubsetSource, open_source
from sdclr.evaluation.clusters import find_clusters
from sdclr.evaluation.encoded import Encoded, encode
from sdclr.evaluation.label_free import alignment, forgetting
from sdclr.features.nearest import nearest
from sdclr.mining.diagnose import measure
from sdclr.training.resolve import resolve_encoder
from sdclr.training.run import Run
from sdclr.views.config import ViewConfig

IMBALANCES = (1, 10, 50, 100)
ORDERS = (1, 2, 3, 4, 5)
TOTAL = 3000
POOL = 20_000
Ints = NDArray[np.int64]

EQUAL = """{total:,} images of CIFAR-10 at every imbalance, {orders} class orders, {n} encoders of imbalance 100
(quarter-width ResNet-18, 16 px); mean ± standard deviation over encoders and class orders. Correlation: Spearman's
correlation of the index with the imbalance, within an encoder and class order. Separation: AUROC of imbalance 100
against 1 within an encoder; 0.5 is chance, and below 0.5 the index falls. `sdclr diagnose` describes a collection by
`distance_spread`; its summary uses only indices that this table supports."""
NATURAL = """## Natural totals

The most frequent class has the same number of images at every imbalance, so totals differ; one class order. Differences
from the table above come from the number of images. `sdclr diagnose` therefore computes its indices on parts of one
size."""
OWN = """## Encoders trained at the imbalance of their images

{n} encoders, {orders} class order(s), {total:,} of each encoder's training images. Compare the two
trainings, of 40 and of 10 epochs: the length of training changes most indices as much as the imbalance does.
These indices cannot be compared between encoders."""
ERRS = """## Which images does the encoder misclassify?

AUROC of finding the images that a vote of 20 labeled neighbors misclassifies; subsets of imbalance 100."""


class Found(NamedTuple):
    """The indices of one subset with one encoder."""

    encoder: str
    order: int
    imbalance: int
    images: int
    indices: dict[str, float]


def counts_of_total(imbalance: float, total: int, classes: int = 10) -> Ints:
    """An exponential profile with an exact total. The largest remainders get the images left over by rounding."""
    shares = imbalance ** (-np.arange(classes) / (classes - 1))
    exact = total * shares / shares.sum()
    counts = np.floor(exact).astype(np.int64)
    counts[np.argsort(counts - exact, kind="stable")[: total - counts.sum()]] += 1
    return counts


def draw(labels: Ints, counts: Ints, order: int) -> Ints:
    """Positions of `counts` images of the classes. `order` is the seed for shuffling classes and images."""
    rng = np.random.default_rng(order)
    classes = rng.permutation(len(counts))
    members = [rng.permutation(np.flatnonzero(labels == label)) for label in classes]
    return np.sort(np.concatenate([some[:count] for some, count in zip(members, counts, strict=True)]))


def encoded_once(run: Run, source: Source, cache: Path, views: ViewConfig | None) -> Encoded:
    """Features from the cache. Missing features are extracted and stored there."""
    file = cache / f"{run.path.name}.npz"
    if not file.exists():
        cache.mkdir(parents=True, exist_ok=True)
        found = encode(resolve_encoder(run), source, views=views)
        parts: dict[str, Any] = {"dense": found.dense}
        if found.sparse is not None:
            parts["sparse"] = found.sparse
        if found.views is not None:
            parts["a"], parts["b"] = found.views
        np.savez(file, **parts)
    with np.load(file) as parts:
        dense, sparse = parts["dense"], parts.get("sparse")
        pair = (parts["a"], parts["b"]) if "a" in parts else None
    return Encoded(dense, sparse, pair, np.arange(len(dense)), [])


def equal_totals(name: str, seen: Encoded, labels: Ints, *, total: int = TOTAL) -> Iterator[Found]:
    for order in ORDERS:
        for imbalance in IMBALANCES:
            rows = draw(labels, counts_of_total(imbalance, total), order)
            yield Found(name, order, imbalance, len(rows), measure(seen, rows))


def natural_totals(name: str, seen: Encoded, labels: Ints, *, total: int = TOTAL) -> Iterator[Found]:
    """Indices of subsets with the same number of images of the most frequent class at every imbalance."""
    most = counts_of_total(IMBALANCES[-1], total)[0]
    for imbalance in IMBALANCES:
        counts = np.floor(most * imbalance ** (-np.arange(10) / 9)).astype(np.int64)
        rows = draw(labels, counts, ORDERS[0])
        yield Found(name, ORDERS[0], imbalance, len(rows), measure(seen, rows))


def own_imbalance(train: Source, runs: Path, cache: Path, *, total: int = TOTAL) -> Iterator[Found]:
    """Indices of encoders trained at each imbalance, on equally many images of their own subset."""
    for trained in matrix():
        run = Run(runs / trained.name)
        if run.finished:
            seen = encoded_once(run, subset_of(train, trained), cache, None)
            rows = np.sort(np.random.default_rng(0).permutation(len(seen.dense))[:total])
            name = f"{trained.method}-{trained.length}"
            yield Found(name, trained.order, trained.imbalance, len(rows), measure(seen, rows))


def where_it_errs(seen: Encoded, labels: Ints, *, total: int = TOTAL) -> Iterator[dict[str, float]]:
    """AUROC of each quantity for finding the images that a vote of 20 neighbors in the whole pool misclassifies."""
    for order in ORDERS:
        rows = draw(labels, counts_of_total(IMBALANCES[-1], total), order)
        dense = seen.dense[rows]
        voters = nearest(seen.dense, 21, queries=dense).indices[:, 1:].numpy()  # the nearest is the image itself
        wrong = np.array([np.bincount(labels[row]).argmax() for row in voters]) != labels[rows]
        groups = find_clusters(dense, 20)
        scores = {
            "neighbor distance": nearest(dense, 10).distances.mean(1).numpy(),
            "small cluster": -groups.sizes[groups.labels],
        }
        if seen.views is not None:
            scores["alignment"] = alignment(*(view[rows] for view in seen.views))
        if seen.sparse is not None:
            scores["forgetting"] = forgetting(dense, seen.sparse[rows])
        yield {name: float(roc_auc_score(wrong, score)) for name, score in scores.items()}


def verdict(found: Sequence[Found], index: str) -> dict[str, tuple[float, float]]:
    """Mean and deviation of one index at each imbalance, its rank correlation with the imbalance, and its separation.

    The rank correlation is computed within an encoder and class order. The separation is the AUROC of the largest
    imbalance against the smallest, within an encoder over all its class orders.
    """
    known = [item for item in found if index in item.indices]
    levels = sorted({item.imbalance for item in known})
    table = {
        str(level): _mean_std([item.indices[index] for item in known if item.imbalance == level]) for level in levels
    }
    correlations, separations = [], []
    for encoder in sorted({item.encoder for item in known}):
        mine = [item for item in known if item.encoder == encoder]
        for order in sorted({item.order for item in mine}):
            row = sorted((item.imbalance, item.indices[index]) for item in mine if item.order == order)
            ranks = np.argsort(np.argsort([value for _, value in row]))
            correlations.append(float(np.corrcoef(np.arange(len(row)), ranks)[0, 1]))
        ends = [
            (item.imbalance > levels[0], item.indices[index])
            for item in mine
            if item.imbalance in levels[:: len(levels) - 1]
        ]
        separations.append(float(roc_auc_score([end for end, _ in ends], [value for _, value in ends])))
    return table | {"correlation": _mean_std(correlations), "separation": _mean_std(separations)}


def _mean_std(values: Sequence[float]) -> tuple[float, float]:
    if not values:
        return float("nan"), float("nan")
    return float(np.mean(values)), float(np.std(values))


def names_of(found: Sequence[Found]) -> list[str]:
    return list(dict.fromkeys(name for item in found for name in item.indices))


def table(rows: Mapping[str, Sequence[str]], head: Sequence[str]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return "\n".join([*lines, *("| " + " | ".join([name, *cells]) + " |" for name, cells in rows.items())]) + "\n"


def cell(value: tuple[float, float]) -> str:
    if np.isnan(value[0]):
        return "-"
    digits = 1 if abs(value[0]) >= 10 else 5 if abs(value[1]) < 0.0005 and abs(value[0]) < 0.01 else 3
    return f"{value[0]:.{digits}f} ± {value[1]:.{digits}f}"


def own_tables(own: Sequence[Found]) -> list[str]:
    """One table for each length of training."""
    lengths = sorted({item.encoder.split("-")[-1] for item in own})
    return [
        f"Training: {length}.\n\n" + by_imbalance([item for item in own if item.encoder.endswith(length)])
        for length in lengths
    ]


def by_imbalance(found: Sequence[Found]) -> str:
    """Mean ± deviation of each index at each imbalance."""
    levels = sorted({item.imbalance for item in found})
    rows = {}
    for name in names_of(found):
        known = [item for item in found if name in item.indices]
        rows[name] = [cell(_mean_std([item.indices[name] for item in known if item.imbalance == at])) for at in levels]
    images = {level: sorted({item.images for item in found if item.imbalance == level}) for level in levels}
    heads = [f"{level} ({', '.join(f'{n:,}' for n in images[level])} images)" for level in levels]
    return table(rows, ["index", *heads])


def report(
    equal: Sequence[Found],
    natural: Sequence[Found],
    own: Sequence[Found],
    errs: Sequence[Mapping[str, float]],
    command: str,
) -> str:
    verdicts = {name: verdict(equal, name) for name in names_of(equal)}
    ordered = sorted(verdicts, key=lambda name: -abs(verdicts[name]["separation"][0] - 0.5))
    rows = {name: [cell(value) for value in verdicts[name].values()] for name in ordered}
    encoders = len({item.encoder for item in equal})
    parts = [
        "# Which label-free indices follow the imbalance",
        EQUAL.format(total=TOTAL, orders=len(ORDERS), n=encoders),
    ]
    parts.append(table(rows, ["index", *map(str, IMBALANCES), "correlation", "separation"]))
    parts += [NATURAL, by_imbalance(natural)]
    if own:
        parts += [OWN.format(total=TOTAL, n=len(own), orders=len({item.order for item in own})), *own_tables(own)]
    names = dict.fromkeys(name for row in errs for name in row)
    found = {name: [cell(_mean_std([row[name] for row in errs if name in row]))] for name in names}
    parts += [ERRS, table(found, ["quantity", "AUROC"]), f"Made by `{command}` (commit {commit()})."]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of CIFAR-10 as parquet files")
    parser.add_argument("--encoders", type=Path, nargs="+", required=True, help="runs trained at imbalance 100")
    parser.add_argument("--runs", type=Path, help="folder of the runs of rarity_runs.py")
    parser.add_argument("--cache", type=Path, required=True, help="folder of features")
    parser.add_argument("--out", type=Path, required=True, help="the Markdown file")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    train = open_source(options.data, split="train")
    _, pool = train_validation_split(train.labels, validation=POOL, seed=0)
    source = SubsetSource(train, pool)
    equal, natural, errs = [], [], []
    for path in options.encoders:
        run = Run.open(path)
        seen = encoded_once(run, source, options.cache, run.config.views)
        equal += equal_totals(path.name, seen, source.labels)
        natural += natural_totals(path.name, seen, source.labels)
        errs += where_it_errs(seen, source.labels)
        print(path.name, flush=True)
    own = list(own_imbalance(train, options.runs, options.cache)) if options.runs else []
    command = (
        f"python benchmarks/evidence/diagnosis.py --data $SDCLR_DATA/data/cifar10 --encoders "
        f"{' '.join(f'runs/{path.name}' for path in options.encoders)} --runs runs/rarity --cache CACHE "
        "--out docs/results/diagnosis.md"
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(report(equal, natural, own, errs, command))


if __name__ == "__main__":
    main()
