"""Detection of collapse: the outputs of a network are the same for every image."""

import warnings
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

COLLAPSED = 0.05
"""A spread below this counts as a collapse. Outputs that vary equally in all dimensions then have an average cosine
similarity of at least 0.9975."""


class CollapseWatch:
    """The spread of a network's outputs over the latest batch: `√D · mean_j std_i(z_ij / ||z_i||)`.

    About 1 where directions are spread evenly, 0 where all are equal (Chen and He, *Exploring Simple Siamese
    Representation Learning*, CVPR 2021, section 4.1).

    Args:
        module: The module with the outputs `(N, D)`; watched until `close`.
    """

    def __init__(self, module: nn.Module) -> None:
        self._latest: Tensor | None = None
        self._warned = False
        self._handle = module.register_forward_hook(self._keep)

    def _keep(self, _: nn.Module, __: Any, output: Tensor) -> None:
        self._latest = output.detach()

    def spread(self) -> float | None:
        """The spread, or None before the first batch. Warns once of a collapse. The call waits for the device."""
        if self._latest is None or len(self._latest) < 2:
            return None
        value = spread(self._latest)
        if value < COLLAPSED and not self._warned:
            self._warned = True
            warnings.warn(
                f"the network has collapsed: it gives nearly the same output for every image (spread {value:.1e}, see "
                "feature_std in metrics.jsonl); lower --optim.lr or raise the warm-up in a new run",
                stacklevel=2,
            )
        return value

    def close(self) -> None:
        """Stop watching."""
        self._handle.remove()


def spread(outputs: Tensor) -> float:
    """`√D · mean_j std_i(z_ij / ||z_i||)` of outputs z `(N, D)`."""
    directions = F.normalize(outputs.float(), dim=1)
    return float(directions.std(dim=0, correction=0).mean() * outputs.shape[1] ** 0.5)
