"""Do outside images help on a long tail, and does it matter which are chosen?

    python benchmarks/evidence/outside.py run --data DIR --runs runs/outside
    python benchmarks/evidence/outside.py table

DIR holds `cifar10` (Parquet) and `clothing/train` (folders). `run` finishes the cells (arm, class order) that
docs/results/outside.jsonl lacks; an interrupted run resumes. The arm without outside images is that of the long run
(long_run.py). `table` writes docs/results/outside_tables.md from the records, without training. Protocol and
expectations are in docs/results/outside.md; they were written before the runs.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal

import cv2
import numpy as np
import torch

from judge import append, records, spread
from long_run import COLUMNS, SETTINGS, Arm, Images, images_of, scores_of
from long_run import RECORDS as LONG_RUN
from long_run import settings as settings_of_long_run
from sdclr.data.sources import ArraySource, Source, open_source
from sdclr.method.rebalancing import OutsideConfig
from sdclr.training.config import PretrainConfig
from sdclr.training.pretrain import pretrain
from sdclr.training.runtime import Runtime

RECORDS: Final = Path("docs/results/outside.jsonl")
TABLES: Final = Path("docs/results/outside_tables.md")
SETTING: Final = SETTINGS["cifar"]
BASE: Final = "SimCLR"
ALONE: Final = Arm(0, 2)
"""The arm of the long run that the others add outside images to."""
ARMS: Final[dict[str, Literal["none", "random"]]] = {"SimCLR + outside": "none", "SimCLR + random outside": "random"}
"""The control of the rebalancer in each arm."""
SIDE: Final = 32
"""Of the outside images in pixels: as large as those of CIFAR-10."""


def small(source: Source) -> ArraySource:
    """The same images in memory, without labels, each resized to a square."""
    pixels = [
        cv2.resize(source.image(index, min_side=2 * SIDE), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        for index in range(len(source))
    ]
    return ArraySource(np.stack(pixels), ids=list(source.ids), name=f"{source.name}-{SIDE}px")


def settings(arm: str, order: int) -> PretrainConfig:
    """Those of the long run, with outside images. An epoch has as many steps as there."""
    alone = settings_of_long_run(ALONE, SETTING, order)
    return replace(alone, rebalance=("outside",), outside=OutsideConfig(control=ARMS[arm]))


def run(data: Path, folder: Path, orders: list[int]) -> None:
    """Finish the cells, all arms of one class order after the other."""
    how = Runtime(device="cpu", workers=0, amp="none", progress=False, checkpoint_minutes=2, threads=1)
    missing = [
        (arm, order)
        for order in orders
        for arm in ARMS
        if not any({"arm": arm, "order": order}.items() <= one.items() for one in records(RECORDS))
    ]
    outside = small(open_source(data / "clothing" / "train")) if missing else None
    for arm, order in missing:
        images = images_of("cifar", data, order)
        begin = time.process_time()
        trained = pretrain(
            images.train, settings(arm, order), run=folder / f"{order}-{arm}", runtime=how, outside=outside
        )
        spent = round(time.process_time() - begin)
        append(RECORDS, {"arm": arm, "order": order, "cpu_seconds": spent} | judged(trained, images))


def judged(trained: Any, images: Images) -> dict[str, float]:
    """Scores of the encoder after the last step."""
    return scores_of(trained.objective().network.encoder, images, SETTING)


def found() -> list[dict[str, Any]]:
    """Records of the arms with outside images, and those of the long run without them."""
    key = {"set": "cifar", "arm": str(ALONE), "epochs": SETTING.marks[-1]}
    return records(RECORDS) + [one | {"arm": BASE} for one in records(LONG_RUN) if key.items() <= one.items()]


def tables() -> Iterator[str]:
    """Every arm, and its difference to each arm before it, over the class orders that both have."""
    cells = {(one["arm"], one["order"]): one for one in found()}
    names = [BASE, *ARMS]
    tried = {order for name, order in cells if name != BASE}
    orders = {arm: sorted(order for name, order in cells if name == arm and order in tried) for arm in names}
    head = f"| class orders | {' | '.join(COLUMNS)} |"
    rule = f"|---|---|{'---|' * len(COLUMNS)}"
    yield f"### CIFAR-10-LT with clothing as outside images, after {SETTING.marks[-1]:,} epochs\n"
    yield from (f"| arm {head}", rule)
    for arm in (each for each in names if orders[each]):
        row = [spread([cells[arm, order][column] for order in orders[arm]], column) for column in COLUMNS]
        yield f"| {arm} | {len(orders[arm])} | {' | '.join(row)} |"
    yield from ("\nDifferences, same class order:\n", f"| arms {head}", rule)
    for arm, other in ((names[1], BASE), (names[2], BASE), (names[1], names[2])):
        both = sorted({*orders[arm]} & {*orders[other]})
        if both:
            gains = {
                column: [cells[arm, one][column] - cells[other, one][column] for one in both] for column in COLUMNS
            }
            row = [spread(gains[column], column, signed=True) for column in COLUMNS]
            yield f"| {arm} minus {other} | {len(both)} | {' | '.join(row)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--runs", type=Path, default=Path("runs/outside"))
    parser.add_argument("--orders", type=int, nargs="+", default=[1, 2])
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.what == "table":
        TABLES.write_text("\n".join(tables()) + "\n")
    else:
        run(given.data, given.runs, given.orders)


if __name__ == "__main__":
    main()
