"""Compare rarity scores to choose the default of `sdclr mine`, as described in `docs/results/rarity.md`.

    python benchmarks/evidence/rarity_features.py --data DIR --clothing DIR --cache features --held-out features_heldout
    python benchmarks/evidence/rarity_features.py --data DIR --clothing DIR --cache features \
        --held-out features_heldout --runs runs/contest
    python benchmarks/evidence/rarity_contest.py --cache features --held-out features_heldout --out docs/results

Needs only the cached features. Scores other than kinds are cached in `CACHE/scores/`; kinds is computed each time.
Writes `rarity.csv` (every case and score) and `rarity_tables.md` (tables and the result of the rule).
"""

import argparse
import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from rarity_scores import Score, baseline_scores, kinds_module, kinds_score
from rarity_tables import Row, all_tables, sensitivity_table

LOOKED_AT = (50, 100, 200)
"""Numbers of images that a person looks at."""

NEIGHBORS = (10, 15, 30, 50)
"""Values of k for kinds."""


@dataclass(frozen=True)
class Case:
    """One collection in one form with one encoder.

    Attributes:
        file: The cache file.
        collection: Name without form.
        form: "plain", "junk" or "copies".
        encoder: "lite0-96", "lite0-224" or "own".
        held_out: Whether the collection was held out.
        features: (N, D).
        labels: (N,) class ids, -1 for junk.
        rare, junk, copy: (N,) bool.
        forgetting: (N,) or None.
    """

    file: Path
    collection: str
    form: str
    encoder: str
    held_out: bool
    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    rare: NDArray[np.bool_]
    junk: NDArray[np.bool_]
    copy: NDArray[np.bool_]
    forgetting: NDArray[np.float32] | None

    @classmethod
    def read(cls, file: Path) -> "Case":
        """Read a case from its cache file."""
        name, _, encoder = file.stem.partition("@")
        collection = name.partition("+")[0]
        pruned = file.with_suffix(".forgetting.npy")
        with np.load(file) as stored:
            return cls(
                file=file,
                collection=collection,
                form=str(stored["form"]),
                encoder=encoder,
                held_out=bool(stored["held_out"]),
                features=stored["features"],
                labels=stored["labels"],
                rare=stored["rare"],
                junk=stored["junk"],
                copy=stored["copy"],
                forgetting=np.load(pruned) if pruned.is_file() else None,
            )


def cases(folders: Sequence[Path]) -> Iterator[Case]:
    """All cached cases."""
    for folder in folders:
        for file in sorted(folder.glob("*@*.npz")):
            yield Case.read(file)


def scores_of(case: Case) -> tuple[dict[str, Score], int | None]:
    """All scores, and the number of kinds if the library has that score."""
    kept = case.file.parent / "scores" / case.file.name
    if kept.is_file():
        with np.load(kept) as stored:
            scores = {name: stored[name] for name in stored.files}
    else:
        scores = baseline_scores(case.features, seed=_seed(case.collection))
        kept.parent.mkdir(exist_ok=True)
        partial = kept.with_suffix(".partial")
        with partial.open("wb") as stream:
            np.savez(stream, **scores)
        partial.rename(kept)
    if case.forgetting is not None:
        scores["forgetting"] = case.forgetting.astype(np.float64)
    if kinds_module() is None:
        return scores, None
    kinds, found = kinds_score(case.features, scores["distance"])
    return {"kinds": kinds, **scores}, found


def figures(score: Score, case: Case) -> dict[str, float]:
    """Metrics of how well a score finds rare images; see the protocol."""
    order = np.argsort(-score, kind="stable")
    rare_classes = set(case.labels[case.rare].tolist())
    found = {
        "auroc": float(roc_auc_score(case.rare, score)),
        "lift": float(average_precision_score(case.rare, score) / case.rare.mean()),
    }
    for count in LOOKED_AT:
        met = rare_classes & set(case.labels[order[:count]].tolist())
        found[f"met_{count}"] = len(met) / len(rare_classes)
    first = order[:100]
    return found | {"junk_100": float(case.junk[first].sum()), "copies_100": float(case.copy[first].sum())}


def rows_of(case: Case) -> list[Row]:
    """One row for each score."""
    scores, found = scores_of(case)
    about: Row = {
        "collection": case.collection,
        "form": case.form,
        "encoder": case.encoder,
        "held_out": case.held_out,
        "images": len(case.labels),
        "base_rate": float(case.rare.mean()),
        "kinds_found": -1 if found is None else found,
    }
    return [{**about, "score": name, **figures(score, case)} for name, score in scores.items()]


def sensitivity(case: Case) -> list[Row]:
    """Number of kinds and AUROC at several k, with the AUROC of distance for comparison."""
    distance = scores_of(case)[0]["distance"]
    rows: list[Row] = []
    for k in NEIGHBORS:
        if k >= len(case.labels):
            continue
        score, found = kinds_score(case.features, distance, k=k)
        rows.append(
            {
                "collection": case.collection,
                "encoder": case.encoder,
                "k": k,
                "kinds_found": found,
                "auroc": float(roc_auc_score(case.rare, score)),
                "distance": float(roc_auc_score(case.rare, distance)),
            }
        )
    return rows


def _seed(name: str) -> int:
    return sum(name.encode())


def write_csv(rows: Sequence[Row], file: Path) -> None:
    """Write all rows, with four decimals."""
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({key: f"{value:.4f}" if isinstance(value, float) else value for key, value in row.items()})


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--cache", type=Path, required=True, help="folder of features, as rarity_features.py writes them"
    )
    parser.add_argument("--held-out", type=Path, help="folder of the features of collections that were kept back")
    parser.add_argument("--out", type=Path, required=True, help="folder of the tables")
    parser.add_argument("--sensitivity", action="store_true", help="also try kinds at several k, on plain collections")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    folders = [options.cache] if options.held_out is None else [options.cache, options.held_out]
    rows: list[Row] = []
    tried: list[Row] = []
    for case in cases(folders):
        rows += rows_of(case)
        if options.sensitivity and case.form == "plain" and kinds_module() is not None:
            tried += sensitivity(case)
        print(case.file.stem, flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    write_csv(rows, options.out / "rarity.csv")
    text = all_tables(rows) + (sensitivity_table(tried) if tried else "")
    (options.out / "rarity_tables.md").write_text(text)


if __name__ == "__main__":
    main()
