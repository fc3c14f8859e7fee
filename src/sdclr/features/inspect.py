"""Inspects collections of images or embeddings: contents and faults."""

from dataclasses import replace
from pathlib import Path
from typing import Final

from sdclr.data.inventory import MOST_LOOKED_AT, Inventory, take_inventory
from sdclr.data.sources import ImageSource
from sdclr.features.embeddings import EmbeddedImages, open_images

_LOOKED_UP: Final = 100
"""Number of ids of embeddings that are looked up as files."""


def inspect_images(
    images: ImageSource, *, decode: bool = False, workers: int = 0, most: int = MOST_LOOKED_AT
) -> Inventory:
    """Inspect a collection without training or encoding: sizes, formats, damage, copies, disk space.

    Args:
        images: A folder, a manifest, or anything else that `open_source` accepts; or a file of embeddings.
        decode: Decode every image, too. This finds files that are damaged behind the header, and takes as long as a
            pass over the images.
        workers: Processes that decode; 0 decodes in this process.
        most: Maximum number of images whose headers are read; larger collections are sampled at even spacing.

    Returns:
        What the collection holds.

    Raises:
        InputError: The images cannot be opened.

    Examples:
        >>> found = sdclr.inspect_images("images")
        >>> found.classes
        {'circle': 30, 'square': 24, 'star': 6}
        >>> sdclr.inspect_images("digits").sizes
        {(8, 8): 1297}
    """
    source = open_images(images)
    place = _place(images)
    if not isinstance(source, EmbeddedImages):
        return take_inventory(source, place=place, decode=decode, workers=workers, most=most)
    pictures = any(source.file(index) for index in range(min(len(source), _LOOKED_UP)))
    found = take_inventory(
        source, place=place, decode=decode and pictures, workers=workers, most=most if pictures else 0
    )
    return replace(found, kind="embeddings", vector=source.embeddings.values.shape[1])


def _place(images: ImageSource) -> Path | None:
    """A file or folder on the disk of the images, from a text such as `cifar10:FOLDER:train`."""
    if not isinstance(images, (str, Path)):
        return None
    text = str(images)
    after = text.partition(":")[2]
    for spelled in (text, after, text.rpartition(":")[0], after.rpartition(":")[0]):
        path = Path(spelled).expanduser()
        if spelled and path.exists():
            return path
    return None
