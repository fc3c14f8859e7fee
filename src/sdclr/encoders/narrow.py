"""Replacement of strided 1x1 convolutions with few channels, to avoid a bug of oneDNN."""

from typing import Final

from torch import Tensor, nn
from torch.nn import functional as F

_BLOCK: Final = 16
"""Maximum number of channels that oneDNN processes at once."""


class StridedPointwise(nn.Conv2d):
    """A strided 1x1 convolution that first selects the pixels and then uses stride 1.

    In training on a CPU, with images in `channels_last` layout and fewer input channels than a block, oneDNN writes
    past its buffer when it computes the weights' gradient: the gradient is wrong or the process crashes
    (https://github.com/uxlfoundation/oneDNN/issues/6035, seen with torch 2.11 on AVX2). Stride 1 is not affected.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, D, ceil(H / stride), ceil(W / stride))."""
        if not self.training:
            return super().forward(x)
        down, right = self.stride
        return F.conv2d(x[:, :, ::down, ::right], self.weight, self.bias, groups=self.groups)


def replace_narrow_convolutions(network: nn.Module) -> None:
    """Replace convolutions that oneDNN may compute wrongly. Weights are kept.

    Args:
        network: Changed in place.
    """
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Conv2d and _affected(child):
                made = StridedPointwise(
                    child.in_channels,
                    child.out_channels,
                    1,
                    stride=(child.stride[0], child.stride[1]),
                    groups=child.groups,
                    bias=child.bias is not None,
                    device="meta",
                )
                made.weight, made.bias = child.weight, child.bias
                made.train(child.training)
                setattr(parent, name, made)


def _affected(layer: nn.Conv2d) -> bool:
    return (
        layer.kernel_size == (1, 1)
        and layer.stride != (1, 1)
        and layer.padding in {(0, 0), "valid"}
        and layer.in_channels // layer.groups < _BLOCK
    )
