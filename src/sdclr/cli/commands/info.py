"""Options of `sdclr info`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from sdclr.cli.options import Device, EncoderName, Workers

_IMAGES_HELP = "Images, or embeddings of images, as for `sdclr mine`. Without them it describes only the environment."


@dataclass(frozen=True, kw_only=True)
class Info:
    """Describe images, the time that commands would take on them, and the environment for a bug report.

    Reads the headers of the files: count, sizes, formats, files that cannot be read, identical files, disk space.
    Measures the speed of reading and of training in a few seconds on some of the images.

    For example:
        sdclr info
        sdclr info ./images
        sdclr info ./images --decode --no-measure --json info.json
    """

    images: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="IMAGES", help=_IMAGES_HELP)] = None
    encoder: EncoderName = None
    decode: bool = False
    """Also decode every image, which finds files that are damaged after the header, and verify the checksums of shards
    by `sdclr pack`. Takes as long as a pass over the images."""
    measure: bool = True
    """Measure how long commands would take."""
    json: Path | None = None
    """Also write everything to a JSON file, with all names and sizes."""
    device: Device = "auto"
    workers: Workers = None
