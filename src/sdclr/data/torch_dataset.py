"""Map-style data sets of torch as image sources: items are images, with or without labels."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sdclr.data.annotations import NumberedIds, encode_labels
from sdclr.decoding.pixels import to_rgb, upright
from sdclr.errors import BadImageError, InputError
from sdclr.progress import stage


class Indexed(Protocol):
    """A map-style data set: `torch.utils.data.Dataset`, `datasets.Dataset`."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


class TorchSource:
    """A map-style `torch.utils.data.Dataset` as a source. Leave out random transforms: sdclr draws the views.

    An item is an image, or a tuple that starts with the image and its label. An image is a PIL image; uint8 `(H, W)`,
    `(H, W, 3)` or `(3, H, W)`; or the same as floats in [0, 1]. PIL images of 16 bits are scaled by
    255/65535. Ids are numbers: "NAME/00000", where NAME is the class of the data set. An error inside the data set
    makes the image unreadable.

    Labels come from the attribute `targets` or `labels`, as in torchvision; otherwise all items are read once for them.

    Args:
        dataset: The data set.

    Raises:
        InputError: The data set is empty or has no length.

    Examples:
        >>> pictures = torch.utils.data.TensorDataset(torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 1, 0]))
        >>> source = sdclr.open_source(pictures)
        >>> source.ids[0], source.labels
        ('TensorDataset/00000', array([0, 1, 1, 0]))
    """

    def __init__(self, dataset: Indexed) -> None:
        self.name = type(dataset).__name__
        self._dataset = dataset
        try:
            count = len(dataset)
        except TypeError as error:
            raise InputError(f"{self.name}: has no length; give it __len__, or pass an IterableDataset") from error
        if not count:
            raise InputError(f"{self.name}: is empty; give a data set with images")
        self.ids: Sequence[str] = NumberedIds(self.name, count)
        self.classes: tuple[str, ...] = ()
        self.labels: NDArray[np.int64] | None = None
        labels = self._labels()
        if labels is not None:
            self.labels, self.classes = encode_labels(labels, self.name)
            names = getattr(dataset, "classes", ())
            if not self.classes and isinstance(names, (list, tuple)) and self.labels.max() < len(names):
                self.classes = tuple(map(str, names))

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, index: int, *, min_side: int | None = None) -> NDArray[np.uint8]:  # noqa: ARG002  # already decoded
        """One image as RGB, `(H, W, 3)`.

        Raises:
            BadImageError: The data set raises an error for this index, or its item is not an image.
        """
        return as_pixels(self._item(range(len(self))[index])[0], self.ids[index])

    def _item(self, index: int) -> tuple[Any, ...]:
        try:
            item = self._dataset[index]
        except Exception as error:  # the user's code may raise anything
            raise BadImageError(self.ids[index], f"item {index}: {type(error).__name__}: {error}"[:200]) from error
        return tuple(item) if isinstance(item, (tuple, list)) and item else (item,)

    def _labels(self) -> list[Any] | None:
        """One label for each item, None if it is unknown; None if items have no labels."""
        for name in ("targets", "labels"):
            values = getattr(self._dataset, name, None)
            if values is not None and np.shape(values) == (len(self),):
                return list(np.asarray(values).tolist())
        found: list[Any] = []
        with stage("reading labels", len(self)) as update:
            for index in range(len(self)):
                try:
                    item = self._item(index)
                except BadImageError:
                    item = (None, None)
                if len(item) < 2:
                    return None
                found.append(as_label(item[1]))
                update(index + 1)
        return found


def as_label(value: Any) -> Any:
    """The label of an item as a number or a text; None for anything else."""
    plain = value.item() if getattr(value, "shape", None) == () else value
    return plain if isinstance(plain, (int, float, str)) else None


def as_pixels(image: Any, image_id: str) -> NDArray[np.uint8]:
    """Convert an image of a data set to RGB, `(H, W, 3)`.

    Raises:
        BadImageError: The image is of a kind that `TorchSource` does not support.
    """
    if isinstance(image, Image.Image):
        return np.array(to_rgb(upright(image.copy())), dtype=np.uint8)
    array = np.asarray(image)
    if array.ndim == 3 and array.shape[0] in {1, 3} and array.shape[2] not in {1, 3}:
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if np.issubdtype(array.dtype, np.floating) and array.size and array.min() >= 0 and array.max() <= 1:
        array = np.rint(array * 255).astype(np.uint8)
    if array.dtype != np.uint8 or not (array.ndim == 2 or array.shape[2:] == (3,)) or not array.size:
        what = f"{array.dtype} of shape {array.shape}" if array.dtype != object else type(image).__name__
        raise BadImageError(image_id, f"{what} is not an image: give a PIL image, uint8, or floats in [0, 1]")
    return np.repeat(array[..., None], 3, axis=2) if array.ndim == 2 else np.array(array)
