"""Location of encoded images on disk, and the default cache size for decoded images."""

from pathlib import Path
from typing import Final, NamedTuple

CACHE_GB: Final = 10.0
"""Default limit of the cache of decoded images, in GB of 10^9 bytes: about 12,000 photos for views of 224 px."""


class Stored(NamedTuple):
    """Location of an encoded image, and its decoder."""

    file: Path
    """The file."""
    row: int | None
    """The row, if the file is a table of images."""
    decoder: str
    """Name of the decoding class, and its intensity range: both affect the pixels."""
    at: int = 0
    """Byte offset of the page in a multi-page TIFF file; see `sdclr.decoding.pages`."""
