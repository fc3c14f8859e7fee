"""The page of rare images from a collection's scores."""

from functools import partial
from pathlib import Path

import numpy as np

from sdclr.data.scan import Progress
from sdclr.data.sources import Source
from sdclr.mining.scores import Scores
from sdclr.mining.why import why
from sdclr.reporting.gallery import GalleryEntries, KindGroup, write_gallery


def write_page(
    path: str | Path,
    scores: Scores,
    source: Source,
    *,
    thumbnails: int | None = None,
    workers: int = 0,
    progress: Progress | None = None,
) -> Path:
    """Show a ranked collection, the rarest image first. See `write_gallery`.

    Args:
        path: The HTML file.
        scores: What `mine` found.
        source: The images that were mined.
        thumbnails: How many of the rarest get a picture; all by default.
        workers: Processes that decode images.
        progress: Called with (thumbnails done, thumbnails in all).

    Returns:
        The file.
    """
    order = scores.order()
    # All images are one kind: these scores tell no kinds apart.
    groups = (
        [KindGroup(kind=0, size=len(order), separation=1.0, medoid=int(order[-1]), rare=False)] if len(order) else []
    )
    entries = GalleryEntries(
        ids=scores.ids,
        columns=scores.columns,
        rarity=scores.rarity,
        rank=scores.rank,
        percentile=scores.percentile,
        kinds=np.where(scores.rank > 0, 0, -1),
        groups=groups,
        odd=np.zeros(0, dtype=np.int64),
        bad=scores.bad,
        labels=scores.labels,
        classes=scores.classes,
        score=scores.score,
    )
    return write_gallery(
        path,
        entries,
        source,
        title=f"Rare images of {source.name}",
        why=partial(why, scores),
        thumbnails=thumbnails,
        workers=workers,
        progress=progress,
    )
