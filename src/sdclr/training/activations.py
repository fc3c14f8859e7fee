"""Activation checkpointing: store only the input of each block, and recompute the rest in the backward pass.

Chen et al., *Training Deep Nets with Sublinear Memory Cost*, 2016.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, is_grad_enabled, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from sdclr.errors import InputError


def checkpoint_activations(network: nn.Module) -> int:
    """Recompute every repeated block of a network (a residual block, a transformer layer) in the backward pass.

    Loss and gradients stay the same, for a third more computation. It also works for a network that runs as its own
    twin. timm's option of this name does not: its second pass runs after the twin's weights are removed, and silently
    uses the network's own.

    Args:
        network: Changed in place; names of parameters and buffers stay.

    Returns:
        Number of blocks.

    Raises:
        InputError: If no block is found.
    """
    blocks = [block for module in network.modules() for block in _repeated_blocks(module)]
    if not blocks:
        raise InputError("the encoder has no repeated blocks to checkpoint: leave out --checkpoint-activations")
    for block in blocks:
        block.forward = _Recomputed(block)
    return len(blocks)


def _repeated_blocks(module: nn.Module) -> list[nn.Module]:
    """The children of a sequence of composite modules of one class, unless they contain such a sequence."""
    children = list(module.children())
    alike = isinstance(module, nn.Sequential) and len({type(child) for child in children}) == 1
    composite = alike and all(next(child.children(), None) is not None for child in children)
    if not composite or any(_repeated_blocks(inner) for child in children for inner in child.modules()):
        return []
    return children


class _Recomputed:
    """A block's forward pass that stores only its input and references to its weights and buffers."""

    def __init__(self, block: nn.Module) -> None:
        self.inner = _Inner(block)

    def __call__(self, *args: Any) -> Any:
        if not is_grad_enabled():
            return self.inner(*args)
        # The current tensors: while a network runs as its own twin, these are the twin's.
        return checkpoint(_TwoPasses(self.inner), *args, use_reentrant=False)


class _TwoPasses:
    """Both passes use the same tensors. The second updates copies of the running statistics, so they update once."""

    def __init__(self, inner: nn.Module) -> None:
        self.inner = inner
        self.parameters: dict[str, Tensor] = dict(inner.named_parameters())
        self.buffers: dict[str, Tensor] = dict(inner.named_buffers())
        self.passes = 0

    def __call__(self, *args: Any) -> Any:
        self.passes += 1
        again = self.passes > 1
        buffers = {name: buffer.clone() for name, buffer in self.buffers.items()} if again else self.buffers
        return functional_call(self.inner, {**self.parameters, **buffers}, args)


class _Inner(nn.Module):
    """A block with its original forward pass."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block
        self.own_forward: Callable[..., Any] = block.forward

    def forward(self, *args: Any) -> Any:
        return self.own_forward(*args)
