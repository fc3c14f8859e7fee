"""Choose the images of a collection to label next, from its scores and features."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from sdclr.data.sources import ImageSource
from sdclr.errors import InputError, not_a_text
from sdclr.mining.config import DEFAULT, Method, MineConfig
from sdclr.mining.mine import MinedEncoder, mine_features, open_mined
from sdclr.mining.scores import Scores
from sdclr.mining.selection import select_samples
from sdclr.progress import stage


class Choice(NamedTuple):
    """Images chosen to be labeled.

    Attributes:
        positions: (budget,) int64, positions in the source, in the order of choice.
        ids: Their ids.
        scores: The scores of the whole collection.
    """

    positions: NDArray[np.int64]
    ids: list[str]
    scores: Scores


def select(
    images: ImageSource,
    budget: int | Literal["all"],
    *,
    encoder: MinedEncoder = None,
    method: Method = DEFAULT,
    labeled: Sequence[str] = (),
    config: MineConfig | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    workers: int = 0,
) -> Choice:
    """Mine a collection, or reuse its scores, and choose images to label. See `select_samples` for the methods.

    Args:
        images: The images, or embeddings of them, as for `mine`. Unreadable images are never chosen.
        budget: Number of images to choose; "all" puts all images without labels in order.
        encoder: As for `mine`.
        method: The method.
        labeled: Ids of labeled images.
        config: Settings of mining; `MineConfig()` by default.
        out: The folder of the scores; by default as for `mine`.
        seed: Seed of the random choices of a method.
        device: Device of networks and searches.
        workers: Number of decoding processes.

    Returns:
        The images, and the scores of the collection.

    Raises:
        InputError: `labeled` is not a list of ids of the source, or the budget exceeds the number of unlabeled images.

    Examples:
        >>> choice = sdclr.select("images", 3)
        >>> sorted(name.split("/")[0] for name in choice.ids)
        ['circle', 'square', 'star']
    """
    settings = config or MineConfig()
    source, used = open_mined(images, encoder, image_size=settings.image_size, out=out)
    not_a_text(labeled, "labeled", "ids")
    known = set(labeled)
    # Check the arguments before reading the images.
    strange = sorted(known - set(source.ids))
    if strange:
        raise InputError(
            f"{strange[0]!r}, listed as labeled, is not an id of these images: give ids as `sdclr mine` does"
        )
    _check(budget, len(source), len(known), "")
    scores, found, *_ = mine_features(
        source, settings, encoder=used, out=out, device=device, workers=workers, reuse=True
    )
    usable = np.flatnonzero(scores.rank > 0)
    place = {scores.ids[position]: row for row, position in enumerate(usable.tolist())}
    rows = [place[image_id] for image_id in known if image_id in place]
    _check(budget, len(usable), len(rows), f" ({len(scores.bad):,} unreadable)" if scores.bad else "")
    wanted = len(usable) - len(rows) if budget == "all" else budget
    # One of each group of near-duplicates is enough. The others come last.
    copies = {position for _, *others in scores.duplicates for position in others} - set(usable[rows].tolist())
    single = np.array([position for position in usable.tolist() if position not in copies], dtype=np.int64)
    first = min(wanted, len(single) - len(rows))
    positions = np.zeros(0, dtype=np.int64)
    if first:
        with stage("choosing what to label next"):
            chosen = select_samples(
                torch.from_numpy(found[single]).to(device),
                scores.rarity[single],
                first,
                method=method,
                labeled=np.searchsorted(single, np.sort(usable[rows])),
                kinds=scores.kinds[single],
                seed=seed,
            )
        positions = single[chosen]
    positions = np.concatenate([positions, sorted(copies)])[:wanted].astype(np.int64)
    return Choice(positions, [scores.ids[position] for position in positions.tolist()], scores)


def _check(budget: int | Literal["all"], images: int, labeled: int, unreadable: str) -> None:
    """Raise an error if the budget exceeds the number of unlabeled images."""
    free = images - labeled
    if free < 1:
        raise InputError(f"all {images:,} images have labels already{unreadable}: there is nothing left to choose")
    if budget != "all" and not 1 <= budget <= free:
        raise InputError(f"budget {budget}: {free:,} images have no label yet{unreadable}; give 1 to {free}, or all")
