"""Features of images from a run's dense and pruned encoders and of augmented views. Each image is read once."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sdclr.data.sources import Source
from sdclr.decoding.decode import BadImage
from sdclr.evaluation.evaluate import branch_encoder
from sdclr.features.extract import extract_features
from sdclr.training.resolve import ResolvedEncoder
from sdclr.views.config import ViewConfig
from sdclr.views.parameters import draw_views
from sdclr.views.render import render


class Encoded(NamedTuple):
    """Features from one pass over the source.

    Attributes:
        dense: (N, D) features of the evaluation view.
        sparse: (N, D) features of the same view from the pruned encoder; None if the run does not prune.
        views: Two (N, D) arrays: features of two augmented views; None if not requested.
        kept: (N,) int64, the position in the source of each row.
        bad: The unreadable images, which are left out.
    """

    dense: NDArray[np.float32]
    sparse: NDArray[np.float32] | None
    views: tuple[NDArray[np.float32], NDArray[np.float32]] | None
    kept: NDArray[np.int64]
    bad: list[BadImage]


def encode(
    resolved: ResolvedEncoder,
    source: Source,
    *,
    views: ViewConfig | None = None,
    batch_size: int = 512,
    device: str | torch.device = "cpu",
    workers: int = 0,
) -> Encoded:
    """Compute all features for the diagnosis. Each image is read once.

    Args:
        resolved: The encoder; for a run with pruning, the pruned twin is used too.
        source: The images.
        views: Settings of two augmented views, drawn from the evaluation view of each image; None draws none.
        batch_size: Images per forward pass.
        device: Device of the encoders.
        workers: Number of processes that decode.

    Raises:
        InputError: If no image can be decoded.
    """
    dense, run = resolved.encoder, resolved.run
    sparse = branch_encoder(resolved, "sparse") if run is not None and run.config.damage.prunes else None
    found = extract_features(
        _Together(dense, sparse, views),
        source,
        preprocessing=resolved.preprocessing,
        batch_size=batch_size,
        device=device,
        workers=workers,
    )
    branches = 1 + (sparse is not None) + 2 * (views is not None)
    parts = np.split(found.values, branches, axis=1)
    return Encoded(
        parts[0],
        None if sparse is None else parts[1],
        None if views is None else (parts[-2], parts[-1]),
        found.kept,
        found.bad,
    )


class _Together(nn.Module):
    """Concatenated features of the image, of the image in the pruned encoder, and of two augmented views."""

    def __init__(self, dense: nn.Module, sparse: nn.Module | None, views: ViewConfig | None) -> None:
        super().__init__()
        self.dense, self.sparse, self.views = dense, sparse, views
        self.seen = 0

    def forward(self, images: Tensor) -> Tensor:
        outputs = [self.dense(images)]
        if self.sparse is not None:
            outputs.append(self.sparse(images))
        if self.views is not None:
            outputs += [self.dense(self._drawn(images, view, self.views)) for view in (0, 1)]
        self.seen += len(images)
        return torch.cat(outputs, dim=1)

    def _drawn(self, images: Tensor, view: int, config: ViewConfig) -> Tensor:
        count, _, height, width = images.shape
        indices = np.arange(self.seen, self.seen + count)
        drawn = draw_views(config, seed=0, epoch=0, indices=indices, view=view, height=height, width=width)
        return render((images * 255).round().byte(), drawn, config.image_size)
