"""`sdclr info`: its options."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from sdclr.cli.options import Device, EncoderName, Workers

_IMAGES_HELP = "Images, or embeddings of images, as for `sdclr mine`. Without them only the environment is described."


@dataclass(frozen=True, kw_only=True)
class Info:
    """Describe images, how long commands would take on them here, and the environment for a bug report.

    Looks at the headers of the files: count, sizes, formats, files that cannot be read, copies by bytes, disk space.
    The speed of reading and of training is measured in a few seconds on some of the images.

    For example:
        sdclr info
        sdclr info ./images
        sdclr info ./images --decode --no-measure --json info.json
    """

    images: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="IMAGES", help=_IMAGES_HELP)] = None
    encoder: EncoderName = None
    decode: bool = False
    """Decode every image, too, which finds files that are damaged behind the header. Takes as long as a pass over the
    images."""
    measure: bool = True
    """Measure how long commands would take."""
    json: Path | None = None
    """Also write everything to a JSON file, with all names and sizes."""
    device: Device = "auto"
    workers: Workers = None
