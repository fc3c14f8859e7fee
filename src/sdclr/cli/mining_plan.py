"""The plan of the commands that mine images. Apart from `plan`, because it imports all of mining."""

from pathlib import Path

import torch
from rich.console import Console

from sdclr.cli.plan import tell_plan
from sdclr.data.sources import Source
from sdclr.features.embeddings import Embeddings
from sdclr.mining.config import MineConfig
from sdclr.mining.mine import left_to_read
from sdclr.mining.plan import passes
from sdclr.training.resolve import ResolvedEncoder


def tell_mining(
    console: Console,
    source: Source,
    used: ResolvedEncoder | Embeddings,
    config: MineConfig,
    folder: Path,
    *,
    device: torch.device,
    workers: int,
    out: str | Path,
) -> None:
    """Print the plan of a command that mines images, or uses what `mine` has stored in a folder.

    Args:
        console: The console.
        source: The images.
        used: The encoder, or embeddings.
        config: Settings of mining.
        folder: The folder of `mine`.
        device: Device of the encoder.
        workers: Number of processes that decode.
        out: Output place.
    """
    left = left_to_read(source, used, config, out=folder, device=device)
    tell_plan(
        console,
        source,
        used,
        device=device,
        workers=workers,
        amp=config.amp,
        out=out,
        images=left,
        read=None if left else folder,
        passes=passes(used, config),
    )
