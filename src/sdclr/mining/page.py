"""The page of rare images from a collection's scores."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdclr.config import from_json
from sdclr.data.intensities import with_intensities
from sdclr.data.sources import ImageSource, open_source
from sdclr.encoders import Encoder
from sdclr.intensities import Intensities
from sdclr.mining.explain import explain
from sdclr.mining.scores import Scores
from sdclr.reporting.config import PAGE_IMAGES
from sdclr.reporting.gallery import GalleryEntries, write_gallery


def write_page(
    path: str | Path,
    scores: Scores,
    source: ImageSource,
    *,
    thumbnails: int | None = None,
    images: int = PAGE_IMAGES,
    features: NDArray[np.floating[Any]] | None = None,
    encoder: Encoder | None = None,
    workers: int = 0,
) -> Path:
    """Show a ranked collection, the rarest image first. See `write_gallery`.

    Args:
        path: The HTML file.
        scores: What `mine` found.
        source: The images that were mined: a path, or whatever else `open_source` takes.
        thumbnails: How many of the rarest get a picture; all by default.
        images: How many of the rarest are listed. The file `scores.parquet` has all.
        features: (N, D) that the scores came from, as in `Mined.features`: the page then finds similar images.
        encoder: What made the features: the page then also finds images like a file that is dropped on it, if a browser
            can compute the encoder.
        workers: Processes that decode images.

    Returns:
        The file.

    Example:
        >>> scores = sdclr.mine("images", encoder="runs/digits")
        >>> sdclr.write_page("rarest.html", scores, "images").stat().st_size > 10_000
        True
    """
    source = open_source(source)
    if seen := scores.about.get("intensities"):
        source = with_intensities(source, from_json(Intensities, seen))
    entries = GalleryEntries(
        ids=scores.ids,
        columns=scores.columns,
        rarity=scores.rarity,
        rank=scores.rank,
        percentile=scores.percentile,
        kinds=scores.kinds,
        groups=scores.groups,
        odd=scores.odd,
        bad=scores.bad,
        labels=scores.labels,
        classes=scores.classes,
        score=scores.score,
        duplicates=scores.duplicates,
        projection=scores.projection,
        label_next=np.array(scores.label_next, dtype=np.int64),
        since=scores.since,
        old=scores.old,
    )
    return write_gallery(
        path,
        entries,
        source,
        title=f"Images of {source.name}",
        why=partial(explain, scores),
        thumbnails=thumbnails,
        images=images,
        features=features,
        encoder=encoder,
        workers=workers,
    )
