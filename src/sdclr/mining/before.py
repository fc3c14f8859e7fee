"""What an earlier call has left in a folder, and whether it serves again.

`sdclr select` and `sdclr duplicates` go by the scores of `sdclr mine`. Those hold if the features are the same, and if
nothing but the map differs in the settings.
"""

import hashlib
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from sdclr.config import to_json
from sdclr.data.sources import Source
from sdclr.errors import InputError
from sdclr.mining.duplicates import Duplicates, kept_duplicates
from sdclr.mining.reading import GUARD, Reading
from sdclr.mining.scores import Scores
from sdclr.version import __version__

SCORES: Final = "scores.parquet"
"""File of the scores."""

_FREE: Final = "map"
"""A setting that changes no score."""


class Before(NamedTuple):
    """Scores of an earlier call."""

    scores: Scores
    duplicates: Duplicates | None
    """None if they were not looked for."""


def reading_key(reading: Reading, folder: Path | None) -> dict[str, str]:
    """What features are known by.

    Args:
        reading: The features.
        folder: Whose file says what they were read by; None for embeddings, which are known by themselves.
    """
    known = np.ascontiguousarray(reading.features).data if folder is None else _guard(folder)
    return {"features": hashlib.blake2b(known, digest_size=16).hexdigest()}


def _guard(folder: Path) -> memoryview:
    return memoryview((folder / "reading" / GUARD).read_bytes())


def scores_before(folder: Path, key: dict[str, str], config: Any, source: Source) -> Before | None:
    """The scores that lie in a folder, if they are of these features by the same settings and version.

    Args:
        folder: Where they would lie.
        key: Of the features.
        config: The settings of `mine`.
        source: The images.
    """
    scores = _of(folder, key)
    if scores is None or scores.about.get("sdclr") != __version__:
        return None
    if _settings(scores.about.get("config", {})) != _settings(to_json(config)):
        return None
    if not config.duplicates:
        return Before(scores, None)
    copies = kept_duplicates(folder, source)
    return Before(scores, copies) if copies is not None and copies.groups == scores.duplicates else None


def has_scores(folder: Path, key: dict[str, str]) -> bool:
    """Whether scores of these features lie in a folder, by whatever settings."""
    return _of(folder, key) is not None


def _of(folder: Path, key: dict[str, str]) -> Scores | None:
    try:
        scores = Scores.read(folder / SCORES)
    except InputError:
        return None
    return scores if scores.about.get("reading") == key else None


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name != _FREE}
