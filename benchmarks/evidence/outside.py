"""Do outside images help on a long tail, and does it matter which are chosen?

    python benchmarks/evidence/outside.py run --data DIR --runs runs/outside
    python benchmarks/evidence/outside.py table

DIR holds `cifar10` (Parquet) and `clothing/train` (folders). `run` finishes the cells (arm, class order) that
docs/results/outside.jsonl lacks; an interrupted run resumes. `table` writes docs/results/outside_tables.md from the
records, without training. Protocol and expectations are in docs/results/outside.md; they were written before the runs.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

import cv2
import numpy as np
import torch

from judge import append, records, spread
from long_run import COLUMNS, SETTINGS, WIDTH, Images, images_of, scores_of
from sdclr.data.sources import ArraySource, Source, open_source
from sdclr.encoders import EncoderConfig
from sdclr.method.rebalancing import OutsideConfig
from sdclr.training.config import DamageConfig, PretrainConfig, Runtime
from sdclr.training.optim_config import OptimConfig
from sdclr.training.pretrain import pretrain
from sdclr.views.parameters import ViewConfig

RECORDS: Final = Path("docs/results/outside.jsonl")
TABLES: Final = Path("docs/results/outside_tables.md")
SETTING: Final = SETTINGS["cifar"]
STEPS: Final = 4000
BASE: Final = "SimCLR"
ARMS: Final[dict[str, Literal["none", "random"] | None]] = {
    BASE: None,
    "SimCLR + outside": "none",
    "SimCLR + random outside": "random",
}
"""The control of the rebalancer in each arm; None for an arm without outside images."""


def small(source: Source, size: int) -> ArraySource:
    """The same images in memory, without labels, each resized to a square."""
    pixels = [
        cv2.resize(source.image(index, min_side=2 * size), (size, size), interpolation=cv2.INTER_AREA)
        for index in range(len(source))
    ]
    return ArraySource(np.stack(pixels), ids=list(source.ids), name=f"{source.name}-{size}px")


def settings(arm: str, order: int, own: int, steps: int) -> PretrainConfig:
    """Those of the long run; the same number of steps in every arm."""
    control, per_epoch = ARMS[arm], own // SETTING.batch
    return PretrainConfig(
        encoder=EncoderConfig(name="resnet18", width=WIDTH),
        views=ViewConfig(image_size=SETTING.size),
        damage=DamageConfig(kind="none"),
        rebalance=() if control is None else ("outside",),
        outside=OutsideConfig(control=control or "none"),
        optim=OptimConfig(lr=0.5 * SETTING.batch / 512),
        temperature=0.2,
        batch_size=SETTING.batch,
        epochs=-(-steps // per_epoch),
        steps=steps,
        seed=order,
    )


def run(data: Path, folder: Path, orders: list[int], steps: int, out: Path) -> None:
    """Finish the cells, all arms of one class order after the other."""
    how = Runtime(device="cpu", workers=0, amp="none", progress=False, checkpoint_minutes=2, threads=1)
    missing = [
        (arm, order)
        for order in orders
        for arm in ARMS
        if not any({"arm": arm, "order": order, "steps": steps}.items() <= one.items() for one in records(out))
    ]
    if not missing:
        return
    size = SETTING.size
    outside = small(open_source(data / "clothing" / "train"), size)
    for arm, order in missing:
        images = images_of("cifar", data, order)
        own = small(images.train, size)  # of the size of the outside images, so that all are held in memory
        begin = time.process_time()
        trained = pretrain(
            own,
            settings(arm, order, len(own), steps),
            run=folder / f"{order}-{steps}-{arm}",
            runtime=how,
            outside=None if ARMS[arm] is None else outside,
        )
        spent = round(time.process_time() - begin)
        append(out, {"arm": arm, "order": order, "steps": steps, "cpu_seconds": spent} | judged(trained, images))


def judged(trained: Any, images: Images) -> dict[str, float]:
    """Scores of the encoder after the last step."""
    return scores_of(trained.objective().network.encoder, images, SETTING)


def tables(found: list[dict[str, Any]]) -> Iterator[str]:
    """Every arm, and its difference to each arm before it over the class orders that both have; longest runs only."""
    longest = max((one["steps"] for one in found), default=0)
    cells = {(one["arm"], one["order"]): one for one in found if one["steps"] == longest}
    orders = {arm: sorted(order for name, order in cells if name == arm) for arm in ARMS}
    head = f"| class orders | {' | '.join(COLUMNS)} |"
    rule = f"|---|---|{'---|' * len(COLUMNS)}"
    yield f"### CIFAR-10-LT with clothing as outside images, after {longest:,} steps\n"
    yield from (f"| arm {head}", rule)
    for arm in (each for each in ARMS if orders[each]):
        row = [spread([cells[arm, order][column] for order in orders[arm]], column) for column in COLUMNS]
        yield f"| {arm} | {len(orders[arm])} | {' | '.join(row)} |"
    yield from ("\nDifferences, same class order:\n", f"| arms {head}", rule)
    names = list(ARMS)
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
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--out", type=Path, default=RECORDS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.what == "table":
        TABLES.write_text("\n".join(tables(records(given.out))) + "\n")
    else:
        run(given.data, given.runs, given.orders, given.steps, given.out)


if __name__ == "__main__":
    main()
