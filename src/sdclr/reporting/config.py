"""Defaults of the page of rare images."""

from typing import Final

PAGE_IMAGES: Final = 100_000
"""Default number of images on the page. Browsers are slow with more."""
