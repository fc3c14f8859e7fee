"""NumPy files. Pickles in them are never read."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sdclr.files.reading import COPY, check_file, damaged, parsing, read_bytes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def read_array(path: Path, remedy: str = COPY, *, mode: Literal["r", "r+", "c"] | None = None) -> "NDArray[Any]":
    """The array of a `.npy` file, whose size must match its header.

    Args:
        path: The file.
        remedy: How to create the file again.
        mode: Map the file into memory instead of reading it: to read, to change it, or to change a copy in memory.

    Raises:
        InputError: The file is missing, or there is no permission.
        DamagedFileError: The file is not such a file, or is truncated.
    """
    import numpy as np

    size = check_file(path, remedy)
    with parsing(path, remedy):
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            if version not in read_header:
                raise ValueError(f"version {version} of the format")
            try:
                shape, _, dtype = read_header[version](file)
            except MemoryError as error:  # Python's parser raises it for deeply nested text
                raise ValueError("its header is not a description of an array") from error
            begin = file.tell()
        if dtype.hasobject:
            raise ValueError("it holds Python objects, not numbers")
        told = begin + dtype.itemsize * _product(shape)
        # Mapping a shorter file for changes would extend it.
        if size != told:
            raise damaged(path, f"it has {size:,} bytes, its header states {told:,}", remedy)
        mapped = mode if size > begin else None  # an empty array cannot be mapped
        values: NDArray[Any] = np.load(path, allow_pickle=False, mmap_mode=mapped)
        return values


def check_array(
    path: Path, values: "NDArray[Any]", shape: tuple[int | None, ...], dtype: "np.dtype[Any] | type", remedy: str = COPY
) -> None:
    """Check shape and type of an array.

    Args:
        path: Its file.
        values: The array.
        shape: Required shape; None for any length.
        dtype: Required type.
        remedy: How to create the file again.

    Raises:
        DamagedFileError: Shape or type is wrong.
    """
    fits = len(values.shape) == len(shape) and all(b in (None, a) for a, b in zip(values.shape, shape, strict=True))
    if not fits or values.dtype != dtype:
        raise damaged(path, f"it holds {values.dtype} {values.shape}, not those of this file", remedy)


def read_arrays(path: Path, names: Sequence[str], remedy: str = COPY) -> "dict[str, NDArray[Any]]":
    """Arrays of a `.npz` file, which has a checksum of each.

    Raises:
        InputError: The file is missing, or there is no permission.
        DamagedFileError: The file is not such a file, is damaged or lacks one of the arrays.
    """
    import numpy as np

    data = read_bytes(path, remedy)
    with parsing(path, remedy), np.load(io.BytesIO(data), allow_pickle=False) as archive:
        return {name: archive[name] for name in names}


def _product(shape: tuple[int, ...]) -> int:
    """The product without overflow, unlike NumPy's, which can overflow for a damaged shape."""
    product = 1
    for length in shape:
        if length < 0:
            raise ValueError(f"shape {shape}")
        product *= length
    return product
