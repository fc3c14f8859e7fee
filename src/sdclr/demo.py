"""Demonstrations on handwritten digits: rare kinds by a pretrained encoder, and a comparison of SimCLR and SDCLR."""

from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from sdclr.data.sources import Source, SubsetSource, digits
from sdclr.errors import InputError
from sdclr.evaluation.config import EvaluateConfig
from sdclr.evaluation.evaluate import Result, evaluate
from sdclr.longtail.splits import long_tail_split
from sdclr.mining.mine import mine_features
from sdclr.mining.page import write_page
from sdclr.mining.scores import Scores
from sdclr.progress import tell
from sdclr.recipes import digits_demo
from sdclr.reporting.page import write_report
from sdclr.reporting.tables import Table, balance_table, balances
from sdclr.training.config import DamageConfig
from sdclr.training.pretrain import pretrain
from sdclr.training.resolve import resolve_encoder
from sdclr.training.run import Run
from sdclr.training.runtime import Runtime

MAX_COUNT, IMBALANCE = 100, 50
"""276 training images: 100 of the most frequent digit, 2 of the rarest."""

SHOTS, DRAWS = 2, 5
"""Labeled digits per class in the few-shot probe, and number of few-shot sets that are averaged."""


RARE_COUNTS: Final = {0: 25, 6: 14, 4: 5}
"""Number of images of each rare digit in the mined collection; every other digit has `COMMON_COUNT`."""
COMMON_COUNT: Final = 110


def rare_digits() -> SubsetSource:
    """A collection with rare kinds: 814 digits, among them 25 zeros, 14 sixes and 5 fours."""
    train, rng = digits("train"), np.random.default_rng(0)
    labels = np.asarray(train.labels)
    chosen = [
        rng.permutation(np.flatnonzero(labels == digit))[: RARE_COUNTS.get(digit, COMMON_COUNT)] for digit in range(10)
    ]
    return SubsetSource(train, np.sort(np.concatenate(chosen)), name="digits")


def mine_demo(folder: Path) -> tuple[Scores, list[str], Path]:
    """Find the rare kinds among digits, and describe them. Labels are used for the description only.

    Args:
        folder: Folder for scores, features and the page.

    Returns:
        The scores, a line for each kind, and the page.
    """
    source = rare_digits()
    used = resolve_encoder(None, source)
    scores, features, *_ = mine_features(source, encoder=used, out=folder)
    labels = np.asarray(source.labels)
    lines = []
    for group in sorted(scores.groups, key=lambda group: group.size):
        counts = np.bincount(labels[scores.kinds == group.kind], minlength=10)
        most = [
            f"{counts[digit]} of digit {digit}" for digit in np.argsort(-counts, kind="stable")[:3] if counts[digit]
        ]
        rest = int((counts > 0).sum()) - len(most)
        more = f" and {rest} more digits" if rest else ""
        lines.append(f"kind of {group.size} images: {', '.join(most)}{more}")
    page = write_page(folder / "rarest.html", scores, source, features=features, encoder=used.encoder)
    return scores, lines, page


def run_demo(folder: Path, *, splits: int) -> tuple[list[Table], Path]:
    """Train both methods on `splits` class orders, evaluate them, and write a report.

    Args:
        folder: Folder for the runs and the report. Finished runs are reused.
        splits: Number of class orders to average over.

    Returns:
        The tables of few-shot and linear accuracy, and the report's path.

    Raises:
        InputError: If `splits` is not positive.
    """
    if splits < 1:
        raise InputError(f"the demo needs 1 or more class orders, not {splits}")
    train, test, config = digits("train"), digits("test"), digits_demo()
    methods = {"SimCLR": DamageConfig(kind="none"), "SDCLR": config.damage}
    runs: dict[str, list[Run]] = {method: [] for method in methods}
    results: dict[str, list[Result]] = {method: [] for method in methods}
    sources: list[Source] = []
    for split in range(1, splits + 1):
        drawn = long_tail_split(
            np.asarray(train.labels), max_count=MAX_COUNT, imbalance=IMBALANCE, seed=split, few_shot_fraction=0
        )
        source = SubsetSource(train, drawn.long_tail, name=f"digits-long-tail-{split}")
        sources.append(source)
        for method, damage in methods.items():
            tell(f"class order {split} of {splits}: {method} on {len(source)} images")
            chosen = replace(config, damage=damage, seed=split)
            # In float32, so that results do not depend on the machine's units for bfloat16.
            runtime = Runtime(device="cpu", amp="none")
            run = pretrain(source, chosen, run=folder / f"{method.lower()}-{split}", runtime=runtime)
            runs[method].append(run)
            probes = EvaluateConfig(shots=SHOTS, draws=DRAWS, seed=split)
            results[method].append(evaluate(train, test, probes, encoder=run))
    tables = [
        balance_table(balances(results, "few_shot"), title=f"Few-shot probe, {SHOTS} labels a class"),
        balance_table(balances(results, "linear"), title="Linear probe, all labels"),
    ]
    report = write_report(
        folder / "report.html",
        title="SimCLR and SDCLR on a long tail of handwritten digits",
        runs=runs,
        results=results,
        source=sources[0],
        tables=tables,
        commands=[f"sdclr demo --train --run {folder} --splits {splits}"],
    )
    return tables, report
