"""Near-duplicates: recall by kind of change and precision, compared with perceptual hashes and the embedding alone.

A collection contains the images of half of a data set's classes and changed copies of some of them, each with one kind
of change (`made_copies.py`). The candidates of the method are the nearest neighbors of each image, so the images
themselves are the hard negatives. Thresholds were chosen on the halves called "chosen on"; the other halves were only
measured.

Pairs without made copies that the method reports as duplicates are drawn on sheets. Those that a person confirmed as
the same picture are in `duplicates_seen.json` and count as right.

PYTHONPATH=src:PEERS OMP_NUM_THREADS=1 python benchmarks/evidence/duplicates.py --clothing CLOTHING \
        --cifar CIFAR10 --out OUT

PEERS holds imagededup (pip install --target PEERS --no-deps imagededup ImageHash PyWavelets), for its hashes.
"""

import argparse
import json
import sys
import time
import types
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from made_copies import CHANGES
from sdclr.data.sources import Source, open_source
from sdclr.features.extract import extract_features
from sdclr.features.nearest import nearest
from sdclr.mining.duplicates import Duplicates, duplicates_among
from sdclr.training.resolve import resolve_encoder

CHOSEN = {
    "clothing": {"dress", "longsleeve", "pants", "shoes", "skirt"},
    "cifar10": {"airplane", "bird", "deer", "frog", "ship"},
}
SEEN = Path(__file__).with_name("duplicates_seen.json")
HASHES = ("PHash", "DHash", "WHash")


class Images:
    """Images of any size in memory."""

    labels, classes, name = None, (), "images"

    def __init__(self, images: list[NDArray[np.uint8]], ids: list[str]) -> None:
        self.images, self.ids = images, ids

    def __len__(self) -> int:
        return len(self.images)

    def image(self, index: int, *, min_side: int | None = None) -> NDArray[np.uint8]:  # noqa: ARG002  # decoded
        return self.images[index]


class Collection(NamedTuple):
    """Images and made copies."""

    name: str
    source: Images
    original: NDArray[np.int64]
    """(N,) row of the image that each copy was made from, -1 for images of the data set."""
    change: list[str]
    """N kinds of change, "" for images of the data set."""


def collection(source: Source, half: str, limit: int, copies: int, seed: int) -> Collection:
    """Images of half of the classes, at most `limit`, and `copies` made copies of each kind."""
    random = np.random.default_rng(seed)
    data = "clothing" if "dress" in source.classes else "cifar10"
    names = np.array(source.classes)[source.labels]
    first = np.isin(names, list(CHOSEN[data]))
    rows = np.flatnonzero(first == (half == "chosen on"))
    rows = np.sort(random.permutation(rows)[:limit])
    images = [source.image(int(row)) for row in rows]
    ids = [source.ids[row] for row in rows.tolist()]
    taken = random.permutation(len(rows))[: copies * len(CHANGES)]
    original, change = [-1] * len(rows), [""] * len(rows)
    for number, row in enumerate(taken.tolist()):
        kind = list(CHANGES)[number % len(CHANGES)]
        images.append(np.ascontiguousarray(CHANGES[kind](images[row], random)))
        ids.append(f"copy of {ids[row]}: {kind}")
        original.append(row)
        change.append(kind)
    return Collection(f"{data}, {half}", Images(images, ids), np.array(original), change)


def root(made: Collection) -> NDArray[np.int64]:
    """(N,) row of the data set's image that each image shows."""
    return np.where(made.original < 0, np.arange(len(made.original)), made.original)


class Found(NamedTuple):
    """Pairs that a method reports as duplicates."""

    pairs: set[tuple[int, int]]
    """Pairs of rows, the smaller row first."""


def by_groups(found: Duplicates) -> Found:
    """All pairs within a group."""
    pairs = {(min(a, b), max(a, b)) for group in found.groups for a in group for b in group if a != b}
    return Found(pairs)


def judged(made: Collection, found: Found, seen: set[frozenset[str]]) -> dict[str, Any]:
    """Recall by kind of change, and right and wrong pairs. `seen` pairs of the data set's images count as right."""
    shows, ids = root(made), made.source.ids
    total, hit, wrong, right = Counter(made.change), Counter(), [], 0
    for one, other in found.pairs:
        a, b = int(shows[one]), int(shows[other])
        if a == b or frozenset((ids[a], ids[b])) in seen:
            right += 1
        else:
            wrong.append((one, other))
    for row in np.flatnonzero(made.original >= 0).tolist():
        hit[made.change[row]] += (int(made.original[row]), row) in found.pairs
    recall = {kind: hit[kind] / total[kind] for kind in CHANGES}
    mean = float(np.mean(list(recall.values())))
    precision = right / max(1, right + len(wrong))
    return {"recall": recall, "mean": mean, "precision": precision, "right": right, "wrong": wrong}


def hashes(name: str, made: Collection) -> NDArray[np.uint8]:
    """(N, N) Hamming distances of imagededup's hashes of 64 bits."""
    # The package downloads the weights of its network on import. Only its hashes are compared here.
    sys.modules.setdefault("imagededup.methods.cnn", types.SimpleNamespace(CNN=None))  # type: ignore[arg-type]
    from imagededup import methods  # noqa: PLC0415  # an optional peer

    hasher = getattr(methods, name)(verbose=False)
    codes = [int(hasher.encode_image(image_array=image), 16) for image in made.source.images]
    bits = np.unpackbits(np.array(codes, dtype=">u8").view(np.uint8).reshape(-1, 8), axis=1).astype(np.float32)
    both = bits @ bits.T + (1 - bits) @ (1 - bits).T
    return (64 - both).astype(np.uint8)


def within(distances: NDArray[Any], limit: float) -> Found:
    """All pairs up to a distance."""
    rows, columns = np.nonzero(np.triu(distances <= limit, 1))
    return Found(set(zip(rows.tolist(), columns.tolist(), strict=True)))


def best_limit(made: Collection, distances: NDArray[Any], limits: list[float], seen: set[frozenset[str]]) -> float:
    """The limit with the largest harmonic mean of precision and mean recall."""

    def f1(limit: float) -> float:
        result = judged(made, within(distances, limit), seen)
        return 2 * result["precision"] * result["mean"] / max(1e-9, result["precision"] + result["mean"])

    return max(limits, key=f1)


def sheet(made: Collection, pairs: list[tuple[int, int]], path: Path, *, side: int = 150) -> None:
    """Draw pairs of images, five per row."""

    def tile(row: int) -> NDArray[np.uint8]:
        image = made.source.images[row]
        factor = side / max(image.shape[:2])
        size = (max(1, int(image.shape[1] * factor)), max(1, int(image.shape[0] * factor)))
        canvas = np.full((side + 4, side + 4, 3), 255, np.uint8)
        canvas[: size[1], : size[0]] = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        return canvas

    tiles = [np.concatenate([tile(a), tile(b)], axis=1) for a, b in pairs]
    if not tiles:
        return
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % 5)
    rows = [np.concatenate(tiles[start : start + 5], axis=1) for start in range(0, len(tiles), 5)]
    cv2.imwrite(str(path), np.concatenate(rows)[:, :, ::-1])


def measured(made: Collection, out: Path, seen: set[frozenset[str]], limits: dict[str, float]) -> dict[str, Any]:
    """Results of every method on one collection. Missing `limits` are chosen on this collection and added."""
    used = resolve_encoder(None, made.source)
    start = time.process_time()
    features = extract_features(used.encoder, made.source, preprocessing=used.preprocessing).values
    encoding = time.process_time() - start
    start = time.process_time()
    near = nearest(torch.from_numpy(features), 15)
    searching = time.process_time() - start
    start = time.process_time()
    found = duplicates_among(made.source, near, np.arange(len(made.source)))
    checking = time.process_time() - start
    slug = made.name.replace(", ", "-").replace(" ", "-")
    results = {"sdclr": judged(made, by_groups(found), seen)}
    own = [
        pair
        for pair in sorted(by_groups(found).pairs)
        if max(pair) < made.change.index(next(filter(None, made.change)))
    ]
    sheet(made, own, out / f"{slug}-same.png")
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    tables = {"embedding": (1 - unit @ unit.T, 0.1, [0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3])}
    for name in HASHES:
        tables[name] = (hashes(name, made), 10, [0, 1, 2, 4, 6, 8, 10, 12, 14, 16])
    for name, (distances, usual, choices) in tables.items():
        if name not in limits:
            limits[name] = best_limit(made, distances, choices, seen)
        for limit in dict.fromkeys((usual, limits[name])):
            results[f"{name} ≤ {limit:g}"] = judged(made, within(distances, limit), seen)
    for name, result in results.items():
        sheet(made, result["wrong"][:100], out / f"{slug}-{name}-wrong.png")
    seconds = {"encoding": encoding, "neighbors": searching, "near-duplicates": checking}
    rows = len(made.source)
    return {
        "images": rows,
        "candidates": found.candidates,
        "looked": found.looked,
        "cpu_seconds_per_1000": {name: 1000 * value / rows for name, value in seconds.items()},
        "same": [[made.source.ids[a], made.source.ids[b]] for a, b in own],
        "wrong": [[made.source.ids[a], made.source.ids[b]] for a, b in results["sdclr"]["wrong"]],
        "how": Counter((made.change[pair.drop] or made.change[pair.keep]) + " -> " + pair.how for pair in found.pairs),
        "results": {name: {**r, "wrong": len(r["wrong"])} for name, r in results.items()},
    }


def tables(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = []
    for name, values in results.items():
        methods = list(values["results"])
        lines += ["", f"### {name}: {values['images']:,} images", ""]
        lines += ["| | " + " | ".join(methods) + " |", "|---" * (len(methods) + 1) + "|"]
        for kind in CHANGES:
            cells = [f"{values['results'][method]['recall'][kind]:.2f}" for method in methods]
            lines.append(f"| {kind} | " + " | ".join(cells) + " |")
        for key, form in (("mean", ".3f"), ("precision", ".3f"), ("wrong", ",d")):
            label = {"mean": "mean recall", "precision": "precision", "wrong": "wrong pairs"}[key]
            lines.append(f"| *{label}* | " + " | ".join(f"{values['results'][m][key]:{form}}" for m in methods) + " |")
        seconds = ", ".join(f"{what} {value:.2f}" for what, value in values["cpu_seconds_per_1000"].items())
        lines += ["", f"CPU seconds per 1,000 images: {seconds}."]
    return "\n".join(lines) + "\n"


def read_seen() -> set[frozenset[str]]:
    """Pairs that a person confirmed as the same picture, and all pairs that follow from them."""
    groups: list[set[str]] = []
    for pair in json.loads(SEEN.read_text()):
        joined = set(pair).union(*(group for group in groups if group & set(pair)))
        groups = [group for group in groups if not group & joined] + [joined]
    return {frozenset((a, b)) for group in groups for a in group for b in group if a != b}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clothing", help="the clothing photos: a folder with one folder a class")
    parser.add_argument("--cifar", help="CIFAR-10 as Parquet")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--copies", type=int, default=60, help="made copies of each kind of change")
    parser.add_argument("--limit", type=int, default=2000, help="images of a half, at most")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    options.out.mkdir(parents=True, exist_ok=True)
    seen = read_seen()
    results: dict[str, Any] = {}
    for spec, copies in ((options.clothing, options.copies), (options.cifar, options.copies // 2)):
        limits: dict[str, float] = {}
        for seed, half in enumerate(("chosen on", "held out")):
            if spec is None:
                continue
            made = collection(open_source(spec), half, options.limit, copies, seed)
            results[made.name] = measured(made, options.out, seen, limits)
            (options.out / "duplicates.json").write_text(json.dumps(results, indent=1))
            (options.out / "duplicates.md").write_text(tables(results))
            print(tables({made.name: results[made.name]}), flush=True)


if __name__ == "__main__":
    main()
