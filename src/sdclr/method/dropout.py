"""Dropout in place of pruning: the control of Jiang et al. (ICML 2021, §4.8)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from sdclr.method.competitor import IndependentNorm, Prunable, SelfCompetitor


class DropoutCompetitor(SelfCompetitor):
    """A network as its own twin whose activations are dropped at random, and no weight is.

    In training mode the output of every layer that would be pruned loses a share of its values, drawn anew for each
    image, and the others grow by as much (inverted dropout). Normalisation is the twin's own, as when pruning. In eval
    mode nothing is dropped.

    Args:
        network: Encoder and projection head, or any `nn.Module`.
        ratio: Share of the values to drop, in [0, 1).
        prunable: As for `SelfCompetitor`: whose outputs are dropped.
        independent_norm: As for `SelfCompetitor`.
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
        with self._dropping():
            return super().forward(*args, **kwargs)

    @contextmanager
    def _dropping(self) -> Iterator[None]:
        """Drop outputs of the network's layers for as long as the twin runs: the layers are shared with the network."""

        def drop(layer: nn.Module, _: Any, output: Tensor) -> Tensor:
            return F.dropout(output, self.dropped, training=layer.training)

        layers = [self.network.get_submodule(name.rpartition(".")[0]) for name in self.masks]
        handles = [layer.register_forward_hook(drop) for layer in layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
