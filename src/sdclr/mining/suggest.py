"""Suggest images to label first, for the page."""

from typing import Final

import numpy as np
import torch

from sdclr.mining.reading import Reading
from sdclr.mining.scores import Scores
from sdclr.mining.selection import select_samples
from sdclr.progress import stage

LABEL_NEXT: Final = 100
"""Number of suggested images. `sdclr select` chooses any number."""

LOOKED_AT: Final = 20_000
"""Maximum number of candidate images; larger collections are sampled at random."""


def first_to_label(reading: Reading, scores: Scores, device: torch.device) -> tuple[int, ...]:
    """Positions of the first images to label, as from `sdclr select`, with one of each group of near-duplicates."""
    copies = {position for _, *others in scores.duplicates for position in others}
    usable = np.array([position for position in reading.usable.tolist() if position not in copies], dtype=np.int64)
    if len(usable) > LOOKED_AT:  # a copy of all features of a million images would take gigabytes
        usable = np.sort(np.random.default_rng(0).choice(usable, LOOKED_AT, replace=False))
    features = torch.from_numpy(reading.features[usable]).to(device)
    budget = min(LABEL_NEXT, len(usable))
    with stage("choosing what to label next"):
        chosen = select_samples(features, scores.rarity[usable], budget, kinds=scores.kinds[usable])
    return tuple(usable[chosen].tolist())
