"""Views of a sample of the run's images, drawn outside the training epochs."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdclr.data.sources import Source, SubsetSource
from sdclr.loading.batches import Batch, ResidentLoader
from sdclr.loading.streaming import StreamLoader
from sdclr.views.config import ViewConfig


def sampled_views(
    images: Tensor | Source,
    chosen: NDArray[np.int64],
    views: ViewConfig,
    device: torch.device,
    *,
    seed: int,
    epoch: int,
    batch_size: int,
) -> Iterator[Batch]:
    """Two views of each of the chosen images, in whole batches; an incomplete last batch is dropped.

    Args:
        images: The run's images: `(N, 3, H, W)` uint8 on the device, or a source.
        chosen: `(n,)` positions of the images.
        views: Settings of the views.
        device: Device of the views.
        seed: Determines, with the epoch, the views and their order.
        epoch: Any number from 0.
        batch_size: Images per batch.

    Yields:
        Batches whose `indices` are positions in `chosen`, from 0 to n - 1.
    """
    if isinstance(images, Tensor):
        some = images[torch.from_numpy(chosen).to(images.device)]
        yield from ResidentLoader(some, views, seed=seed, batch_size=batch_size).epoch(epoch)
    else:
        source = SubsetSource(images, chosen)
        yield from StreamLoader(source, views, seed=seed, batch_size=batch_size, device=device).epoch(epoch)
