"""Write the page of rare images from the scores of a collection."""

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
    """Write a page of a ranked collection, rarest image first. See `write_gallery`.

    Args:
        path: The HTML file.
        scores: The result of `mine`.
        source: The mined images: a path, or any other input of `open_source`.
        thumbnails: Number of the rarest images with a thumbnail; all by default.
        images: Number of the rarest images to list. The file `scores.parquet` has all.
        features: (N, D) features behind the scores, as in `Mined.features`, to search for similar images on the page.
        encoder: The encoder of the features, to search with image files on the page, if a browser can run it.
        workers: Number of decoding processes.

    Returns:
        Path of the file.

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
