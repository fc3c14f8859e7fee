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
from sdclr.training.gap import generalisation_gap
from sdclr.training.sample import sampled_views
from sdclr.views.randaugment import randaugment

MOST_DRAWS = 4
"""Pairs of views of one image that a measurement of the gap averages over, at most."""

SAMPLED = 512
"""Images by which a twin's statistics are corrected, at most; both views of each are taken."""
SAMPLED_AT_ONCE = 64
"""Images of a batch of these: 128 views give steady statistics and fit where a training step fits."""


LOOKED_AT_ONCE = 256
"""Images of a forward pass that measures the gap, at most; a smaller batch size of the training bounds it, too."""


class Guidance:
    """Carries out, epoch by epoch, what a run's rebalancers ask for.

    Args:
        objective: What is trained, with its rebalancers.
        feed: The batches.
        config: The run's.
        place: This process among the others.
        amp: Precision of looks at the features.
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
        """Settle what holds in an epoch. All processes call this together, before they ask for its batches.

        Args:
            epoch: From 0.
            begins: Whether its first step comes next, and not one in the middle, where it was settled before.
            rehearsing: Whether the epoch is measured and thrown away. On a CPU, `sample` then gives one batch only.
        """
        self._epoch, self._rehearsing = epoch, rehearsing
        self._objective.enter_epoch(epoch, begins=begins)
        if begins:
            self._look()
        sampling = self._objective.sampling
        if sampling is not None:
            own = 1.0 if self._own_weights is None else self._own_weights
            self._feed.loader.weights = own * sampling.double().cpu().numpy()
        strength = self._objective.strength  # on the host, or drawing would wait for the device at every step
        self._strength = None if strength is None else strength.double().cpu().numpy()

    def views(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Both views `(N, 3, S, S)` of a batch, changed as strongly as each sample is to be."""
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
        """Batches of views `(n, 3, S, S)` of some images, drawn and changed as training does at present.

        They are a function of the seed and the step, and alike on all processes.

        Args:
            step: Of the run, from 0.

        Yields:
            One batch after the other.
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
            seed=self._config.seed ^ 2**61,  # apart from those of training and of the gap
            epoch=step,
            batch_size=at_once,
        )
        for batch in batches:
            yield torch.cat(self.views(batch._replace(indices=chosen[batch.indices])))
            if self._rehearsing and self._place.device.type == "cpu":
                self._saved += (count // at_once - 1) * (time.perf_counter() - begun)
                return

    def take_saved(self) -> float:
        """Seconds that a rehearsal has saved since the last call: those of the batches that `sample` left out."""
        saved, self._saved = self._saved, 0.0
        return saved

    def _look(self) -> None:
        """Give density, curation and outside the encoder's features, if it is time, and an adaptive ratio the gap."""
        for rebalancer in self._objective.rebalancers:
            if isinstance(rebalancer, AdaptiveRatio):
                rebalancer.update(self._place.broadcast(self._gap(rebalancer) if self._place.first else 0.0))
            if isinstance(rebalancer, Density | Curation | Outside) and rebalancer.due(self._epoch):
                encoder = cast("Network", self._objective.network).encoder
                size = self._config.views.image_size
                refresh(rebalancer, encoder, self._feed, self._place, image_size=size, amp=self._amp)

    def _gap(self, adaptive: AdaptiveRatio) -> float:
        """Of the present epoch: the mean over several views of each image, where there are few images."""
        held, trained = adaptive.chosen(self._epoch)
        draws = max(1, min(MOST_DRAWS, 256 // len(held)))
        gaps = [
            generalisation_gap(
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
