"""Defaults of the page of rare images."""

from typing import Final

PAGE_IMAGES: Final = 100_000
"""The page lists so many of the rarest images by default. A browser takes long for more."""
