"""Images of a collection that show the same picture as another one."""

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
    """Find the near-duplicates of a collection, without deleting anything.

    This is `mine` with another result: the same pass, the same files, taken up where it is complete.

    Args:
        images: As for `mine`. Embeddings have near-duplicates only if their ids name image files: without pixels
            nothing is confirmed, and nothing is reported.
        config: What is measured besides; `MineConfig()` by default.
        encoder: As for `mine`; it names the candidates.
        out: The folder to write into; by default as for `mine`.
        device: Where the encoder and the search for neighbors run.
        workers: Processes that decode and compare images.

    Returns:
        Groups, the image to keep first, and how each other one differs from it.

    Raises:
        InputError: As `mine` does.

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
