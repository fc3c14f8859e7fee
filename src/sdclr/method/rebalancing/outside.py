"""Outside images that fill the gaps of a long tail.

COLT: Bai et al., *On the Effectiveness of Out-of-Distribution Data in Self-Supervised Long-Tail Learning*, ICLR 2023.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from sdclr.method.losses import gather
from sdclr.method.rebalancing.config import OutsideConfig
from sdclr.method.rebalancing.rebalancer import Outputs, mean_by_sample, of_all
from sdclr.method.rebalancing.weights import SampleWeights


class Outside(SampleWeights):
    """Trains on own images and on some outside images, most of them near those clusters that are rare.

    Every own image has a tailness score: high if few outputs of a batch lie near it. Every few epochs the own images
    are clustered, clusters of high tailness get a larger budget of outside images, and the outside images nearest to
    the center of each cluster are chosen. Own images and chosen ones have sampling weight 1, all others 0. Both kinds
    take part in the framework's loss. A term for each sample then separates own images from outside ones.

    Before the first choice a run trains on own images alone, without the term.

    Args:
        outside: `(N,)` bool, whether an image of the set is an outside one.
        epochs: Epochs of the run.
        temperature: Temperature τ of the contrast.
        config: Budget, clusters, strength, interval and start.

    Raises:
        ValueError: If there are no own images or no outside ones.
    """

    outside: Tensor
    """`(N,)` bool."""
    weights: Tensor
    """`(N,)` float64, 1 for the images that are drawn and 0 for the others."""
    tailness: Tensor
    """`(N,)` the moving average of each image's tailness score; that of outside images is not used."""
    seen: Tensor
    """`(N,)` whether there is one."""

    def __init__(
        self, outside: Tensor, *, epochs: int, temperature: float, config: OutsideConfig | None = None
    ) -> None:
        config = config or OutsideConfig()
        super().__init__(len(outside), epochs=epochs, start=config.start, every=config.every)
        if not bool(outside.any()) or bool(outside.all()):
            raise ValueError("outside images are added to own ones: give one or more of both")
        self.config, self.temperature_of_contrast = config, temperature
        self.register_buffer("outside", outside.clone(), persistent=False)
        self.register_buffer("tailness", torch.zeros(len(outside)))
        self.register_buffer("seen", torch.zeros(len(outside), dtype=torch.bool))
        self.weights.copy_(~outside)

    @property
    def sampling(self) -> Tensor:
        """Sampling weight of each image, 0 or 1."""
        return self.weights

    @torch.no_grad()
    def update(self, clusters: Tensor, closeness: Tensor) -> None:
        """Choose outside images anew. All processes call this together, with the same arguments.

        Args:
            clusters: `(N,)` int64, the cluster of each own image, from 0. Images with a negative number belong to none.
            closeness: `(N, K)` cosine of each image to the center of each cluster; NaN for an image without features.

        Raises:
            ValueError: If they are not of this set.
        """
        if not len(clusters) == len(closeness) == len(self.weights):
            raise ValueError(
                f"clusters of {len(clusters)} images and closeness of {len(closeness)} for {len(self.weights)}: give "
                "those of each"
            )
        own, known = ~self.outside.cpu(), ~closeness.isnan().any(dim=1).cpu()
        candidates = (~own & known).nonzero().flatten()
        count = min(len(candidates), round(self.config.budget * int(own.sum())))
        if self.config.control == "random":
            generator = torch.Generator().manual_seed(self.config.seed + self.epoch)
            chosen = torch.randperm(len(candidates), generator=generator)[:count]
        else:
            scored = own & self.seen.cpu() & (clusters.cpu() >= 0)
            scores = of_clusters(self.tailness.cpu()[scored], clusters.cpu()[scored], closeness.shape[1])
            members = torch.bincount(clusters.cpu()[own & (clusters.cpu() >= 0)], minlength=closeness.shape[1])
            shares = budgets(scores, count, temperature=self.config.temperature, empty=members == 0)
            chosen = nearest_to_centers(closeness.cpu()[candidates], shares)
        weights = own.double()
        weights[candidates[chosen]] = 1
        self._adopt(weights, shuffled_by=None)

    def forward(self, losses: Tensor, outputs: Outputs, samples: Tensor) -> Tensor:
        """Losses `(n,)` with the term, of outputs `(n, D)` twice; records tailness scores. See `Rebalancer.forward`."""
        # Autocast would run the products below in half precision, whatever the type of their inputs.
        with torch.autocast(losses.device.type, enabled=False):
            anchors = F.normalize(torch.cat([x if x.dtype == torch.float64 else x.float() for x in outputs]), dim=1)
            candidates, first = gather(anchors)
            log_p = log_probabilities(anchors, candidates, first, self.temperature_of_contrast)
            self._learn(log_p.detach(), first, samples)
            if self.epoch < self.first or not self.config.alpha:
                return losses
            kinds = self.outside[samples].repeat(2)
            every = of_all(kinds)
            term = kind_contrast(log_p, kinds, every, first).view(2, -1).mean(0)
            # A batch of own images alone has nothing to be separated from.
            return losses + self.config.alpha * every.any() * term

    @torch.no_grad()
    def _learn(self, log_p: Tensor, first: int, samples: Tensor) -> None:
        count = max(1, round(self.config.top * log_p.shape[1] / 2))
        scores = tailness(log_p, first, count).view(2, -1).mean(0).to(self.tailness.dtype)
        which, score = mean_by_sample(of_all(samples), of_all(scores))
        moved = torch.lerp(score, self.tailness[which], self.config.momentum)
        self.tailness[which] = torch.where(self.seen[which], moved, score)
        self.seen[which] = True


def log_probabilities(anchors: Tensor, candidates: Tensor, first: int, temperature: float) -> Tensor:
    """`log( exp(z_i·z_j / τ) / Σ_{k≠i} exp(z_i·z_k / τ) )` of each anchor i and candidate j; -inf for i itself.

    Args:
        anchors: `(A, D)` outputs of length 1 of this process: view 1 of each sample, then view 2.
        candidates: `(C, D)` those of all processes.
        first: Which candidate the first anchor is.
        temperature: τ.

    Returns:
        `(A, C)`.
    """
    logits = (anchors / temperature) @ candidates.T
    return logits.masked_fill(_itself(logits, first), -torch.inf).log_softmax(1)


def tailness(log_p: Tensor, first: int, count: int) -> Tensor:
    """Tailness score of each anchor: minus the sum of the largest probabilities of its negatives.

    Negatives are all candidates but the anchor itself and the other view of its sample. Where many samples are alike,
    an anchor has many near negatives, and the score is low. It lies in [-1, 0].

    Args:
        log_p: `(A, C)` from `log_probabilities`.
        first: Which candidate the first anchor is.
        count: How many of the largest are summed.

    Returns:
        `(A,)`.
    """
    half = len(log_p) // 2
    positives = _itself(log_p, first).roll(half, dims=0)
    negatives = log_p.exp().masked_fill(positives, 0)
    return -negatives.topk(min(count, negatives.shape[1]), dim=1).values.sum(1)


def kind_contrast(log_p: Tensor, anchors: Tensor, candidates: Tensor, first: int) -> Tensor:
    """Supervised contrastive loss (Khosla et al., NeurIPS 2020) of two classes: own images and outside ones.

    `-1/|S(i)| Σ_{j∈S(i)} log p_ij` with S(i) the candidates of the kind of anchor i, without i itself.

    Args:
        log_p: `(A, C)` from `log_probabilities`.
        anchors: `(A,)` bool, whether an anchor is of an outside image.
        candidates: `(C,)` bool, the same for candidates.
        first: Which candidate the first anchor is.

    Returns:
        `(A,)`.
    """
    alike = (anchors[:, None] == candidates[None]) & ~_itself(log_p, first)
    return -torch.where(alike, log_p, 0).sum(1) / alike.sum(1)


def of_clusters(scores: Tensor, clusters: Tensor, count: int) -> Tensor:
    """Mean score of each cluster, `(count,)` float64, of scores `(n,)` and clusters `(n,)`; NaN without members."""
    total = torch.zeros(count, dtype=torch.float64).index_add_(0, clusters, scores.double())
    return total / torch.bincount(clusters, minlength=count)


def budgets(scores: Tensor, total: int, *, temperature: float = 1.0, empty: Tensor | None = None) -> Tensor:
    """Outside images for each cluster: the total times the softmax of the standardized scores over a temperature.

    Args:
        scores: `(K,)` mean tailness of each cluster. NaN counts as the mean of the others.
        total: Sum of the budgets.
        temperature: Below 1 the budgets differ more, above 1 less.
        empty: `(K,)` bool, clusters that get nothing.

    Returns:
        `(K,)` int64. What rounding down leaves over goes to the largest fractions.
    """
    known = ~scores.isnan()
    standard = torch.zeros_like(scores)
    if int(known.sum()) > 1:
        spread = scores[known].std()
        standard[known] = (scores[known] - scores[known].mean()) / spread.clamp_min(torch.finfo(scores.dtype).tiny)
    if empty is not None:
        standard[empty] = -torch.inf
    wanted = total * (standard / temperature).softmax(0)
    given = wanted.floor()
    left = total - int(given.sum())
    given[(wanted - given).sort(descending=True, stable=True).indices[:left]] += 1
    return given.long()


def nearest_to_centers(closeness: Tensor, counts: Tensor) -> Tensor:
    """Choose images for each cluster in turn: those nearest to its center of the images not chosen yet.

    Args:
        closeness: `(M, K)` of each image to each center.
        counts: `(K,)` images to choose for each cluster.

    Returns:
        `(Σ counts,)` int64, rows of `closeness`, fewer if there are not so many images.
    """
    free = torch.ones(len(closeness), dtype=torch.bool)
    chosen = [torch.empty(0, dtype=torch.int64)]
    for column, count in zip(closeness.T, counts.tolist(), strict=True):
        order = column.sort(descending=True, stable=True).indices
        chosen.append(order[free[order]][:count])
        free[chosen[-1]] = False
    return torch.cat(chosen)


def _itself(matrix: Tensor, first: int) -> Tensor:
    """`(A, C)` bool: True where candidate j is anchor i."""
    own = first + torch.arange(len(matrix), device=matrix.device)
    return own[:, None] == torch.arange(matrix.shape[1], device=matrix.device)[None]
