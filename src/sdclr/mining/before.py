"""Reuse of the results of an earlier call in a folder.

`sdclr select` and `sdclr duplicates` use the scores of `sdclr mine`. These are valid if the features are equal and the
settings differ at most in the map.
"""

import hashlib
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from sdclr.config import from_json, to_json
from sdclr.data.sources import Source
from sdclr.errors import DamagedFileError, InputError
from sdclr.files import read_bytes, read_json
from sdclr.intensities import Intensities
from sdclr.mining.duplicates import Duplicates, kept_duplicates
from sdclr.mining.kept import GUARD
from sdclr.mining.reading import Reading
from sdclr.mining.scores import Scores
from sdclr.progress import tell
from sdclr.version import __version__

SCORES: Final = "scores.parquet"
"""File of the scores."""

_FREE: Final = "map"
"""The setting that does not change scores."""


class Before(NamedTuple):
    """Scores of an earlier call."""

    scores: Scores
    duplicates: Duplicates | None
    """None if they were not searched."""


def reading_key(reading: Reading, folder: Path | None) -> dict[str, str]:
    """Key of features.

    Args:
        reading: The features.
        folder: The folder whose reading file describes them; None for embeddings, whose values are hashed.
    """
    known = np.ascontiguousarray(reading.features).data if folder is None else read_bytes(folder / "reading" / GUARD)
    return {"features": hashlib.blake2b(known, digest_size=16).hexdigest()}


def kept_intensities(folder: Path, source: Source) -> Intensities:
    """Intensity range of an earlier call in a folder, if it had most of these images."""
    if not (folder / "summary.json").is_file():
        return Intensities()
    summary = read_json(folder / "summary.json", "run `sdclr mine` again after removing it")
    rarest, kept = summary.get("rarest") or (), summary.get("intensities")
    same = 2 * len(set(source.ids).intersection(rarest)) > len(rarest)
    return from_json(Intensities, kept) if same and isinstance(kept, dict) else Intensities()


def scores_before(folder: Path, key: dict[str, str], config: Any, source: Source) -> Before | None:
    """The scores in a folder, if they have these features and the same settings and version.

    Args:
        folder: The result folder.
        key: Key of the features.
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
    """Whether a folder has scores of these features, with any settings."""
    return _of(folder, key) is not None


def _of(folder: Path, key: dict[str, str]) -> Scores | None:
    try:
        scores = Scores.read(folder / SCORES)
    except DamagedFileError as error:
        tell(f"{error}; the scores are computed again now")
        return None
    except InputError:  # there are none, or they are of another version
        return None
    return scores if scores.about.get("reading") == key else None


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name != _FREE}
