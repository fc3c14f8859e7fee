"""The ResNets for CIFAR, which timm does not have."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

CIFAR_RESNETS = {"resnet20": 3, "resnet32": 5, "resnet56": 9}
"""Names of the ResNets for CIFAR, with the number of blocks in each of the three stages."""


class CifarResNet(nn.Module):
    """A ResNet for images of 32 px: a 3x3 stem and three stages, with shortcuts without weights.

    He et al., *Deep Residual Learning for Image Recognition* (CVPR 2016), section 4.2 (shortcuts of type A).
    Modules and weights have the names of timm's ResNets.

    Args:
        blocks: Number of blocks in each stage, with two convolutions each.
        width: Channels of the first stage; the second has twice, the third four times as many.
    """

    def __init__(self, blocks: int, width: int = 16) -> None:
        from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d
        from timm.models.resnet import BasicBlock, make_blocks

        super().__init__()
        self.num_features = 4 * width
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.act1 = nn.ReLU(inplace=True)
        channels = (width, 2 * width, 4 * width)
        stages, _ = make_blocks((BasicBlock,) * 3, channels, (blocks,) * 3, width)
        for (name, stage), out in zip(stages, channels, strict=True):
            first: Any = next(stage.children())
            if first.downsample is not None:
                first.downsample = _PaddedShortcut(out)
            self.add_module(name, stage)
        self.global_pool = SelectAdaptivePool2d(pool_type="avg", flatten=True)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Features `(N, 4 width)` of normalized images `(N, 3, H, W)`."""
        x = images
        for module in self.children():
            x = module(x)
        return x


class _PaddedShortcut(nn.Module):
    """A shortcut without weights into a stage of half the size: every second pixel, with zero channels added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        missing = self.channels - x.shape[1]
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, missing // 2, missing - missing // 2))
