"""Find near-duplicates: images that show the same picture as another image of the collection."""

from dataclasses import replace
from pathlib import Path

import torch

from sdclr.data.sources import ImageSource
from sdclr.mining.config import MineConfig
from sdclr.mining.duplicates import Duplicates
from sdclr.mining.mine import MinedEncoder, mine_features


def find_duplicates(
    images: ImageSource,
    config: MineConfig | None = None,
    *,
    encoder: MinedEncoder = None,
    out: str | Path | None = None,
    device: str | torch.device = "cpu",
    workers: int = 0,
) -> Duplicates:
    """Find the near-duplicates of a collection. Deletes nothing.

    This is `mine` with another result. It uses the same pass over the images and the same files, and reuses existing
    ones.

    Args:
        images: As for `mine`. Embeddings give near-duplicates only if their ids name image files, since pixels must
            confirm each pair.
        config: Further measures; `MineConfig()` by default.
        encoder: As for `mine`; its features give the candidates.
        out: The folder to write into; by default as for `mine`.
        device: Device of the encoder and of the search for neighbors.
        workers: Number of processes that decode and compare images.

    Returns:
        Groups with the image to keep first, and the edits of each other image.

    Raises:
        InputError: As for `mine`.

    Example:
        >>> found = sdclr.find_duplicates("images")
        >>> sorted(found.drop)  # ids of the images that could be dropped
        ['circle/29.jpg', 'square/23.jpg']
        >>> found.write("drop.csv")
        PosixPath('drop.csv')
    """
    config = replace(config or MineConfig(), duplicates=True)
    mined = mine_features(images, config, encoder=encoder, out=out, device=device, workers=workers, reuse=True)
    assert mined.duplicates is not None  # noqa: S101  # for mypy: the configuration asks for them
    return mined.duplicates
