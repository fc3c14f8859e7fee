"""Rank the images of a collection by rarity, without labels."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from sdclr.config import to_json
from sdclr.data.scan import Progress
from sdclr.data.sources import ImageSource, Source, fingerprint, open_source
from sdclr.errors import InputError
from sdclr.evaluation.clusters import find_clusters
from sdclr.features.nearest import nearest
from sdclr.mining.cluster_size import cluster_size, default_clusters
from sdclr.mining.forgetting import load_networks, own_normalisation
from sdclr.mining.loss import draw_references, reference_loss
from sdclr.mining.neighbours import local_outlier_factor, neighbour_distance
from sdclr.mining.reading import Plan, Reading, read_collection
from sdclr.mining.scores import Scores, rank_images
from sdclr.precision import Amp
from sdclr.training.run import Run, write_json
from sdclr.version import __version__

Score = Literal["distance", "lof", "cluster_size", "forgetting", "loss"]

_SMALL_IS_RARE: Final = frozenset({"cluster_size"})


@dataclass(frozen=True, kw_only=True)
class MineConfig:
    """What is measured of each image, and what ranks."""

    score: Score = "distance"
    """What ranks. distance: mean distance to the first k nearest neighbours in the encoder's features; lof: density of
    the neighbours over the image's own; cluster_size: few images in its cluster; forgetting: what pruning changes;
    loss: the contrastive loss."""
    k: tuple[int, ...] = (10,)
    """Neighbours; each number gives a column, the first one ranks."""
    clusters: int | None = None
    """Clusters sought; by default the root of the number of images."""
    ratios: tuple[float, ...] | None = None
    """Pruning ratios that forgetting is measured at, the first one ranks; by default that of the run, none for a run
    without pruning."""
    projection: bool = False
    """Measure forgetting behind the projection head, too."""
    views: int = 1
    """Views that forgetting is averaged over: 1 takes the evaluation view; more add augmented ones, which tells what
    pruning changes whatever the crop and colours."""
    checkpoints: int = 1
    """Newest checkpoints of the run that forgetting is averaged over, which evens out what one state has by chance; a
    run keeps two."""
    loss: bool = False
    """Measure the contrastive loss, which takes two more views of each image."""
    references: int = 512
    """Images that serve as negatives of every image's loss."""
    lof: bool = False
    """Measure the local outlier factor."""
    batch_size: int = 256
    """Images a forward pass."""
    amp: Amp = "auto"
    """Mixed precision; auto takes bf16 where the hardware has units for it."""
    seed: int = 0
    """Decides augmented views, negatives and where clusters start."""

    def __post_init__(self) -> None:
        if not self.k or min(self.k) < 1:
            raise InputError(f"--k asks for {self.k}: give one or more numbers of neighbours, each 1 or more")
        for name in ("views", "checkpoints", "references", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name.replace('_', '-')} is 1 or more, not {getattr(self, name)}")
        if self.clusters is not None and self.clusters < 1:
            raise InputError(f"--clusters is 1 or more, not {self.clusters}")
        for ratio in self.ratios or ():
            if not 0 <= ratio < 1:
                raise InputError(f"--ratios lie in [0, 1), not {ratio}: 0.9 removes nine weights in ten")
        if self.seed < 0:
            raise InputError(f"--seed is 0 or more, not {self.seed}")


def mine(
    run: Run | str | Path,
    source: ImageSource,
    config: MineConfig | None = None,
    *,
    out: str | Path | None = None,
    device: str | torch.device = "cpu",
    workers: int = 0,
    progress: Progress | None = None,
) -> Scores:
    """Rank every image of a collection by rarity.

    Writes `scores.parquet`, `summary.json` and the folder `reading` with what the encoder said. A pass over the images
    that was stopped goes on where it was; one that is complete is used again, so that another `score`, `k` or number of
    clusters takes seconds. Images that changed under the same ids are not noticed: remove `reading` then.

    Args:
        run: A run, or its folder.
        source: The images. Those that cannot be decoded are listed in `Scores.bad`.
        config: What is measured; `MineConfig()` by default.
        out: The folder to write into; `mine` in the run's folder by default.
        device: Where networks and the search for neighbours run.
        workers: Processes that decode images.
        progress: Called with (images done, images in all) after every batch.

    Returns:
        The scores.

    Raises:
        InputError: If no image can be decoded, fewer than k + 1 images can, or the run has nothing to prune by while
            forgetting is to rank.
    """
    config = config or MineConfig()
    run = run if isinstance(run, Run) else Run.open(run)
    images, folder = open_source(source), Path(out) if out is not None else run.path / "mine"
    where = torch.device(device)
    ratios = _ratios(run, config)
    loss = config.loss or config.score == "loss"
    states = load_networks(run, ratios, config.checkpoints if ratios else 1) if ratios or loss else []
    plan = Plan(
        views=run.config.views,
        forgetting_views=config.views if ratios else 1,
        pairs=max(1, (config.views - 1) // 2) if loss else 0,
        projection=config.projection and bool(ratios),
        batch_size=config.batch_size,
        amp=config.amp,
        seed=config.seed,
    )
    encoder = states[0].dense.encoder if states else run.encoder()
    reading = read_collection(
        images, encoder, states, plan, folder / "reading", device=where, workers=workers, progress=progress
    )
    scores = _scored(run, images, reading, config, ratios=ratios, device=where)
    scores.write(folder / "scores.parquet")
    write_json(folder / "summary.json", scores.summary())
    return scores


def _ratios(run: Run, config: MineConfig) -> tuple[float, ...]:
    own = (run.pruned,) if run.pruned else ()  # an adaptive ratio may have ended at 0, which forgets nothing
    ratios = own if config.ratios is None else tuple(dict.fromkeys(config.ratios))
    if config.score == "forgetting" and not ratios:
        raise InputError(f"{run.path} ended without pruning: give --ratios, or another --score than forgetting")
    return ratios


def _scored(
    run: Run, source: Source, reading: Reading, config: MineConfig, *, ratios: tuple[float, ...], device: torch.device
) -> Scores:
    usable, total = reading.usable, len(source)
    # Without bad images the file itself is searched, so that features lie in memory once.
    features = reading.features if len(usable) == total else reading.features[usable]
    found = nearest(torch.from_numpy(features).to(device), max(config.k))
    clusters = find_clusters(features, config.clusters or default_clusters(len(usable)), seed=config.seed)

    def spread(values: Any, empty: float = np.nan) -> NDArray[Any]:
        """(N,) from the usable images' values."""
        array = values.cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
        whole = np.full(total, empty, dtype=array.dtype)
        whole[usable] = array
        return whole

    columns = {f"distance_{k}": spread(neighbour_distance(found, k)) for k in config.k}
    if config.lof or config.score == "lof":
        columns |= {f"lof_{k}": spread(local_outlier_factor(found, k)) for k in config.k}
    columns["cluster_size"] = spread(cluster_size(clusters))
    columns |= reading.columns
    if (projections := reading.projections) is not None:
        references = draw_references(usable, config.references, config.seed)
        losses = [
            reference_loss(projections[:, pair, 0], projections[:, pair, 1], references, run.config.temperature)
            for pair in range(projections.shape[1])
        ]
        columns["loss"] = np.mean(losses, axis=0)
    ranking = {
        "distance": f"distance_{config.k[0]}",
        "lof": f"lof_{config.k[0]}",
        "forgetting": f"forgetting_{ratios[0]:g}" if ratios else "",
    }.get(config.score, config.score)
    sign = -1 if ranking in _SMALL_IS_RARE else 1
    return rank_images(
        source.ids,
        columns,
        sign * columns[ranking],
        spread(clusters.labels, -1),
        score=config.score,
        bad=reading.bad,
        ties=columns[f"distance_{config.k[0]}"],
        labels=source.labels,
        classes=source.classes,
        about={
            "run": run.path.name,
            "source": source.name,
            "fingerprint": fingerprint(source),
            "ranked_by": ranking,
            "normalisation": ("own" if own_normalisation(run) else "shared") if ratios else None,
            "config": to_json(config),
            "sdclr": __version__,
        },
    )
