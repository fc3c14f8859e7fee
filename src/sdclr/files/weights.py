"""Files of weights: torch files, whose code is never run, and safetensors."""

import io
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sdclr.files.reading import COPY, Keys, check_keys, damaged, parsing

_DOS_FOLDER: Final = 0x10

if TYPE_CHECKING:
    from torch import Tensor


def read_torch(path: Path, remedy: str = COPY, *, data: bytes | None = None) -> Any:
    """Read a file of `torch.save`. Its parts have checksums, which torch itself does not check.

    Args:
        path: The file.
        remedy: How to create the file again.
        data: Its bytes, if already read.

    Raises:
        InputError: The file is missing, or there is no permission.
        DamagedFileError: The file is damaged, or holds more than tensors and plain values.
    """
    import torch

    with parsing(path, remedy):
        if zipfile.is_zipfile(path if data is None else io.BytesIO(data)):  # files of torch before 1.6 are not
            with zipfile.ZipFile(path if data is None else io.BytesIO(data)) as archive:
                broken = archive.testzip()
                # For a part marked as a folder, torch reads nothing and returns uninitialized memory.
                folders = [part.filename for part in archive.infolist() if part.external_attr & _DOS_FOLDER]
            if broken is not None or folders:
                raise damaged(path, f"{broken or folders[0]} has another checksum or kind", remedy)
        try:
            return torch.load(path if data is None else io.BytesIO(data), map_location="cpu", weights_only=True)
        except Exception as error:
            if type(error).__name__ != "UnpicklingError":  # the class would have to be imported with its module
                raise
            # torch's message advises running the code in the file.
            raise damaged(path, "it holds more than tensors and plain values, or damaged ones", remedy) from error


def read_state(path: Path, remedy: str = COPY, *, keys: Keys, data: bytes | None = None) -> dict[str, Any]:
    """Read a state of this package: a dictionary written by `torch.save`.

    Args:
        path: The file.
        remedy: How to create the file again.
        keys: Required keys and types.
        data: Its bytes, if already read.

    Raises:
        InputError: The file is missing, or there is no permission.
        DamagedFileError: The file is damaged, or has other contents.
    """
    state = read_torch(path, remedy, data=data)
    if not isinstance(state, dict):
        raise damaged(path, f"it holds a {type(state).__name__}, not a state", remedy)
    check_keys(path, state, keys, remedy)
    return state


def read_safetensors(path: Path, remedy: str = COPY) -> "dict[str, Tensor]":
    """The tensors of a safetensors file, a format without checksums.

    Raises:
        InputError: The file is missing, or there is no permission.
        DamagedFileError: The file is not such a file, or is truncated.
    """
    from safetensors.torch import load_file

    with parsing(path, remedy):
        return load_file(path)
