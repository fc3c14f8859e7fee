"""Dropout instead of pruning: a control of Jiang et al. (ICML 2021, §4.8)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F
from torch import nn

from sdclr.method.competitor import IndependentNorm, Prunable, SelfCompetitor


class DropoutCompetitor(SelfCompetitor):
    """A network as its own twin with random dropout of activations instead of pruned weights.

    In training mode a share of the outputs of every prunable layer is dropped at random for each image, and the others
    are scaled up (inverted dropout). The twin has separate normalization, as with pruning. In eval mode nothing is
    dropped.

    Args:
        network: Encoder and projection head, or any `nn.Module`.
        ratio: Share of the values to drop, in [0, 1).
        prunable: As for `SelfCompetitor`: the layers whose outputs are dropped.
        independent_norm: As for `SelfCompetitor`.

    Example:
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> twin = sdclr.DropoutCompetitor(network, ratio=0.5)
        >>> images = torch.rand(8, 3, 4, 4)
        >>> torch.equal(twin(images), network(images)), torch.equal(twin.eval()(images), network(images))
        (False, True)
    """

    def __init__(
        self,
        network: nn.Module,
        ratio: float = 0.9,
        *,
        prunable: Prunable | None = None,
        independent_norm: IndependentNorm = True,
    ) -> None:
        super().__init__(network, 0.0, prunable=prunable, independent_norm=independent_norm)
        if not 0 <= ratio < 1:
            raise ValueError(f"a share to drop lies in [0, 1), not {ratio!r}")
        self.dropped = ratio

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the twin; arguments and result are the network's own."""
        with self.dropping():
            return super().forward(*args, **kwargs)

    @contextmanager
    def dropping(self) -> Iterator[None]:
        """Drop outputs of the layers inside the block, while the twin runs. The network shares these layers."""

        def drop(layer: nn.Module, inputs: Any, output: Any) -> Any:
            if isinstance(output, tuple):  # attention also returns its weights
                return drop(layer, inputs, output[0]), *output[1:]
            return F.dropout(output, self.dropped, training=layer.training)

        names = dict.fromkeys(name.rpartition(".")[0] for name in self.masks)  # one layer may have several weights
        handles = [self.network.get_submodule(name).register_forward_hook(drop) for name in names]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
