"""SimCLR (Chen et al., ICML 2020): attract the two views of an image, repel all other images."""

from collections.abc import Callable

from torch import Tensor, nn

from sdclr.method.losses import nt_xent


class SimCLR(nn.Module):
    """Contrast the outputs of two branches with NT-Xent.

    `SimCLR()(network, network, view1, view2)` is SimCLR; `SimCLR()(network, competitor, view1, view2)` is SDCLR.

    Args:
        temperature: τ of NT-Xent. The SDCLR paper uses 0.2 on CIFAR.
        focal: γ of the focal loss, 0 for none.
        decoupled: Leave the positive out of the denominator (DCL).

    Example:
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> view1, view2 = torch.rand(2, 8, 3, 4, 4)
        >>> sdclr.SimCLR(temperature=0.5)(network, network, view1, view2).shape
        torch.Size([8])
    """

    def __init__(self, temperature: float = 0.2, *, focal: float = 0.0, decoupled: bool = False) -> None:
        super().__init__()
        self.temperature = temperature
        self.focal = focal
        self.decoupled = decoupled

    def forward(
        self, a: Callable[[Tensor], Tensor], b: Callable[[Tensor], Tensor], view1: Tensor, view2: Tensor
    ) -> Tensor:
        """Loss of each sample, `(N,)`, from two views `(N, 3, H, W)` of the same N images."""
        return nt_xent(
            a(view1), b(view2), self.temperature, reduction="none", focal=self.focal, decoupled=self.decoupled
        )
