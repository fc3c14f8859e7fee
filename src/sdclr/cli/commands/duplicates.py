"""Options of `sdclr duplicates`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from sdclr.cli.options import Device, Workers
from sdclr.encoders import DEFAULT as DEFAULT_ENCODER
from sdclr.encoders.config import GRAMMAR


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """Find near-duplicates: images that show the same picture, recompressed, resized, cropped, mirrored or brightened.

    Prints their number and the largest groups. Of each group the image with the most pixels is the one to keep. No file
    is deleted: --out and --marks write lists. The features are those of `sdclr mine`, and a complete pass is reused.

    For example:
        sdclr duplicates ./images
        sdclr duplicates ./images --out drop.csv
        sdclr duplicates ./images --marks marks.csv
    """

    images: Annotated[
        str,
        tyro.conf.Positional,
        tyro.conf.arg(metavar="IMAGES", help="Images as for `sdclr mine`; or embeddings whose ids are image files."),
    ]
    encoder: Annotated[
        str | None,
        tyro.conf.arg(
            metavar="ENCODER",
            help=f"The encoder that finds candidates: {GRAMMAR}; or embeddings of the images. By default "
            f"{DEFAULT_ENCODER}.",
        ),
    ] = None
    out: Path | None = None
    """CSV file to write: drop, keep, similarity, how; and the paths if images are files."""
    marks: Path | None = None
    """CSV file to write in the form of the page's marks: path, id, mark (drop), label."""
    folder: Path | None = None
    """Folder of the pass over the images; by default as for `sdclr mine`."""
    device: Device = "auto"
    workers: Workers = None
