"""Where an encoded image lies on disk, and how much space there is for decoded ones."""

from pathlib import Path
from typing import Final, NamedTuple

CACHE_GB: Final = 10.0
"""Default limit of the cache of decoded images, in GB of 10^9 bytes: about 12,000 photos for views of 224 px."""


class Stored(NamedTuple):
    """The place of an encoded image, and who decodes it."""

    file: Path
    """The file."""
    row: int | None
    """The row, where the file is a table of images."""
    decoder: str
    """Name of the class that makes pixels of it, and by which range of intensities: others may make others."""
    at: int = 0
    """The place of the page, where the file is a TIFF of several; see `sdclr.decoding.pages`."""
