"""Finds what would make the host wait for a GPU, on a machine that has none.

A kernel is queued and the host goes on, unless it asks for a number that the device has still to compute: the value of
a tensor, or a shape that depends on values. Such operations can be told by their names, wherever they run.
"""

import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

VALUES = {"_local_scalar_dense", "item", "equal", "is_nonzero", "allclose", "_linalg_check_errors"}
"""Operations that hand a tensor's value to the host."""

SHAPES = {
    *("nonzero", "nonzero_numpy", "argwhere", "masked_select", "bincount"),
    *("_unique", "_unique2", "unique_dim", "unique_consecutive", "unique_dim_consecutive"),
}
"""Operations the shape of whose result is known only once they are done."""

INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}
"""Operations that look for what is True if they are given a mask."""

READS = {Tensor.tolist: "tolist", Tensor.numpy: "numpy", Tensor.cpu: "cpu", Tensor.__array__: "__array__"}
"""What hands a tensor to the host, of which nothing is left to see where the tensor is there already."""

FROM_HOST = {torch.tensor: "tensor", torch.as_tensor: "as_tensor", torch.asarray: "asarray"}
"""What copies the host's values and waits until they have arrived, if it is asked for a device."""


class NoSynchronization(TorchDispatchMode):
    """Lists in `found` the operations within its context that would make the host wait for a GPU.

    >>> with NoSynchronization() as watched:
    ...     step()
    >>> assert not watched.found

    Each entry names the operation, why it waits and the line of code nearest to it that is not torch's.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._calls = _WatchedCalls(self.found)

    def __enter__(self) -> Self:
        self._calls.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._calls.__exit__(*error)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        reason = _reason(func, args, kwargs)
        if reason:
            self.found.append(f"{func}: {reason}, at {_place()}")
        return func(*args, **kwargs)


class _WatchedCalls(TorchFunctionMode):
    """Sees calls that never become an operation if all is on the host, as it is in tests."""

    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self._found = found

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in READS:
            self._found.append(f"{READS[func]}: copies to the host, at {_place()}")
        elif func in FROM_HOST and kwargs.get("device") is not None:
            self._found.append(f"{FROM_HOST[func]}: a copy to a device that waits, at {_place()}")
        elif func is Tensor.to and not kwargs.get("non_blocking") and _names_device([*args[1:], *kwargs.values()]):
            self._found.append(f"to: a copy to a device that waits, at {_place()}")
        return func(*args, **kwargs)


def _reason(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Why an operation waits; empty if it does not."""
    name = func.overloadpacket.__name__
    if name in VALUES:
        return "reads a value"
    if name in SHAPES or (name == "repeat_interleave" and kwargs.get("output_size") is None):
        return "has a result whose shape depends on values"
    if name in INDEXING:
        indices = [index for index in args[1] if index is not None]
        if any(index.dtype in {torch.bool, torch.uint8} for index in indices):
            return "looks for what is True in a mask"
        if any(index.device != args[0].device for index in indices):
            return "is given an index that lies on another device"
    if (name == "_to_copy" and kwargs.get("device", args[0].device) != args[0].device) or (
        name == "copy_" and args[0].device != args[1].device
    ):
        return "" if kwargs.get("non_blocking") or args[2:] == (True,) else "is a copy between devices that waits"
    return ""


def _names_device(arguments: Iterable[Any]) -> bool:
    """Whether one of the arguments of `Tensor.to` is a device."""
    return any(isinstance(argument, (str, torch.device)) for argument in arguments)


def _place() -> str:
    """The innermost line on the stack that is neither torch's nor this file's."""
    torch_root = str(Path(torch.__file__).parent)
    frames = [frame for frame in traceback.extract_stack() if not frame.filename.startswith(torch_root)]
    frame = next(frame for frame in reversed(frames) if frame.filename != __file__)
    return f"{Path(frame.filename).name}:{frame.lineno}"
