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


def generalisation_gap(
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
    """Mean loss of images held out less that of images trained on, all candidates of each other, in nats.

    The loss is NT-Xent whatever the run's own is: it needs nothing but outputs. The network is in eval mode for it.

    Args:
        network: The dense network; its modes are put back.
        images: The run's, `(N, 3, H, W)` uint8 on the network's device, or what decodes them.
        held: `(n,)` positions of the images held out.
        trained: `(n,)` positions of images trained on.
        views: What the views are like.
        temperature: τ.
        seed: The run's seed.
        epoch: Decides, with the seed, which views are drawn.
        batch_size: Views of a forward pass.
        dtype: What products are computed in; None for float32.
    """
    chosen = torch.cat([held, trained])
    with evaluating(network) as device, torch.no_grad():
        # Drawn as no epoch of training draws them: those of its own would be the very views that were learned.
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
