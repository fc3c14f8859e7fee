"""Convert an encoder to a short list of layers, for programs without torch."""

import copy
import operator
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Kind = Literal["conv", "add", "clamp", "silu", "hardswish", "max_pool", "mean"]

_OPEN: Final = (-float("inf"), float("inf"))


class UnsupportedEncoderError(ValueError):
    """The layers cannot represent an encoder."""


@dataclass(frozen=True)
class Layer:
    """One step. Its inputs are indices of values: 0 is the image, i the output of layer i - 1."""

    kind: Kind
    inputs: tuple[int, ...]
    weight: Tensor | None = None
    """(out, in, height, width) of a convolution; in is 1 for a depthwise one."""
    bias: Tensor | None = None
    """(out,) of a convolution."""
    size: tuple[int, int] = (1, 1)
    """Height and width of the window."""
    stride: tuple[int, int] = (1, 1)
    pad: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Zero padding of the input: left, right, top, bottom. Max pooling pads with negative infinity."""
    depthwise: bool = False
    low: float = _OPEN[0]
    """Lower bound that the output is clamped to."""
    high: float = _OPEN[1]


@dataclass
class _Reader:
    """Reads an exported graph node by node."""

    weights: Mapping[str, Tensor]
    """Parameters and buffers by node name."""
    layers: list[Layer] = field(default_factory=list)
    values: dict[str, int] = field(default_factory=dict)
    """Index of each node's current value. After an in-place operation, its input node has the result."""
    pads: dict[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    """Nodes that only pad, with their input and padding."""

    def put(self, node: Any, layer: Layer) -> None:
        self.layers.append(layer)
        self.values[node.name] = len(self.layers)

    def value(self, node: Any) -> int:
        if getattr(node, "name", None) not in self.values:
            raise UnsupportedEncoderError(f"{node} is not computed from the image")
        return self.values[node.name]

    def weight(self, node: Any) -> Tensor | None:
        if node is None:
            return None
        if node.name not in self.weights:
            raise UnsupportedEncoderError(f"the weights {node} are computed")
        return self.weights[node.name]

    def before(self, node: Any) -> tuple[int, Layer | None]:
        """A node's value, and the layer that computes it if the value has no other user."""
        number = self.value(node)
        alone = number > 0 and len(node.users) == 1 and list(self.values.values()).count(number) == 1
        return number, self.layers[number - 1] if alone else None

    def change(self, node: Any, source: Any, layer: Layer) -> None:
        """Merge a node into the layer before it, whose output has no other user."""
        number = self.values.pop(source.name)
        self.layers[number - 1] = layer
        self.values[node.name] = number


def read_layers(network: nn.Module, image_size: int) -> list[Layer]:
    """Read the layers of a network of convolutions, batch norms, activations, additions, max and mean pooling.

    Convolutions may be dense or depthwise. Batch norms are folded into the convolutions before them.

    Args:
        network: Maps images `(N, 3, image_size, image_size)` to features `(N, D)`. Not changed.
        image_size: In pixels.

    Returns:
        The layers in order; the last one is the mean pooling.

    Raises:
        UnsupportedEncoderError: The network has other operations.
    """
    own = copy.deepcopy(network).cpu().float().eval()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's exporter emits warnings about its own code
            program = torch.export.export(own, (torch.zeros(1, 3, image_size, image_size),), strict=False)
    except Exception as error:
        raise UnsupportedEncoderError(f"torch cannot export it ({type(error).__name__})") from error
    tensors = dict(program.named_parameters()) | dict(program.named_buffers()) | dict(program.constants)
    signature = program.graph_signature
    named = signature.inputs_to_parameters | signature.inputs_to_buffers | signature.inputs_to_lifted_tensor_constants
    reader = _Reader({node: tensors[name].detach() for node, name in named.items()})
    last = None
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name not in reader.weights:
            reader.values[node.name] = 0
        elif node.op == "output":
            last = reader.value(node.args[0][0])
        elif node.op == "call_function":
            _read_node(reader, node)
    if last != len(reader.layers) or not reader.layers or reader.layers[-1].kind != "mean":
        raise UnsupportedEncoderError("its features are not a mean over the image")
    return reader.layers


def _read_node(reader: _Reader, node: Any) -> None:
    name = str(node.target).removeprefix("aten.").partition(".")[0]
    read = _READ.get(name.removesuffix("_"))
    if read is None or node.target is operator.getitem or str(node.target) == "aten.conv2d.padding":
        raise UnsupportedEncoderError(f"it computes {node.target}")
    read(reader, node, *node.args, **node.kwargs)
    if name.endswith("_") and len(node.args[0].users) > 1:  # in place: the input node now has the output's value
        reader.values[node.args[0].name] = reader.values[node.name]


def _pair(value: Any) -> tuple[int, int]:
    both = (value, value) if isinstance(value, int) else tuple(value)
    return (both[0], both[-1])


def _pad(  # noqa: PLR0917  # torch's own order
    reader: _Reader, node: Any, source: Any, sides: Sequence[int], mode: str = "constant", value: Any = 0
) -> None:
    if mode != "constant" or value or len(sides) != 4 or min(sides) < 0:
        raise UnsupportedEncoderError(f"it pads {sides} with {mode} {value}")
    reader.value(source)
    reader.pads[node.name] = (source, tuple(sides))


def _conv(  # noqa: PLR0917  # torch's own order
    reader: _Reader,
    node: Any,
    source: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> None:
    filters, shift = reader.weight(weight), reader.weight(bias)
    down, across = _pair(padding)
    pad: tuple[int, ...] = (across, across, down, down)
    if source.name in reader.pads:
        source, before = reader.pads[source.name]
        pad = tuple(map(operator.add, pad, before))
    if filters is None or filters.ndim != 4 or _pair(dilation) != (1, 1):
        raise UnsupportedEncoderError("a convolution is dilated")
    depthwise = groups > 1
    if depthwise and not (filters.shape[1] == 1 and groups == len(filters)):
        raise UnsupportedEncoderError(f"a convolution has {groups} groups")
    layer = Layer(
        "conv",
        (reader.value(source),),
        weight=filters,
        bias=torch.zeros(len(filters)) if shift is None else shift,
        size=_pair(filters.shape[2:]),
        stride=_pair(stride),
        pad=(pad[0], pad[1], pad[2], pad[3]),
        depthwise=depthwise,
    )
    reader.put(node, layer)


def _batch_norm(  # noqa: PLR0917  # torch's own order
    reader: _Reader, node: Any, source: Any, weight: Any, bias: Any, mean: Any, variance: Any, *settings: Any
) -> None:
    _, layer = reader.before(source)
    training, _momentum, eps = settings[:3]
    scale, shift, center, spread = (reader.weight(entry) for entry in (weight, bias, mean, variance))
    if layer is None or layer.kind != "conv" or (layer.low, layer.high) != _OPEN:
        raise UnsupportedEncoderError("a batch norm follows no convolution")
    if training or center is None or spread is None:
        raise UnsupportedEncoderError("a batch norm has no running statistics")
    filters, before = layer.weight, layer.bias
    assert filters is not None and before is not None  # noqa: S101, PT018  # for mypy: a convolution has both
    factor = (spread + eps).rsqrt() * (1 if scale is None else scale)
    moved = (before - center) * factor + (0 if shift is None else shift)
    reader.change(node, source, replace(layer, weight=filters * factor[:, None, None, None], bias=moved))


def _clamp(reader: _Reader, node: Any, source: Any, low: float | None = None, high: float | None = None) -> None:
    number, layer = reader.before(source)
    ends = (_OPEN[0] if low is None else float(low), _OPEN[1] if high is None else float(high))
    if layer is not None and layer.kind in ("conv", "add") and (layer.low, layer.high) == _OPEN:
        reader.change(node, source, replace(layer, low=ends[0], high=ends[1]))
    else:
        reader.put(node, Layer("clamp", (number,), low=ends[0], high=ends[1]))


def _relu(reader: _Reader, node: Any, source: Any) -> None:
    _clamp(reader, node, source, 0.0)


def _relu6(reader: _Reader, node: Any, source: Any, low: float = 0.0, high: float = 6.0) -> None:
    _clamp(reader, node, source, low, high)


def _activation(kind: Kind) -> Callable[..., None]:
    def read(reader: _Reader, node: Any, source: Any) -> None:
        reader.put(node, Layer(kind, (reader.value(source),)))

    return read


def _add(reader: _Reader, node: Any, one: Any, other: Any, alpha: Any = 1) -> None:
    if alpha != 1 or not hasattr(other, "meta") or one.meta["val"].shape != other.meta["val"].shape:
        raise UnsupportedEncoderError("it adds operands that are not two tensors of equal shape")
    reader.put(node, Layer("add", (reader.value(one), reader.value(other))))


def _max_pool(  # noqa: PLR0917  # torch's own order
    reader: _Reader,
    node: Any,
    source: Any,
    size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: Any = False,  # noqa: FBT002
) -> None:
    if ceil_mode or _pair(dilation) != (1, 1):
        raise UnsupportedEncoderError("it pools with dilation or beyond the edge")
    down, across = _pair(padding)
    pad = (across, across, down, down)
    reader.put(
        node,
        Layer("max_pool", (reader.value(source),), size=_pair(size), stride=_pair(stride or size), pad=pad),
    )


def _mean(reader: _Reader, node: Any, source: Any, over: Any, keep: Any = False) -> None:  # noqa: ARG001, FBT002  # torch's own order
    if sorted(axis % 4 for axis in over) != [2, 3]:
        raise UnsupportedEncoderError(f"it takes the mean over {over}")
    reader.put(node, Layer("mean", (reader.value(source),)))


def _pool(reader: _Reader, node: Any, source: Any, size: Any) -> None:
    if _pair(size) != (1, 1):
        raise UnsupportedEncoderError(f"it pools to {size}")
    reader.put(node, Layer("mean", (reader.value(source),)))


def _same(reader: _Reader, node: Any, source: Any, *_: Any, **__: Any) -> None:
    """An operation that changes only the shape, after mean pooling."""
    number = reader.value(source)
    if not number or reader.layers[number - 1].kind != "mean":
        raise UnsupportedEncoderError(f"it computes {node.target} before pooling")
    reader.values[node.name] = number


_READ: Final[Mapping[str, Callable[..., None]]] = {
    "pad": _pad,
    "conv2d": _conv,
    "batch_norm": _batch_norm,
    "relu": _relu,
    "relu6": _relu6,
    "hardtanh": _relu6,
    "clamp": _clamp,
    "silu": _activation("silu"),
    "hardswish": _activation("hardswish"),
    "add": _add,
    "max_pool2d": _max_pool,
    "mean": _mean,
    "adaptive_avg_pool2d": _pool,
    "flatten": _same,
    "view": _same,
    "reshape": _same,
    "squeeze": _same,
}


@torch.no_grad()
def run_layers(layers: Sequence[Layer], images: Tensor) -> Tensor:
    """Features (N, D) of normalized images (N, 3, S, S), computed layer by layer."""
    values = [images]
    for layer in layers:
        taken = [values[number] for number in layer.inputs]
        values.append(_run(layer, taken).clamp(layer.low, layer.high))
    return values[-1]


def _run(layer: Layer, taken: list[Tensor]) -> Tensor:
    first = taken[0]
    if layer.kind == "add":
        return first + taken[1]
    if layer.kind == "max_pool":
        return F.max_pool2d(F.pad(first, layer.pad, value=-torch.inf), layer.size, layer.stride)
    if layer.kind == "mean":
        return first.mean(dim=(2, 3))
    if layer.weight is not None:
        groups = len(layer.weight) if layer.depthwise else 1
        return F.conv2d(F.pad(first, layer.pad), layer.weight, layer.bias, stride=layer.stride, groups=groups)
    smooth: dict[str, Callable[[Tensor], Tensor]] = {"silu": F.silu, "hardswish": F.hardswish}
    return smooth[layer.kind](first) if layer.kind in smooth else first
