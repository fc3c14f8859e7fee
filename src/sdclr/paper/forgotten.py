"""Figure 2: class groups of the most forgotten test images over the epochs (Jiang et al., ICML 2021, §4.7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from sdclr.data.sources import Source
from sdclr.encoders import Network, Preprocessing
from sdclr.errors import InputError
from sdclr.evaluation.balance import GROUPS
from sdclr.features.extract import extract_features
from sdclr.method import SelfCompetitor
from sdclr.mining.forgetting import forgetting
from sdclr.paper.panels import Row, panels, spread_line, spread_of
from sdclr.reporting.figures import MARKERS, PALETTE, legend
from sdclr.training.checkpoint import snapshot_epochs
from sdclr.training.run import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHARE = 0.01
"""Share of the test images that count as the most forgotten."""


def most_forgotten(forgotten: ArrayLike, share: float = SHARE) -> NDArray[np.int64]:
    """Positions of the most forgotten images, most forgotten first; ties by position.

    Args:
        forgotten: `(N,)` forgetting of each image.
        share: Share of the images, in (0, 1]; at least one image is returned.

    Raises:
        InputError: There is no image, or the share is out of range.
    """
    values = np.asarray(forgotten, dtype=np.float64)
    if values.ndim != 1 or not values.size or not 0 < share <= 1:
        raise InputError(
            f"cannot take a share of {share:g} of {values.size} images: give images, and a share in (0, 1]"
        )
    return np.argsort(-values, kind="stable")[: max(1, round(share * values.size))].astype(np.int64)


def group_shares(labels: ArrayLike, groups: Mapping[str, ArrayLike]) -> dict[str, float]:
    """Share of each class group among some images, in [0, 1].

    Args:
        labels: `(N,)` class ids, N at least 1.
        groups: Class ids under the keys `many`, `medium` and `few`.
    """
    known = np.asarray(labels, dtype=np.int64)
    return {group: float(np.isin(known, np.asarray(groups[group])).mean()) for group in GROUPS}


def forgotten_shares(
    run: Run,
    test: Source,
    groups: Mapping[str, ArrayLike],
    ratio: float,
    share: float = SHARE,
    *,
    device: torch.device | str | None = None,
    workers: int = 0,
) -> list[dict[str, Any]]:
    """Shares of the class groups among the most forgotten test images, at every snapshot of a run.

    Forgetting is 1 - cosine between the features of the encoder and of the pruned encoder. A run of SDCLR is pruned
    with its self-competitor and separate normalization; at the run's ratio, with the masks of that epoch. A run of
    SimCLR is pruned by magnitude and keeps its normalization statistics.

    Args:
        run: A run with snapshots.
        test: Labeled images; images without a label or that cannot be decoded are left out.
        groups: Class ids under the keys `many`, `medium` and `few`.
        ratio: Share of the weights to remove, in [0, 1).
        share: Share of the images that counts as the most forgotten.
        device: Device of the encoders; by default the CPU.
        workers: Number of decoding processes.

    Returns:
        A row per epoch and group: `ratio`, `epoch`, `group`, its `share` among the most forgotten, its `chance` (its
        share in the test set), and the number of most forgotten `images`.

    Raises:
        InputError: The run has no snapshots, its second branch is not pruned by magnitude, or the test images have no
            labels.
    """
    epochs = snapshot_epochs(run.snapshots)
    if not epochs:
        raise InputError(f"{run.path} kept no snapshots: train it again with --snapshot-epochs")
    if run.config.damage.kind not in {"prune", "none"}:
        raise InputError(f"{run.path} is neither SimCLR nor SDCLR: its second branch is not pruned by magnitude")
    if test.labels is None:
        raise InputError(f"{test.name} has no labels, so the groups of its images are unknown")
    size, rows = run.config.views.image_size, list[dict[str, Any]]()
    for epoch in epochs:
        both = _both(run, epoch, ratio)
        found = extract_features(
            both,
            test,
            preprocessing=Preprocessing(image_size=size),
            device=device or "cpu",
            workers=workers,
        )
        labels = test.labels[found.kept]
        dense, pruned = torch.from_numpy(found.values[labels >= 0]).chunk(2, dim=1)
        labels = labels[labels >= 0]
        worst = most_forgotten(forgetting(dense, pruned).numpy(), share)
        there, chance = group_shares(labels[worst], groups), group_shares(labels, groups)
        rows += [
            {
                "ratio": ratio,
                "epoch": epoch,
                "group": group,
                "share": there[group],
                "chance": chance[group],
                "images": len(worst),
            }
            for group in GROUPS
        ]
    return rows


def draw_forgotten(rows: Sequence[Row]) -> Figure:
    """Draw a panel per method and a line per group: mean and deviation over splits; dotted lines show chance.

    Args:
        rows: The results of `forgotten_shares`, each with its `method` and `split`.

    Raises:
        InputError: There is no row.
    """
    methods = list(dict.fromkeys(str(row["method"]) for row in rows))
    if not methods:
        raise InputError("no shares to draw: give the rows of at least one run")
    with panels(methods) as (figure, (axes,)):
        handles = []
        for panel, method in zip(axes, methods, strict=True):
            panel.set_xlabel("Epoch")
            for number, group in enumerate(GROUPS):
                chosen = [row for row in rows if row["method"] == method and row["group"] == group]
                epochs = sorted({row["epoch"] for row in chosen})
                spreads = [spread_of([100 * row["share"] for row in chosen if row["epoch"] == e]) for e in epochs]
                line = spread_line(panel, epochs, spreads, color=PALETTE[number], marker=MARKERS[number])
                chance = 100 * float(np.mean([row["chance"] for row in chosen]))
                panel.axhline(chance, color=PALETTE[number], linestyle=":", linewidth=1)
                handles.append(line)
        axes[0].set_ylabel(f"Share of the {100 * SHARE:g} % most forgotten / %")
        axes[0].set_ylim(0, 100)
        axes[0].set_xlim(left=0)
        legend(figure, handles[: len(GROUPS)], [group.capitalize() for group in GROUPS])
    return figure


class _Both(nn.Module):
    """Two encoders in one module, so that images are decoded once: features `(N, 2 D)`, dense ones first."""

    def __init__(self, dense: nn.Module, pruned: nn.Module) -> None:
        super().__init__()
        self.dense, self.pruned = dense, pruned

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([self.dense(images), self.pruned(images)], dim=1)


def _both(run: Run, epoch: int, ratio: float) -> nn.Module:
    objective = run.objective(epoch)
    network, twin = cast("Network", objective.network), objective.competitor
    if twin is None:
        twin = SelfCompetitor(network, ratio, independent_norm=False)
    elif twin.ratio != ratio:
        twin.ratio = ratio
        twin.refresh()
    return _Both(network.encoder, twin.part("encoder"))
