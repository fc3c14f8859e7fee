"""Options of `sdclr mine`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final

import tyro

from sdclr.cli.options import Device, MinedEncoderName, MinedImages, Workers
from sdclr.mining.config import MineConfig
from sdclr.reporting.config import PAGE_IMAGES


@dataclass(frozen=True, kw_only=True)
class Mine:
    """Find the rare images of a collection, without labels, and show them on a page.

    Groups of images that are separate from the rest are kinds. Images of rare kinds come first. Writes scores.parquet,
    summary.json and rarest.html, which opens from disk. A stopped command resumes when it is run again. Another score
    takes only seconds.

    For example:
        sdclr mine ./images
        sdclr mine ./images --encoder timm:vit_small_patch14_dinov2.lvd142m
        sdclr mine ./images --encoder runs/a --score forgetting --ratios 0.5 0.9 --csv rare.csv
        sdclr mine ./new --against ./old
        sdclr mine embeddings.parquet
    """

    images: MinedImages
    encoder: MinedEncoderName = None
    against: Annotated[str | None, tyro.conf.arg(metavar="OLD")] = None
    """An older collection: images, embeddings by the same encoder, or the folder of its finished mine. Ranks images by
    how much they differ from the old ones: first kinds without a counterpart there."""
    out: Path | None = None
    """Folder to write into; by default mine/ in the run, mine-NAME/ there for images it was not trained on,
    or mined/NAME for other encoders."""
    config: Annotated[MineConfig, tyro.conf.arg(name="")] = field(default_factory=MineConfig)
    csv: Path | None = None
    """Also write the ranking to a CSV file."""
    fiftyone: Path | None = None
    """Also write the ranking as a file that FiftyOne imports (its CSVDataset); the images must be files."""
    page: bool = True
    """Write the page."""
    thumbnails: int | None = None
    """How many of the rarest images get a picture on the page; by default all."""
    page_images: int = PAGE_IMAGES
    """How many of the rarest images the page lists. Browsers are slow with more than 100,000."""
    device: Device = "auto"
    workers: Workers = None


SHORT: Final = {
    "images": (
        "IMAGES",
        "--encoder",
        "--image-size",
        "--against",
    ),
    "results": (
        "--out",
        "--csv",
        "--fiftyone",
        "--page",
        "--thumbnails",
    ),
    "ranking": (
        "--score",
        "--k",
        "--ratios",
        "--duplicates",
        "--map",
    ),
    "machine": (
        "--device",
        "--workers",
        "--batch-size",
        "--amp",
    ),
}
"""The options that most people set, which `--help` shows; `--help-all` shows all."""
