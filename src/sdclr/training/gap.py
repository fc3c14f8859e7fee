"""The generalization gap of a run: the loss of held-out images minus that of training images."""

from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from sdclr.data.sources import Source
from sdclr.features.extract import evaluating
from sdclr.method import nt_xent
from sdclr.training.sample import sampled_views
from sdclr.views.config import ViewConfig


def generalization_gap(
    network: nn.Module,
    images: Tensor | Source,
    held: Tensor,
    trained: Tensor,
    *,
    views: ViewConfig,
    temperature: float,
    seed: int,
    epoch: int,
    batch_size: int = 256,
    dtype: torch.dtype | None = None,
) -> float:
    """Mean loss of held-out images minus that of training images, in nats. All images are candidates of each other.

    The loss is NT-Xent, whatever the run's loss, because it only needs outputs. The network runs in eval mode.

    Args:
        network: The dense network; its modes are restored afterwards.
        images: The run's images: `(N, 3, H, W)` uint8 on the network's device, or a source.
        held: `(n,)` positions of held-out images.
        trained: `(n,)` positions of training images.
        views: Settings of the views.
        temperature: τ.
        seed: The run's seed.
        epoch: Determines the views, with the seed.
        batch_size: Views per forward pass.
        dtype: Type of products; None for float32.
    """
    chosen = torch.cat([held, trained])
    with evaluating(network) as device, torch.no_grad():
        # Another seed than in training: otherwise these could be the views that the network was trained on.
        (batch,) = sampled_views(
            images, np.asarray(chosen), views, device, seed=seed ^ 2**62, epoch=epoch, batch_size=len(chosen)
        )
        is_held = torch.from_numpy(batch.indices < len(held))
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            outputs = [
                torch.cat([cast("Tensor", network(part)) for part in torch.split(view, batch_size)])
                for view in (batch.view1, batch.view2)
            ]
        losses = nt_xent(outputs[0], outputs[1], temperature, reduction="none", alone=True).cpu()
    return float(losses[is_held].mean() - losses[~is_held].mean())
