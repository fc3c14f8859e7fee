"""Sampling that is uniform over a tree of clusters, after Vo et al., *Automatic Data Curation …*, TMLR 2024."""

import torch
from torch import Tensor

from sdclr.method.rebalancing.config import CurationConfig
from sdclr.method.rebalancing.weights import SampleWeights


class Curation(SampleWeights):
    """Samples each image in proportion to its probability of being in a curated subset; recomputed every few epochs.

    The tree is that of hierarchical k-means in the encoder's features (`sdclr.features.hierarchy`).

    Args:
        samples: Images in the set, N.
        epochs: Epochs of the run.
        config: Strength, interval and start.
    """

    def __init__(self, samples: int, *, epochs: int, config: CurationConfig | None = None) -> None:
        config = config or CurationConfig()
        super().__init__(samples, epochs=epochs, start=config.start, every=config.every)
        self.config = config

    @torch.no_grad()
    def update(self, clusters: Tensor) -> None:
        """Recompute the weights. All processes call this together, with the same clusters.

        Args:
            clusters: `(N, L)` as for `curated_weights`.

        Raises:
            ValueError: If their number is not that of the images.
        """
        if len(clusters) != len(self.weights):
            raise ValueError(f"clusters of {len(clusters)} images for {len(self.weights)}: give those of each")
        weights = curated_weights(clusters.cpu(), share=self.config.share)
        self._adopt(weights, shuffled_by=self.config.seed if self.config.control == "shuffled" else None)


def curated_weights(clusters: Tensor, *, share: float = 0.1) -> Tensor:
    """Weights proportional to the probability that a curated subset contains each image.

    A subset of n images is divided from the top of the tree: each cluster gets as many images as its siblings, or all
    of its own if it has fewer. Within the smallest clusters the probability is uniform. The weight of an image is the
    probability that the subset contains it, times N / n. For a very small subset the weight depends on the tree
    alone: `1 / (siblings at each level · images of the smallest cluster)` up to a factor. For n = N all weights are 1.
    The paper draws one subset; with weights, training uses every image in the long run.

    Args:
        clusters: `(N, L)` int64, the cluster of each image at each level, the largest clusters first. Images with a
            negative number have no cluster and get weight 1.
        share: n / N in (0, 1]; no weight exceeds 1 / share.

    Returns:
        `(N,)` float64 with mean 1, on the same device.

    Raises:
        ValueError: If clusters are not `(N, L)` with one level or more, or the share is outside its range.

    Examples:
        >>> curated_weights(torch.tensor([[0], [0], [0], [1]]), share=0.5)  # two of four images: one of each cluster
        tensor([0.6667, 0.6667, 0.6667, 2.0000], dtype=torch.float64)
    """
    if clusters.ndim != 2 or not clusters.shape[1]:
        raise ValueError(f"clusters of shape {tuple(clusters.shape)}: give (N, L), with one level or more")
    if not 0 < share <= 1:
        raise ValueError(f"a curated subset holds a share of all images in (0, 1], not {share}")
    weights = torch.ones(len(clusters), dtype=torch.float64, device=clusters.device)
    known = (clusters >= 0).all(dim=1)
    if not bool(known.any()):
        return weights
    # In lexicographic order, so that images of one cluster are adjacent.
    paths, leaves, sizes = torch.unique(clusters[known], dim=0, return_inverse=True, return_counts=True)
    sizes = sizes.double()
    weights[known] = (_shared_out(paths, sizes, share * sizes.sum()) / sizes)[leaves] / share
    return weights


def _shared_out(paths: Tensor, sizes: Tensor, total: Tensor) -> Tensor:
    """Share of a total for each leaf `(P,)` of a node, from paths `(P, remaining levels)` and sizes of the leaves."""
    if not paths.shape[1]:
        return total.expand(len(sizes))
    counts = torch.unique_consecutive(paths[:, 0], return_counts=True)[1].tolist()
    of_children = torch.split(sizes, counts)
    shares = _even(torch.stack([each.sum() for each in of_children]), total)
    below = zip(torch.split(paths[:, 1:], counts), of_children, shares, strict=True)
    return torch.cat([_shared_out(*child) for child in below])


def _even(sizes: Tensor, total: Tensor) -> Tensor:
    """`min(sizes, c)` with c such that the sum is the total, which is at most that of the sizes."""
    ordered = sizes.sort().values
    filled = ordered.cumsum(0) - ordered
    # Candidates for c: entry i assumes that the i smallest clusters are used completely.
    levels = (total - filled) / torch.arange(len(sizes), 0, -1, device=sizes.device)
    fits = levels <= ordered
    fits[-1] = True  # rounding may prevent a fit if all clusters are used completely
    return sizes.minimum(levels[fits.int().argmax()])
