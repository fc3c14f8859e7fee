"""The generalisation gap of a run: how much better it tells apart the images that it trains on than others."""

from typing import Final, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from sdclr.data.loading import Batch, ResidentLoader
from sdclr.data.sources import Source, SubsetSource
from sdclr.data.streaming import StreamLoader
from sdclr.data.views import ViewConfig
from sdclr.features.extract import evaluating
from sdclr.method import nt_xent

MOST_DRAWS: Final = 4
"""Pairs of views of one image that a measurement averages over, at most."""


class Gap(NamedTuple):
    """How much better a network tells apart what it trains on, in nats."""

    mean: float
    """Mean loss of images held out less that of images trained on."""
    error: float
    """Standard error of the former: what other images, held out in their place, would change it by."""


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
    draws: int = 1,
    dtype: torch.dtype | None = None,
) -> Gap:
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
        draws: Pairs of views of each image, up to 4, whose losses are averaged.
        dtype: What products are computed in; None for float32.
    """
    chosen = torch.cat([held, trained])
    losses = torch.zeros(len(chosen), dtype=torch.float64)
    with evaluating(network) as device, torch.no_grad():
        for draw in range(draws):
            batch = _drawn(images, chosen, views, device, seed=seed, epoch=MOST_DRAWS * epoch + draw)
            with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
                outputs = [
                    torch.cat([cast("Tensor", network(part)) for part in torch.split(view, 256)])
                    for view in (batch.view1, batch.view2)
                ]
            found = nt_xent(outputs[0], outputs[1], temperature, reduction="none", alone=True)
            losses[torch.from_numpy(batch.indices)] += found.cpu().double() / draws
    unknown, known = losses[: len(held)], losses[len(held) :]
    return Gap(float(unknown.mean() - known.mean()), float(unknown.std() / len(unknown) ** 0.5))


def _drawn(
    images: Tensor | Source, chosen: Tensor, views: ViewConfig, device: torch.device, *, seed: int, epoch: int
) -> Batch:
    """Two views of each of the chosen images, by their place among these."""
    # Drawn as no epoch of training draws them: those of its own would be the very views that were learned.
    own = seed ^ 2**62
    if isinstance(images, Tensor):
        resident = ResidentLoader(images[chosen.to(images.device)], views, seed=own, batch_size=len(chosen))
        return next(resident.epoch(epoch))
    source = SubsetSource(images, np.asarray(chosen))
    return next(StreamLoader(source, views, seed=own, batch_size=len(chosen), device=device).epoch(epoch))
