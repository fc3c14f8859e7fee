"""Geometric harmonization (Zhou et al., *Combating Representation Learning Disparity with …*, NeurIPS 2023)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sdclr.method.losses import gather
from sdclr.method.rebalancing.config import HarmonizationConfig
from sdclr.method.rebalancing.rebalancer import Outputs, Rebalancer, mean_by_sample, of_all
from sdclr.method.rebalancing.sinkhorn import sinkhorn


class Harmonization(Rebalancer):
    """Adds `CE(q1, softmax(t2 / γ)) + CE(q2, softmax(t1 / γ))` to the losses, after a warm-up.

    `t = normalize(z Wᵀ)` are the outputs' products with K fixed directions W. The targets q assign the batch of all
    processes to clusters of sizes π (`sinkhorn`). π counts the images of the set nearest to each direction, by a
    running mean of their t of view 1. A cluster without nearest images gets size 0.

    It stores K numbers per image in float32: in half precision, the steps of a mean with momentum 0.999 would vanish.

    Args:
        samples: Images in the set.
        dim: Dimension D of the network's outputs.
        epochs: Epochs of the run.
        config: Clusters, targets and schedule.
    """

    vectors: Tensor  # (K, D): W
    logits: Tensor  # (samples, K): running mean of t, up to a factor; zero for an image not seen yet
    prior: Tensor  # (K,): π
    weight_now: Tensor  # (): the term's weight in this epoch
    momentum_now: Tensor  # (): the running mean's momentum in this epoch

    def __init__(self, samples: int, *, dim: int, epochs: int, config: HarmonizationConfig | None = None) -> None:
        super().__init__()
        self.config = config or HarmonizationConfig()
        self.begins = round(self.config.warmup * epochs)
        self.ramp = max(1, round(self.config.ramp * epochs))
        self.every = max(1, round(self.config.refresh * epochs))
        clusters = self.config.clusters
        self.register_buffer("vectors", spread_directions(clusters, dim))
        self.register_buffer("logits", torch.zeros(samples, clusters))
        self.register_buffer("prior", torch.full((clusters,), 1 / clusters))
        # Tensors, so that a compiled step is not recompiled in every epoch.
        self.register_buffer("weight_now", torch.zeros(()), persistent=False)
        self.register_buffer("momentum_now", torch.zeros(()), persistent=False)
        self.active = False
        self.enter_epoch(0)

    def enter_epoch(self, epoch: int) -> None:
        """Set weight and momentum."""
        since = epoch - self.begins
        self.active = since >= 0
        self.weight_now.fill_(self.config.weight * min(1.0, max(0.0, (since + 1) / self.ramp)))
        self.momentum_now.fill_(self.config.momentum if self.active else self.config.warmup_momentum)

    @torch.no_grad()
    def begin_epoch(self, epoch: int) -> None:
        """Update the clusters' sizes if due."""
        since = epoch - self.begins
        if since >= 0 and since % self.every == 0:
            seen = self.logits.any(1).to(self.prior.dtype)
            sizes = torch.zeros_like(self.prior).index_add_(0, self.logits.argmax(1), seen)
            self.prior.copy_(torch.where(seen.any(), sizes / seen.sum(), self.prior))

    def forward(self, losses: Tensor, outputs: Outputs, samples: Tensor) -> Tensor:
        """Losses `(n,)` with the term, from outputs `(n, D)`; unchanged during the warm-up."""
        # Autocast would run the products below in half precision, whatever the type of their inputs.
        with torch.autocast(losses.device.type, enabled=False):
            logits1 = self._logits(outputs[0])
            if not self.active:
                self._remember(of_all(samples), of_all(logits1))
                return losses
            logits2 = self._logits(outputs[1])
            everyone, own = gather(torch.cat([logits1, logits2], 1).detach())
            self._remember(of_all(samples), everyone[:, : self.config.clusters])
            of_views = torch.stack(everyone.chunk(2, 1))  # (2, N, K)
            targets = sinkhorn(of_views, self.prior, epsilon=self.config.epsilon, iterations=self.config.iterations)
            target1, target2 = targets[:, own : own + len(samples)]
            term = self._cross_entropy(target1, logits2) + self._cross_entropy(target2, logits1)
            return losses + self.weight_now * term

    def _logits(self, outputs: Tensor) -> Tensor:
        outputs = outputs if outputs.dtype == torch.float64 else outputs.float()
        return F.normalize(outputs @ self.vectors.to(outputs).T, dim=1)

    def _cross_entropy(self, target: Tensor, logits: Tensor) -> Tensor:
        return -(target * F.log_softmax(logits / self.config.temperature, dim=1)).sum(1)

    @torch.no_grad()
    def _remember(self, samples: Tensor, logits: Tensor) -> None:
        once, mean = mean_by_sample(samples, logits.to(self.logits.dtype))
        self.logits[once] = torch.lerp(mean, self.logits[once], self.momentum_now)


def spread_directions(count: int, dim: int) -> Tensor:
    """Unit vectors `(count, dim)` with maximal distances, in a random but fixed rotation.

    Up to `dim + 1` vectors form a simplex: every two have the cosine `-1 / (count - 1)`. More vectors are spread by
    gradient descent on the mean of `log Σ exp(cosine / 0.1)` over all others.
    """
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(count, dim, generator=generator, dtype=torch.float64)
    if count <= dim + 1:
        # The simplex spans the space orthogonal to (1, …, 1) in `count` dimensions.
        ones_first = torch.cat([torch.ones(count, 1, dtype=torch.float64), torch.eye(count, dtype=torch.float64)], 1)
        basis = torch.linalg.qr(ones_first[:, :-1]).Q[:, 1:]
        turned = torch.linalg.qr(vectors[:-1].T).Q
        simplex: Tensor = math.sqrt(count / (count - 1)) * basis @ turned.T
        return simplex.float()
    vectors = F.normalize(vectors.float(), dim=1)
    for _ in range(200):
        attention = (vectors @ vectors.T / 0.1).fill_diagonal_(-torch.inf).softmax(1)
        # The gradient of a vector, from its own term and from those of the others.
        vectors = F.normalize(vectors - 0.1 * (attention + attention.T) @ vectors, dim=1)
    return vectors
