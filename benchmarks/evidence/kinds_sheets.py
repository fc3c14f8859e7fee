"""Contact sheets of the kinds found in the collections of the comparison, with one row per kind.

    python benchmarks/evidence/kinds_sheets.py --data DIR --clothing DIR --cache features \
        --out sheets [--only separated]

The first image of a row is the kind's medoid; the others are drawn at random. Without `--kinds-only`, further rows show
odd images and the first images of the ranking by kinds. Red frames mark junk, green ones a rare class.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageDraw

from collections_for_rarity import Collection, Pools, in_form, recipes
from rarity_contest import Case, scores_of
from sdclr.features.extract import evaluation_view
from sdclr.mining.kinds import find_kinds

COLUMNS, SIDE, GAP, LEFT = 12, 64, 4, 150
MOST_ROWS = 24
JUNK_FRAME, RARE_FRAME = (220, 40, 40), (40, 170, 70)

Line = tuple[str, NDArray[np.int64]]


def lines_of(case: Case, *, columns: int = COLUMNS, seed: int = 0, ranking: bool = True) -> list[Line]:
    """Caption and images of each row: kinds by increasing size, odd images, and the start of the ranking."""
    found = find_kinds(case.features)
    labels = np.asarray(found.labels)
    random = np.random.default_rng(seed)
    lines: list[Line] = []
    for kind in np.argsort(found.sizes, kind="stable")[:MOST_ROWS].tolist():
        medoid = int(found.medoids[kind])
        others = np.setdiff1d(np.flatnonzero(labels == kind), [medoid])
        shown = random.permutation(others)[: columns - 1]
        caption = f"kind {kind}: {found.sizes[kind]}\nseparation {found.separation[kind]:.3f}"
        lines.append((caption, np.append(medoid, shown)))
    if not ranking:
        return lines
    if len(found.odd):
        lines.append((f"odd: {len(found.odd)}", found.odd[:columns]))
    first = np.argsort(-scores_of(case)[0]["kinds"], kind="stable")
    lines += [("ranked first", first[:columns]), ("ranked from 50 on", first[50 : 50 + columns])]
    return lines


def sheet(collection: Collection, lines: Sequence[Line]) -> Pillow.Image:
    """The rows as one image."""
    step = SIDE + 2 * GAP
    columns = max(len(shown) for _, shown in lines)
    canvas = Pillow.new("RGB", (LEFT + columns * step, len(lines) * step), "white")
    draw = ImageDraw.Draw(canvas)
    rare, junk = collection.rare, collection.junk
    for row, (caption, shown) in enumerate(lines):
        draw.multiline_text((GAP, row * step + SIDE // 2 - 10), caption, fill="black")
        for column, index in enumerate(shown.tolist()):
            corner = (LEFT + column * step + GAP, row * step + GAP)
            canvas.paste(Pillow.fromarray(evaluation_view(collection.images[index], SIDE)), corner)
            if rare[index] or junk[index]:
                frame = JUNK_FRAME if junk[index] else RARE_FRAME
                box = (corner[0] - 2, corner[1] - 2, corner[0] + SIDE + 1, corner[1] + SIDE + 1)
                draw.rectangle(box, outline=frame, width=2)
    return canvas


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of CIFAR-10 as parquet files")
    parser.add_argument("--clothing", type=Path, required=True, help="folder of the clothing photos")
    parser.add_argument(
        "--cache", type=Path, required=True, help="folder of features, as rarity_features.py writes them"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the sheets")
    parser.add_argument("--only", default="", help="only collections whose name starts so")
    parser.add_argument("--columns", type=int, default=COLUMNS, help="images in a row")
    parser.add_argument("--seed", type=int, default=0, help="decides which images of a kind are shown")
    parser.add_argument("--kinds-only", action="store_true", help="no rows of the ranking and of odd images")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    pools = Pools(options.data, options.clothing)
    for recipe in recipes(pools):
        files = sorted(options.cache.glob(f"{recipe.name}@*.npz")) + sorted(
            options.cache.glob(f"{recipe.name}+*@*.npz")
        )
        if not files or not recipe.name.startswith(options.only):
            continue
        plain = recipe.plain()
        for file in files:
            case = Case.read(file)
            lines = lines_of(case, columns=options.columns, seed=options.seed, ranking=not options.kinds_only)
            drawn = sheet(in_form(plain, case.form), lines)
            drawn.save(options.out / f"{file.stem}.png", optimize=True)
            print(file.stem, flush=True)


if __name__ == "__main__":
    main()
