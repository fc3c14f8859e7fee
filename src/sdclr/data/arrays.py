"""Images in memory, including the data sets digits and CIFAR."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdclr.data.annotations import NumberedIds, check_unique, encode_labels
from sdclr.data.drawing import train_validation_split
from sdclr.data.source import attributes_of
from sdclr.errors import InputError


class ArraySource:
    """Images that are already decoded.

    Args:
        images: RGB `(N, H, W, 3)` or gray `(N, H, W)`, uint8.
        labels: Class ids `(N,)`, -1 where unknown.
        ids: Unique ids; by default "NAME/00000", …
        name: Short name, for reports.
        classes: Class names.
        attributes: Several labels per image, `(N, A)`; see `attributes_of`.
        attribute_names: Their names; by default "0", "1", …

    Raises:
        InputError: Type or shape is wrong, or ids repeat.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        labels: ArrayLike | None = None,
        ids: Sequence[str] | None = None,
        name: str = "array",
        classes: Sequence[str] = (),
        *,
        attributes: ArrayLike | None = None,
        attribute_names: Sequence[str] = (),
    ) -> None:
        gray_or_rgb = images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 3)
        if images.dtype != np.uint8 or not gray_or_rgb or images.size == 0:
            raise InputError(
                f"{name}: the array has shape {images.shape} and type {images.dtype}; give uint8 images as "
                "(N, height, width, 3) or (N, height, width)"
            )
        for what, values in (("labels", labels), ("ids", ids)):
            if values is not None and len(np.asarray(values)) != len(images):
                raise InputError(
                    f"{name}: {len(np.asarray(values))} {what} for {len(images)} images; give one for each"
                )
        self._images = images
        self.name = name
        self.ids: Sequence[str] = NumberedIds(name, len(images)) if ids is None else ids
        if ids is not None:
            check_unique(ids, name, "give unique ids")
        self.labels = None if labels is None else encode_labels(np.asarray(labels).tolist(), name)[0]
        self.classes = tuple(classes)
        self.attributes = None if attributes is None else np.asarray(attributes)
        self.attribute_names = tuple(attribute_names)
        attributes_of(self)

    def __len__(self) -> int:
        return len(self._images)

    def image(self, index: int, *, min_side: int | None = None) -> NDArray[np.uint8]:  # noqa: ARG002  # nothing to decode
        """A copy of one image as RGB, `(H, W, 3)`."""
        image = self._images[index]
        return np.repeat(image[..., None], 3, axis=-1) if image.ndim == 2 else image.copy()

    def held(self, index: int) -> NDArray[np.uint8]:
        """The pixels of an image; see `held_image`."""
        pixels: NDArray[np.uint8] = self._images[index]
        return pixels


def digits(split: str = "train") -> ArraySource:
    """scikit-learn's 1,797 handwritten digits, 8x8, available without a download.

    Args:
        split: "train" (1,297 images) or "test" (500, equally many of each digit).

    Returns:
        The images as gray uint8.

    Raises:
        InputError: The split does not exist.
    """
    from sklearn.datasets import load_digits  # slow to import, and rarely needed

    data = load_digits()
    train, test = train_validation_split(data.target, validation=500, seed=0)
    chosen = {"train": train, "test": test}.get(split)
    if chosen is None:
        raise InputError(f'digits: has no split {split!r}; choose "train" or "test"')
    return ArraySource(
        np.rint(data.images[chosen] * (255 / 16)).astype(np.uint8),
        labels=data.target[chosen],
        ids=[f"digits/{index:04d}" for index in chosen.tolist()],
        name=f"digits-{split}",
        classes=[str(name) for name in data.target_names],
    )


def cifar(
    root: Path | str,
    dataset: Literal["cifar10", "cifar100"] = "cifar10",
    split: str = "train",
    *,
    download: bool = False,
) -> ArraySource:
    """CIFAR-10 or CIFAR-100 in the original order, as torchvision stores them (Krizhevsky, 2009).

    Args:
        root: The folder of torchvision's copy, or the folder to download it to.
        dataset: Name of the data set.
        split: "train" (50,000 images) or "test" (10,000).
        download: Download the data set if it is not on disk yet.

    Returns:
        The images, 32x32.

    Raises:
        InputError: The split or data set does not exist, or is not on disk.
    """
    from torchvision import datasets  # slow to import, and rarely needed

    kinds = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}
    if dataset not in kinds:
        raise InputError(f'{dataset} is not known here; choose "cifar10" or "cifar100"')
    if split not in {"train", "test"}:
        raise InputError(f'{dataset}: has no split {split!r}; choose "train" or "test"')
    try:
        data = kinds[dataset](str(root), train=split == "train", download=download)
    except RuntimeError as error:
        raise InputError(
            f"{root} does not hold the files of {dataset} as its authors publish them: fetch them in Python with "
            f"sdclr.data.sources.cifar({str(root)!r}, {dataset!r}, download=True); for Parquet files give the folder "
            f"without {dataset}:"
        ) from error
    ids = NumberedIds(split, len(data.data))
    return ArraySource(data.data, labels=data.targets, ids=ids, name=f"{dataset}-{split}", classes=data.classes)
