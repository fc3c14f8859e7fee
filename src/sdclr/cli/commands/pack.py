"""Options of `sdclr pack`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from sdclr.cli.options import Images


@dataclass(frozen=True, kw_only=True)
class Pack:
    """Write images as tar shards in the WebDataset layout, for collections of very many files or on slow disks.

    Images are copied byte by byte and keep their ids and labels. manifest.json lists ids and the checksum of each
    shard; `sdclr info wds:OUT --decode` verifies them. Files that are not images are left out and listed in
    bad_images.csv. A stopped command resumes when it is run again.

    For example:
        sdclr pack ./images ./shards
        sdclr pack ./images ./shards --shuffle --shard-images 2000
        sdclr mine wds:./shards
    """

    images: Images
    out: Annotated[
        Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT", help="A new or empty folder for the shards.")
    ]
    shard_images: int = 10_000
    """Images in a shard, at most."""
    shard_gb: float = 1.0
    """Size of a shard in GB, at most; a larger image gets its own shard."""
    shuffle: bool = False
    """Put the images in a random order, the same each time. Needed for `sdclr pretrain --shuffle-buffer` if adjacent
    images are similar, as in class folders."""
    shorter_side: int | None = None
    """Shrink larger images to this shorter side in pixels, as JPEGs of quality 95; by default all are copied."""
