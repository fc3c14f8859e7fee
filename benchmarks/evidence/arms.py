"""Arms of an experiment on small sets: each arm is a changed configuration, trained with several class orders.

Sets: `cifar10`, a long tail of 4,300 images at 16 px (at most 1,500 per class, imbalance 50; batch 128, lr 0.125), and
`digits`, the demonstration's 276 images. The seed of a run is its class order. Arms whose name ends in `-again` use
another seed, which shows the variation between equal runs. Runs that are in the file are skipped.
"""

import argparse
import json
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sdclr.choices import Amp
from sdclr.data.sources import Source, SubsetSource, digits
from sdclr.demo import DRAWS, IMBALANCE, MAX_COUNT, SHOTS
from sdclr.evaluation.config import EvaluateConfig
from sdclr.evaluation.evaluate import Result, evaluate
from sdclr.longtail.published import paper_split
from sdclr.longtail.splits import class_groups, long_tail_split
from sdclr.paper.experiments import Setting, pretraining
from sdclr.recipes import digits_demo
from sdclr.training.checkpoint import load_checkpoint
from sdclr.training.config import PretrainConfig
from sdclr.training.pretrain import pretrain
from sdclr.training.run import Run
from sdclr.training.runtime import Runtime

KEY = ("set", "width", "epochs", "arm", "split")
MEASURES = (("linear", "all"), ("linear", "std"), ("few_shot", "all"), ("few_shot", "few"), ("few_shot", "std"))
BASELINE = ("simclr",)

Configure = Callable[[PretrainConfig, str], PretrainConfig]
"""Makes the configuration of an arm from the shared configuration."""
Weigh = Callable[[str, Source], NDArray[np.float64] | None]
"""Returns the sampling weights of an arm; None leaves the sampling to its configuration."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Position of a run in the grid of settings."""

    data: Path | None
    """The folder of CIFAR-10; None for digits."""
    amp: Amp
    device: str
    width: int
    epochs: int
    arm: str
    split: int

    def settle(self, made: PretrainConfig, configure: Configure) -> PretrainConfig:
        made = replace(
            made,
            encoder=replace(made.encoder, width=self.width),
            epochs=self.epochs,
            optim=replace(made.optim, warmup_epochs=min(made.optim.warmup(made.epochs), self.epochs / 10)),
            seed=self.split + 100 * self.arm.endswith("-again"),
        )
        return configure(made, self.arm)

    @property
    def runtime(self) -> Runtime:
        return Runtime(device=self.device, amp=self.amp, progress=False, workers=0)


def run_one(place: Place, configure: Configure, weigh: Weigh) -> dict[str, Any]:
    """Train and evaluate one arm."""
    with tempfile.TemporaryDirectory() as folder:
        run, source, result = (_on_digits if place.data is None else _on_cifar)(
            place, configure, weigh, Path(folder) / "run"
        )
        pruned = [row["pruned"] for row in run.metrics() if "pruned" in row]
        share = few_share(source, weigh(place.arm, source), run)
    name = "digits" if place.data is None else "cifar10"
    scores = {probe: getattr(result, probe).balance._asdict() for probe in ("linear", "few_shot", "knn")}
    key = dict(zip(KEY, (name, place.width, place.epochs, place.arm, place.split), strict=True))
    return key | {"pruned": pruned[-1:], "few_share": share} | scores


def few_share(source: Source, weights: NDArray[np.float64] | None, run: Run) -> float:
    """Share of the Few classes, in percent of the drawn images at the end of a run."""
    labels = np.asarray(source.labels)
    drawn = np.ones(len(labels)) if weights is None else weights
    loaded = load_checkpoint(run.checkpoints)
    for name, value in ({} if loaded is None else loaded[0]["objective"]).items():
        if name.startswith("rebalancers.") and name.endswith(".weights"):  # of the density or curation rebalancer
            drawn = drawn * value.numpy()
    few = np.isin(labels, class_groups(np.bincount(labels))["few"])
    return float(100 * drawn[few].sum() / drawn.sum())


def _on_digits(place: Place, configure: Configure, weigh: Weigh, folder: Path) -> tuple[Run, Source, Result]:
    train, test = digits("train"), digits("test")
    drawn = long_tail_split(
        np.asarray(train.labels), max_count=MAX_COUNT, imbalance=IMBALANCE, seed=place.split, few_shot_fraction=0
    )
    source: Source = SubsetSource(train, drawn.long_tail, name=f"digits-{place.split}")
    config = place.settle(digits_demo(), configure)
    run = pretrain(source, config, run=folder, runtime=place.runtime, weights=weigh(place.arm, source))
    judged = EvaluateConfig(shots=SHOTS, draws=DRAWS, seed=place.split)
    return run, source, evaluate(train, test, judged, encoder=run, device=place.device)


def _on_cifar(place: Place, configure: Configure, weigh: Weigh, folder: Path) -> tuple[Run, Source, Result]:
    drawn = paper_split("cifar10_lt", place.data or Path(), split=place.split, max_count=1500, imbalance=50)
    made = pretraining("cifar10_lt", "long-tail", "sdclr", Setting(epochs=place.epochs), place.split)
    made = replace(made, batch_size=128, optim=replace(made.optim, lr=0.125))
    config = place.settle(made, configure)
    source = drawn.long_tail
    run = pretrain(source, config, run=folder, runtime=place.runtime, weights=weigh(place.arm, source))
    result = evaluate(
        drawn.full,
        drawn.test,
        EvaluateConfig(seed=0),
        encoder=run,
        validation=drawn.validation,
        few_shot=drawn.few_shot,
        device=place.device,
    )
    return run, source, result


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def train(args: argparse.Namespace, configure: Configure, weigh: Weigh) -> None:
    torch.set_num_threads(1)  # fastest if several processes run at once
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for split in args.splits:
        for width in args.widths:
            for epochs in args.epochs:
                for arm in args.arms:
                    # Read again each time: several processes may share the work, each with its own splits.
                    done = {tuple(row[name] for name in KEY) for row in read(args.out)}
                    if (args.set, width, epochs, arm, split) in done:
                        continue
                    data = args.data if args.set == "cifar10" else None
                    where = {"data": data, "amp": args.amp, "device": args.device}
                    place = Place(**where, width=width, epochs=epochs, arm=arm, split=split)
                    row = run_one(place, configure, weigh)
                    with args.out.open("a") as file:
                        file.write(json.dumps(row) + "\n")


Found = dict[tuple[Any, ...], dict[int, dict[str, Any]]]
"""Rows by set, width, epochs and arm, and then by split."""


def report(rows: Sequence[dict[str, Any]], baseline: Sequence[str] = BASELINE) -> str:
    """Tables of means over splits and of differences to a baseline, and of differences over all widths and lengths.

    Args:
        rows: Results of runs.
        baseline: Other arms are compared with the mean of these arms on the same split.
    """
    found: Found = defaultdict(dict)
    for row in rows:
        found[row["set"], row["width"], row["epochs"], row["arm"]][row["split"]] = row
    heads = [f"{probe.replace('_', '-')} {measure}" for probe, measure in MEASURES]
    lines = [_line("set", "width", "epochs", "arm", "splits", "pruned", "Few drawn", *heads)]
    lines.append("|---" * (7 + len(heads)) + "|")
    for (*where, arm), by_split in found.items():
        cells = []
        for probe, measure in MEASURES:
            mean = statistics.fmean(row[probe][measure] for row in by_split.values())
            gain = _with_error(_gains(found, where, arm, baseline, (probe, measure)))
            cells.append(f"{mean:.2f} ({gain})" if gain else f"{mean:.2f}")
        pruned = _mean([value for row in by_split.values() for value in row["pruned"]], ".2f")
        share = _mean([row["few_share"] for row in by_split.values() if "few_share" in row], ".1f")
        lines.append(_line(*where, arm, len(by_split), pruned, share, *cells))
    return "\n".join([*lines, "", *_overall(found, baseline, heads)])


def _overall(found: Found, baseline: Sequence[str], heads: Sequence[str]) -> list[str]:
    """Mean over widths and lengths of each set and arm. Each counts once, regardless of its number of splits."""
    lines = [_line("set", "arm", "places", *heads), "|---" * (3 + len(heads)) + "|"]
    for name, arm in dict.fromkeys((key[0], key[-1]) for key in found):
        places = [where for *where, other in found if (where[0], other) == (name, arm)]
        gains = [[_gains(found, where, arm, baseline, score) for where in places] for score in MEASURES]
        means = [[statistics.fmean(pairs) for pairs in by_place if pairs] for by_place in gains]
        if means[0]:
            lines.append(_line(name, arm, len(means[0]), *map(_with_error, means)))
    return lines


def _gains(
    found: Found, where: Sequence[Any], arm: str, baseline: Sequence[str], score: tuple[str, str]
) -> list[float]:
    """Differences of an arm to the baseline, for each split with results of all these arms. Empty for baseline arms."""
    if arm in baseline:
        return []
    probe, measure = score
    plain = [found.get((*where, name), {}) for name in baseline]
    return [
        row[probe][measure] - statistics.fmean(by_split[split][probe][measure] for by_split in plain)
        for split, row in found[*where, arm].items()
        if all(split in by_split for by_split in plain)
    ]


def _with_error(values: Sequence[float]) -> str:
    """The mean, with its standard error if there are two or more values."""
    if len(values) < 2:
        return _mean(values, "+.2f")
    return f"{_mean(values, '+.2f')} ± {statistics.stdev(values) / len(values) ** 0.5:.2f}"


def _line(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def _mean(values: Sequence[float], form: str) -> str:
    return format(statistics.fmean(values), form) if values else ""


def main(doc: str | None, arms: Sequence[str], configure: Configure, weigh: Weigh = lambda *_: None) -> None:
    """The command line of an experiment.

    Args:
        doc: Its description.
        arms: Arms that run by default.
        configure: Makes an arm's configuration.
        weigh: Gives an arm's sampling weights.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("train", "report"))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--set", choices=("cifar10", "digits"), default="cifar10")
    parser.add_argument("--widths", type=int, nargs="+", default=[16])
    parser.add_argument("--epochs", type=int, nargs="+", default=[40])
    parser.add_argument("--splits", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--arms", nargs="+", default=list(arms))
    parser.add_argument("--amp", choices=("auto", "none"), default="auto")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--baseline", nargs="+", default=BASELINE, help="arms whose mean the report compares with")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if args.command == "train":
        if args.set == "cifar10" and args.data is None:
            parser.error("--set cifar10 needs --data, the folder of CIFAR-10")
        train(args, configure, weigh)
    print(report(read(args.out), args.baseline))
