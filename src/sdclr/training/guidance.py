"""The effect of rebalancers on the training images: their sampling and the strength of their augmentation."""

import time
from collections.abc import Iterator
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdclr.choices import Amp
from sdclr.encoders import Network
from sdclr.loading.batches import Batch
from sdclr.method import AdaptiveRatio, Objective
from sdclr.method.rebalancing import Curation, Density, Outside
from sdclr.precision import autocast_dtype
from sdclr.training.config import PretrainConfig
from sdclr.training.density import refresh
from sdclr.training.distributed import Processes
from sdclr.training.feed import Feed
from sdclr.training.gap import generalization_gap
from sdclr.training.sample import sampled_views
from sdclr.views.randaugment import randaugment

MOST_DRAWS = 4
"""Maximum number of view pairs per image that the gap is averaged over."""

SAMPLED = 512
"""Maximum number of images for correcting a twin's statistics; both views of each are used."""
SAMPLED_AT_ONCE = 64
"""Batch size for these images: 128 views give stable statistics and need no more memory than a training step."""


LOOKED_AT_ONCE = 256
"""Maximum number of images in a forward pass that measures the gap; the training's batch size is a second limit."""


class Guidance:
    """Applies the run's rebalancers to the sampling and the augmentation in each epoch.

    Args:
        objective: The trained objective, with its rebalancers.
        feed: The batches.
        config: The run's configuration.
        place: The rank of this process.
        amp: Precision of forward passes that read features.
    """

    def __init__(
        self, objective: Objective, feed: Feed, config: PretrainConfig, *, place: Processes, amp: Amp = "none"
    ) -> None:
        self._objective, self._feed, self._config, self._place, self._amp = objective, feed, config, place, amp
        self._own_weights = feed.loader.weights
        self._strength: NDArray[np.float64] | None = None
        self._epoch = 0
        self._rehearsing = False
        self._saved = 0.0

    def enter_epoch(self, epoch: int, *, begins: bool, rehearsing: bool = False) -> None:
        """Update sampling and augmentation for an epoch. All processes call this together, before its first batch.

        Args:
            epoch: From 0.
            begins: Whether the epoch starts with its first step. False if a run resumes within the epoch.
            rehearsing: Whether the epoch only measures the speed. On a CPU, `sample` then gives one batch only.
        """
        self._epoch, self._rehearsing = epoch, rehearsing
        self._objective.enter_epoch(epoch, begins=begins)
        if begins:
            self._look()
        sampling = self._objective.sampling
        if sampling is not None:
            own = 1.0 if self._own_weights is None else self._own_weights
            self._feed.loader.weights = own * sampling.double().cpu().numpy()
        strength = self._objective.strength  # kept on the host: otherwise every step would wait for the device
        self._strength = None if strength is None else strength.double().cpu().numpy()

    def views(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Both views `(N, 3, S, S)` of a batch, augmented with the strength of each sample."""
        if self._strength is None:
            return batch.view1, batch.view2
        strength, settings = self._strength[batch.indices], self._config.randaugment
        view1, view2 = (
            randaugment(
                drawn,
                batch.keys,
                strength=strength,
                config=settings,
                seed=self._config.seed,
                epoch=self._epoch,
                view=view,
            )
            for view, drawn in enumerate((batch.view1, batch.view2))
        )
        return view1, view2

    def sample(self, step: int) -> Iterator[Tensor]:
        """Batches of views `(n, 3, S, S)` of a sample of the images, drawn and augmented as in the current epoch.

        They depend on the seed and the step only, and are equal on all processes.

        Args:
            step: Step of the run, from 0.

        Yields:
            The batches.
        """
        begun = time.perf_counter()
        weights = self._feed.loader.weights
        share = None if weights is None else weights / weights.sum()
        images = len(self._feed.kept)
        drawable = images if share is None else int(np.count_nonzero(share))
        at_once = min(SAMPLED_AT_ONCE, drawable)
        count = min(SAMPLED, drawable) // at_once * at_once
        chosen = np.random.default_rng([self._config.seed, step]).choice(images, count, replace=False, p=share)
        batches = sampled_views(
            self._feed.images,
            chosen,
            self._config.views,
            self._place.device,
            seed=self._config.seed ^ 2**61,  # differs from the seeds of training and of the gap
            epoch=step,
            batch_size=at_once,
        )
        for batch in batches:
            yield torch.cat(self.views(batch._replace(indices=chosen[batch.indices])))
            if self._rehearsing and self._place.device.type == "cpu":
                self._saved += (count // at_once - 1) * (time.perf_counter() - begun)
                return

    def take_saved(self) -> float:
        """Seconds that a rehearsal saved since the last call: the time of the batches that `sample` left out."""
        saved, self._saved = self._saved, 0.0
        return saved

    def _look(self) -> None:
        """Update an adaptive ratio from the gap, and rebalancers that need features if an update is due."""
        for rebalancer in self._objective.rebalancers:
            if isinstance(rebalancer, AdaptiveRatio):
                rebalancer.update(self._place.broadcast(self._gap(rebalancer) if self._place.first else 0.0))
            if isinstance(rebalancer, Density | Curation | Outside) and rebalancer.due(self._epoch):
                encoder = cast("Network", self._objective.network).encoder
                size = self._config.views.image_size
                refresh(rebalancer, encoder, self._feed, self._place, image_size=size, amp=self._amp)

    def _gap(self, adaptive: AdaptiveRatio) -> float:
        """The gap in the current epoch. With few images it is the mean over several view pairs of each image."""
        held, trained = adaptive.chosen(self._epoch)
        draws = max(1, min(MOST_DRAWS, 256 // len(held)))
        gaps = [
            generalization_gap(
                self._objective.network,
                self._feed.images,
                held,
                trained,
                views=self._config.views,
                temperature=self._config.temperature,
                seed=self._config.seed,
                epoch=MOST_DRAWS * self._epoch + draw,
                batch_size=min(LOOKED_AT_ONCE, self._config.batch_size),
                dtype=autocast_dtype(self._amp, self._place.device),
            )
            for draw in range(draws)
        ]
        return sum(gaps) / len(gaps)
