"""Data sets of Hugging Face's `datasets` as image sources. Nothing is downloaded."""

import os
import sys
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sdclr.data.annotations import LABEL_COLUMNS, NumberedIds, encode_labels
from sdclr.data.intensities import SeenByRange
from sdclr.data.parquet import IMAGE_COLUMNS, ParquetSource, parquet_files
from sdclr.data.source import Source
from sdclr.data.stored import Stored
from sdclr.data.torch_dataset import TorchSource
from sdclr.decoding.decode import decode_image
from sdclr.errors import BadImageError, InputError
from sdclr.files import temporary_folder
from sdclr.progress import tell

_INSTALL: Final = "pip install 'sdclr[datasets]'"
_Columns: TypeAlias = tuple[str, str | None]


class HuggingFaceSource(SeenByRange):
    """A `datasets.Dataset` as a source.

    By default the first column with the feature `Image` holds the images, and the first `ClassLabel` column the labels.
    Columns called `image` or `label` need no feature. Ids are "SPLIT/00000", by row. Transforms are not applied.

    Args:
        dataset: The data set; for a `DatasetDict`, one of its splits.
        image: Name of the image column.
        label: Name of the label column.
        name: Short name for reports and ids; by default the split.

    Raises:
        InputError: A column is missing or has the wrong type.

    Examples:
        >>> import datasets
        >>> pictures, features = [np.zeros((8, 8, 3), np.uint8)] * 2, datasets.Features({"image": datasets.Image()})
        >>> flowers = datasets.Dataset.from_dict({"image": pictures}, features, split="train")
        >>> HuggingFaceSource(flowers).ids[0]
        'train/00000'
    """

    def __init__(self, dataset: Any, *, image: str | None = None, label: str | None = None, name: str = "") -> None:
        self.name = name or str(dataset.split or "dataset")
        self._column, labels = _columns(dataset.features, image, label, self.name)
        self._rows = _encoded_rows(dataset.with_format(None), self._column, ())
        self.ids: Sequence[str] = NumberedIds(self.name, len(dataset))
        if not len(self):
            raise InputError(f"{self.name}: the data set is empty; give one with images")
        # Checked once: checking the row of each image would read all bytes of the table.
        self._of_files = isinstance(self._value(0), Path)
        self.labels: NDArray[np.int64] | None = None
        self.classes: tuple[str, ...] = ()
        if labels is not None:
            values = dataset.with_format(None).select_columns([labels])[:][labels]
            self.labels, classes = encode_labels(values, self.name)
            self.classes = classes or _class_names(dataset.features, labels)

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, index: int, *, min_side: int | None = None) -> NDArray[np.uint8]:
        """Decode one image to RGB, `(H, W, 3)`; see `decode_image`."""
        value = self._value(index)
        if value is None:
            raise BadImageError(self.ids[index], "zero bytes")
        return decode_image(value, image_id=self.ids[index], min_side=min_side, intensities=self.intensities)

    def encoded(self, index: int) -> bytes | None:
        """The bytes of one image; None if it is a file or missing."""
        value = self._value(index)
        return value if isinstance(value, bytes) else None

    def file(self, index: int) -> Path | None:
        """The file of an image; None if its bytes are in the table."""
        value = self._value(index) if self._of_files else None
        return value if isinstance(value, Path) else None

    def stored(self, index: int) -> Stored | None:
        """Location of an image; see `stored_image`."""
        file = self.file(index)
        return None if file is None else Stored(file, None, self.decoder())

    def _value(self, index: int) -> bytes | Path | None:
        try:
            value: bytes | Path | None = encoded_value(self._rows[range(len(self))[index]][self._column])
        except Exception as error:  # a damaged table raises anything
            raise BadImageError(self.ids[index], f"{type(error).__name__}: {error}"[:200]) from error
        return value


class Stream(NamedTuple):
    """The rows of an `IterableDataset`. Each iteration starts at the first row."""

    name: str
    classes: tuple[str, ...]
    dataset: Any
    columns: _Columns | None
    """Names of the image and label columns; None for a torch data set."""

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        """Yield images, as bytes, paths or other objects of the data set, and labels."""
        for item in self.dataset:
            if self.columns is None:
                parts = item if isinstance(item, (tuple, list)) and item else (item,)
                yield parts[0], parts[1] if len(parts) > 1 else None
            else:
                image, label = self.columns
                yield encoded_value(item[image]), None if label is None else item[label]


def open_stream(dataset: Any) -> Stream | None:
    """Open an `IterableDataset` of `datasets` or torch; None for anything else.

    Raises:
        InputError: The data set has no image column.
    """
    hub = _loaded("datasets")
    if hub is not None and isinstance(dataset, hub.IterableDataset):
        name, features = str(dataset.split or "stream"), dataset.features
        if features is None:
            features = dict.fromkeys(next(iter(dataset), {}))
            return Stream(name, (), dataset, _columns(features, None, None, name))
        image, label = _columns(features, None, None, name)
        rows = _encoded_rows(dataset.with_format(None), image, () if label is None else (label,))
        return Stream(name, () if label is None else _class_names(features, label), rows, (image, label))
    data = _loaded("torch.utils.data")
    if data is not None and isinstance(dataset, data.IterableDataset):
        return Stream(type(dataset).__name__, (), dataset, None)
    return None


def open_hugging_face(path: Path, options: Mapping[str, str], *, split: str | None = None) -> Source:
    """Open a local folder of `save_to_disk`, of Arrow or Parquet files, or an `imagefolder`.

    Parquet files are read directly, without `datasets`, which would first copy them into its cache.

    Args:
        path: The folder.
        options: "image" and "label" name the columns; see `HuggingFaceSource`.
        split: Name of the split; by default "train" if there are several.

    Raises:
        InputError: The path is not a folder, the split or a column is missing, or `datasets` is not installed.
    """
    if unknown := sorted(options.keys() - {"image", "label"}):
        raise InputError(f"hf:{path}: has no option {unknown[0]!r}; use image and label, as in hf:FOLDER,image=photo")
    if not path.is_dir():
        raise InputError(
            f"hf:{path} is not a folder here, and nothing is fetched from the hub; fetch it first "
            f"(hf download --repo-type dataset {path} --local-dir FOLDER), and give hf:FOLDER"
        )
    for folder in (path, path / (split or "train")):
        if parquet_files(folder):
            return ParquetSource(folder, split=split if folder == path else None, **options)
    name, dataset = _opened(path, split)
    return HuggingFaceSource(dataset, name=name, **options)


def _opened(path: Path, split: str | None) -> tuple[str, Any]:
    """Load a split of a folder; return its name and the data set."""
    try:
        import datasets  # slow to import, and an extra
    except ImportError as error:
        raise InputError(f"hf:{path}: needs the package datasets: {_INSTALL}") from error
    silent = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
            found = datasets.load_from_disk(str(path))
        elif arrows := sorted(map(str, path.glob("*.arrow"))):
            found = datasets.concatenate_datasets([datasets.Dataset.from_file(file) for file in arrows])
        else:
            local = datasets.DownloadConfig(local_files_only=True)
            found = datasets.load_dataset("imagefolder", data_dir=str(path), download_config=local)
    except Exception as error:  # a damaged or unknown folder raises anything
        raise InputError(f"hf:{path}: datasets cannot read it ({type(error).__name__}: {error})") from error
    finally:
        if not silent:
            datasets.enable_progress_bars()
    splits = found if isinstance(found, dict) else {str(found.split or path.absolute().name): found}
    name = split or ("train" if len(splits) > 1 else next(iter(splits)))
    if name not in splits:
        raise InputError(f"hf:{path}: holds no split {name!r}; name one of {', '.join(splits)}, as in hf:{path}:NAME")
    return name, splits[name]


def open_data_set(dataset: Any) -> Source | None:
    """Open a data set of `datasets` or torch as a source; None for anything else.

    An `IterableDataset` has no length and no random access. It is read once and written as shards to a temporary
    folder, which is removed together with the source.

    Raises:
        InputError: The data set has no images.
    """
    stream = open_stream(dataset)
    if stream is not None:
        return _spooled(stream)
    hub, data = _loaded("datasets"), _loaded("torch.utils.data")
    if hub is not None and isinstance(dataset, (hub.DatasetDict, hub.IterableDatasetDict)):
        raise InputError(
            f"{type(dataset).__name__}: has the splits {', '.join(dataset)}; give one, as in data['train']"
        )
    if hub is not None and isinstance(dataset, hub.Dataset):
        return HuggingFaceSource(dataset)
    if data is not None and isinstance(dataset, data.Dataset):
        return TorchSource(dataset)
    return None


def _spooled(stream: Stream) -> Source:
    from sdclr.data.pack import pack  # noqa: PLC0415  # a circular import at module level
    from sdclr.data.shards import open_shards  # noqa: PLC0415

    tell(f"{stream.name}: this stream is written to temporary shards; sdclr.pack(stream, FOLDER) keeps them")
    with ExitStack() as stack:
        folder = stack.enter_context(temporary_folder()) / "shards"
        pack(stream, folder)
        source = open_shards(folder, keep_index=False)
        weakref.finalize(source, _close, stack.pop_all(), os.getpid())
    return source


def _close(stack: ExitStack, owner: int) -> None:
    """Remove the shards, but only in the process that created them, not in forked workers."""
    if os.getpid() == owner:
        stack.close()


def encoded_value(value: Any) -> Any:
    """The bytes or the file of an encoded image; None if it has neither. Other values stay unchanged."""
    if isinstance(value, Mapping):
        data, path = value.get("bytes"), value.get("path")
        return data if data is not None else Path(path) if path else None
    return value


def _loaded(module: str) -> Any:
    """A module if it is already imported; objects of its classes exist only then."""
    return sys.modules.get(module)


def _columns(features: Mapping[str, Any], image: str | None, label: str | None, name: str) -> _Columns:
    """Names of the image and label columns."""

    def first(given: str | None, kind: str, usual: Sequence[str]) -> str | None:
        named = [column for column, feature in features.items() if type(feature).__name__ == kind]
        names = [*named, *usual] if given is None else [given]
        return next((column for column in names if column in features), None)

    images, labels = first(image, "Image", IMAGE_COLUMNS), first(label, "ClassLabel", LABEL_COLUMNS)
    lacking = image or "image" if images is None else label if labels is None else None
    if images is None or lacking is not None:
        raise InputError(
            f"{name}: has no column {lacking!r}; it has {', '.join(features)}; name the columns, as in "
            "hf:FOLDER,image=photo,label=kind"
        )
    return images, labels


def _encoded_rows(dataset: Any, image: str, others: Sequence[str]) -> Any:
    """Select columns of a data set, with images as bytes or paths."""
    import datasets  # slow to import, and an extra

    try:
        return dataset.select_columns([image, *others]).cast_column(image, datasets.Image(decode=False))
    except Exception as error:  # a column that cannot be cast raises anything
        raise InputError(f"the column {image!r} holds {dataset.features[image]}; give one of images") from error


def _class_names(features: Mapping[str, Any], label: str) -> tuple[str, ...]:
    return tuple(map(str, getattr(features[label], "names", None) or ()))
