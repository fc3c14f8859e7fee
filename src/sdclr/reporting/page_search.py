"""Search by example on the page of rare images: its files, and its settings in the page."""

import re
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from sdclr.data.sources import Source
from sdclr.encoders import Encoder
from sdclr.errors import BadImageError
from sdclr.features.view import decode_side, evaluation_view
from sdclr.files import remove
from sdclr.reporting.browser_encoder import BrowserEncoder, browser_encoder, write_encoder
from sdclr.reporting.encoder_graph import UnsupportedEncoderError
from sdclr.reporting.search_index import LIMIT, SearchIndex, check_features, make_index, write_index

_TRIED: Final = 8
"""Number of images to try until one is readable, to compare with its features."""

_OWN: Final = 0.98
"""Minimum cosine at which features count as the encoder's. Mixed precision gives 0.99 or more."""


def write_search(
    folder: Path,
    stamp: str,
    features: NDArray[np.floating[Any]] | None,
    rows: NDArray[np.int64],
    source: Source,
    *,
    encoder: Encoder | None = None,
    limit: int = LIMIT,
) -> dict[str, Any] | None:
    """Write the index of a page, and the encoder if a browser can compute it.

    Args:
        folder: The page's folder.
        stamp: Part of the file names that identifies the page.
        features: (N, D) of the source's images, maybe memory-mapped; nan for images not in `rows`. With None, nothing
            is written.
        rows: Positions of the images on the page, in its order.
        source: The images. One is read, to check that the encoder made the features.
        encoder: The encoder of the features, if any.
        limit: Maximum bytes of the index.

    Returns:
        Search settings for the page; None without features.

    Raises:
        InputError: The features do not match the images.
    """
    if features is None:
        return None
    check_features(features, len(source))
    index = make_index(features, rows, limit=limit)
    if index is None:
        return {"index": None, "why": _why_none(len(rows), limit), "encoder": None}
    known = write_index(folder, f"search-{stamp}-", index)
    told: dict[str, Any] = {"index": known, "why": "", "encoder": None}
    found = None if encoder is None else _usable(encoder, features, rows, source)
    if found is not None:
        told["encoder"] = write_encoder(folder, f"encoder-{stamp}-", found, index.components)
    told["about"] = _about(index, features.shape[1])
    if found is None:
        told["about"] += " To search by a file, run: sdclr neighbors IMAGES --queries FILE"
    return told


def _usable(encoder: Encoder, features: NDArray[Any], rows: NDArray[np.int64], source: Source) -> BrowserEncoder | None:
    """The encoder for a browser; None if a browser cannot run it, or if it did not make the features."""
    try:
        return browser_encoder(encoder) if _made(encoder, features, rows, source) else None
    except UnsupportedEncoderError:
        return None


@torch.no_grad()
def _made(encoder: Encoder, features: NDArray[Any], rows: NDArray[np.int64], source: Source) -> bool:
    if features.shape[1] != encoder.num_features:
        return False
    for position in rows[:_TRIED].tolist():
        try:
            image = source.image(position, min_side=decode_side(encoder.preprocessing))
        except BadImageError:
            continue
        view = torch.tensor(evaluation_view(image, encoder.preprocessing)).permute(2, 0, 1)[None]
        own = encoder(view.to(encoder.mean.device)).cpu()
        given = torch.tensor(np.asarray(features[position], dtype=np.float32))[None]
        return bool(torch.nn.functional.cosine_similarity(own, given) >= _OWN)
    return False


def _why_none(images: int, limit: int) -> str:
    if images < 2:
        return "The search needs at least two images."
    return (
        f"The index of {images:,} images would exceed {limit / 2**20:.0f} MiB and is left out. To find similar "
        "images, run: sdclr neighbors IMAGES --queries FILE"
    )


def _about(index: SearchIndex, width: int) -> str:
    """Text on the accuracy of the search."""
    return (
        f"Approximate: finds {100 * index.recall:.0f}% of the true 10 nearest images, from {index.codes.shape[1]:,} "
        f"components of {width:,} features."
    )


def remove_searches(folder: Path, told: dict[str, Any] | None) -> None:
    """Remove the scripts of earlier searches: all that the page does not use."""
    kept = {name for part in ("index", "encoder") for name in ((told or {}).get(part) or {}).get("scripts", ())}
    for file in folder.iterdir():
        if re.fullmatch(r"\.?(?:search|encoder)-[0-9a-f]{12}-\d+\.js(?:\.tmp)?", file.name) and file.name not in kept:
            remove(file)
