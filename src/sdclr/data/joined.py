"""Own images and outside ones as one source, for a training that uses both."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from sdclr.data.intensities import intensities_of
from sdclr.data.source import IndirectSource, Source, attributes_of, image_blocks
from sdclr.decoding.decode import BadImage, Header
from sdclr.errors import BadImageError


class JoinedSource(IndirectSource):
    """The images of one source, followed by those of another, the outside images.

    Ids of outside images get a prefix, `outside/` as a rule, that no own id begins with. Their labels and attributes
    are -1, unknown, so that class counts are those of the own images.

    Args:
        own: The images of the collection, which the encoder is trained for.
        others: The outside images, from another collection.
        name: By default the names of both, joined by a plus sign.
    """

    def __init__(self, own: Source, others: Source, name: str | None = None) -> None:
        self.own, self.others = own, others
        self.name = name or f"{own.name}+{others.name}"
        prefix, number = "outside/", 1
        while any(image_id.startswith(prefix) for image_id in own.ids):
            number += 1
            prefix = f"outside-{number}/"
        self.ids: Sequence[str] = [*own.ids, *(prefix + image_id for image_id in others.ids)]
        unknown = np.full(len(others), -1, dtype=np.int64)
        self.labels = None if own.labels is None else np.concatenate([own.labels, unknown])
        self.classes = own.classes
        self.outside = np.arange(len(own) + len(others)) >= len(own)
        """`(N,)` bool, True for outside images."""
        self.skipped = [
            *getattr(own, "skipped", ()),
            *(BadImage(prefix + bad[0], *bad[1:]) for bad in getattr(others, "skipped", ())),
        ]
        self.intensities, self.intensities_given = intensities_of(own)
        shown = attributes_of(own)
        self.attributes: NDArray[np.int8] | None = None
        self.attribute_names: tuple[str, ...] = ()
        if shown is not None:
            missing = np.full((len(others), len(shown.names)), -1, dtype=np.int8)
            self.attributes = np.concatenate([np.asarray(shown.values, dtype=np.int8), missing])
            self.attribute_names = shown.names

    def __len__(self) -> int:
        return len(self.outside)

    def place(self, index: int) -> tuple[Source, int]:
        """The source of an image, and the image's position there."""
        own = len(self.own)
        return (self.own, index) if index < own else (self.others, index - own)

    def image(self, index: int, *, min_side: int | None = None) -> NDArray[np.uint8]:
        """Decode one image to RGB, `(H, W, 3)`."""
        with self._named(index):
            return super().image(index, min_side=min_side)

    def shrunk(self, index: int, side: int) -> NDArray[np.uint8]:
        """One image, shrunk; see `shrunk_image`."""
        with self._named(index):
            return super().shrunk(index, side)

    def header(self, index: int) -> Header | None:
        """The header of an image; see `image_header`."""
        with self._named(index):
            return super().header(index)

    def blocks(self) -> NDArray[np.int64] | None:
        """In what images are stored; see `image_blocks`. None unless both sources have blocks."""
        first, second = image_blocks(self.own), image_blocks(self.others)
        return None if first is None or second is None else np.concatenate([first, second + first.max() + 1])

    @contextmanager
    def _named(self, index: int) -> Iterator[None]:
        """Give an error the id of the image in this source."""
        try:
            yield
        except BadImageError as error:
            raise BadImageError(self.ids[index], error.reason) from error
