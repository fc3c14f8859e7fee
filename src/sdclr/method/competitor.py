"""The self-competitor: a network run as its own pruned twin (Jiang et al., ICML 2021, §3.2-3.3)."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _NormBase

from sdclr.method.pruning import layer_sparsity, magnitude_masks

Prunable = Callable[[str, nn.Module], bool]
IndependentNorm = bool | Literal["statistics"]
Criterion = Callable[[Mapping[str, Tensor], float], dict[str, Tensor]]

# `_NormBase` covers BatchNorm, SyncBatchNorm and InstanceNorm; libraries such as timm derive theirs from these classes.
NORMALIZATION = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_PRUNABLE = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, nn.MultiheadAttention)
_WEIGHTS = ("weight", "in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")  # the latter of attention


class SelfCompetitor(nn.Module):
    """A network as its own pruned twin: `weight · mask` for each prunable weight, and separate normalization.

    The twin shares the weights of the network: nothing is copied between steps. Kept weights receive the gradients of
    both branches, removed weights only those of the dense branch. The competitor owns the masks (boolean buffers) and,
    with `independent_norm`, a second set of normalization parameters and running statistics, which starts as a copy of
    the network's. Train `competitor.parameters()`, which contains both. The competitor follows the network's train and
    eval mode.

    Masks are computed when the competitor is created and at each `refresh()`; the paper refreshes them every epoch.

    Args:
        network: Encoder and projection head, or any `nn.Module`.
        ratio: Share of the prunable weights to remove, in [0, 1). The paper uses 0.9 for ResNet-18 on CIFAR and 0.3
            for ResNet-50 on ImageNet; small networks need less. You can change it before a `refresh()`.
        prunable: `prunable(name, module)` receives each module with its dotted name and returns whether its `weight`
            (or the projections of an `nn.MultiheadAttention`) can be pruned. By default every convolution, linear layer
            and attention; if the network has a child `encoder`, only there, so that the projection head is not pruned.
        independent_norm: Give the twin separate BatchNorm, SyncBatchNorm, InstanceNorm, LayerNorm, GroupNorm and
            RMSNorm (the paper's setting). `"statistics"` separates only the running statistics and shares weight and
            bias, which then learn from both branches; False shares all.
        criterion: Function that computes masks from the weights and the ratio; `magnitude_masks` as in the paper.

    Raises:
        ValueError: If the ratio is outside [0, 1) or no weight is prunable.

    Example:
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> twin = sdclr.SelfCompetitor(network, ratio=0.5)
        >>> view1, view2 = torch.rand(2, 8, 3, 4, 4)
        >>> sdclr.nt_xent(network(view1), twin(view2), temperature=0.2).shape  # the loss of SDCLR
        torch.Size([])
        >>> twin.refresh()  # once an epoch
        >>> twin.pruned_fraction()
        0.5
    """

    def __init__(
        self,
        network: nn.Module,
        ratio: float = 0.9,
        *,
        prunable: Prunable | None = None,
        independent_norm: IndependentNorm = True,
        criterion: Criterion = magnitude_masks,
    ) -> None:
        super().__init__()
        self.network = network
        self.ratio = ratio
        self._criterion = criterion
        self._prunable = _prunable_names(network, prunable)
        self._masks = nn.Module()
        weights = self._weights()
        if not weights:
            raise ValueError("the network has no prunable weight: let `prunable(name, module)` accept some module")
        for name, weight in weights.items():
            self._masks.register_buffer(_escaped(name), torch.ones_like(weight, dtype=torch.bool))
        self._norm = nn.Module()
        self._norm_names: list[str] = []
        if independent_norm:
            self._copy_normalization(parameters=independent_norm is True)
        self.refresh()

    @property
    def masks(self) -> dict[str, Tensor]:
        """The keep-masks by the weight's name in `network.named_parameters()`; True means kept."""
        return {name: self._masks.get_buffer(_escaped(name)) for name in self._prunable}

    @torch.no_grad()
    def refresh(self) -> None:
        """Recompute the masks from the current weights and `ratio`."""
        masks = self.masks
        for name, mask in self._criterion(self._weights(), self.ratio).items():
            masks[name].copy_(mask)  # in place, so that compiled or captured code uses them

    def sparsity(self) -> dict[str, float]:
        """Share of removed weights in each layer, in [0, 1]."""
        return layer_sparsity(self.masks)

    def pruned_fraction(self) -> float:
        """Share of the prunable weights that is currently removed, in [0, 1)."""
        masks = self.masks.values()
        return 1 - sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the pruned twin; arguments and result are the network's own."""
        return functional_call(self.network, self.twin(), args, kwargs)

    def twin(self) -> dict[str, Tensor]:
        """The tensors in which the twin differs from the network: masked weights and its own normalization."""
        weights = dict(self.network.named_parameters())
        # As bytes, of 0 or 1: torch converts these to floats several times faster than booleans.
        twin = {name: _in_autocast(weights[name]) * mask.view(torch.uint8) for name, mask in self.masks.items()}
        return {**twin, **self.normalization()}

    def normalization(self) -> dict[str, Tensor]:
        """The twin's own normalization parameters and running statistics, by the network's names for them."""
        return {name: getattr(self._norm, _escaped(name)) for name in self._norm_names}

    def part(self, name: str) -> nn.Module:
        """One child of the twin as a module, such as the pruned `encoder` without its head."""
        return _Part(self, name)

    def _weights(self) -> dict[str, Tensor]:
        parameters = dict(self.network.named_parameters())
        return {name: parameters[name].detach() for name in self._prunable}

    def _copy_normalization(self, *, parameters: bool) -> None:
        for prefix, module in self.network.named_modules():
            if not isinstance(module, NORMALIZATION):
                continue
            for name, parameter in module.named_parameters(prefix, recurse=False) if parameters else ():
                own = nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad)
                self._norm.register_parameter(_escaped(name), own)
                self._norm_names.append(name)
            for name, buffer in module.named_buffers(prefix, recurse=False):
                self._norm.register_buffer(_escaped(name), buffer.detach().clone())
                self._norm_names.append(name)


class _Part(nn.Module):
    def __init__(self, competitor: SelfCompetitor, name: str) -> None:
        super().__init__()
        self.competitor = competitor
        self.name = name

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        prefix = f"{self.name}."
        twin = {
            key.removeprefix(prefix): value for key, value in self.competitor.twin().items() if key.startswith(prefix)
        }
        return functional_call(self.competitor.network.get_submodule(self.name), twin, args, kwargs)


def _prunable_names(network: nn.Module, prunable: Prunable | None) -> list[str]:
    """Names of the prunable weights, in the order of `named_parameters()`."""
    has_encoder = isinstance(getattr(network, "encoder", None), nn.Module)

    def in_encoder(name: str, module: nn.Module) -> bool:
        return isinstance(module, _PRUNABLE) and (not has_encoder or f"{name}.".startswith("encoder."))

    accepts = prunable or in_encoder
    accepted = [name for name, module in network.named_modules() if accepts(name, module)]
    chosen = {f"{name}.{weight}".lstrip(".") for name in accepted for weight in _WEIGHTS}
    return [name for name, _ in network.named_parameters() if name in chosen]


def _in_autocast(weight: Tensor) -> Tensor:
    """The weight in the type to which autocast would convert its masked copy, which halves the memory to write."""
    device = weight.device.type
    casts = weight.dtype == torch.float32 and torch.is_autocast_enabled(device)
    return weight.to(torch.get_autocast_dtype(device)) if casts else weight


def _escaped(name: str) -> str:
    """A parameter's dotted name as a buffer's name, which must not contain dots."""
    return name.replace(".", "/")
