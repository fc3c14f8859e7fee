"""A framework of your own, plain and self-damaged: alignment and uniformity on the sphere in thirty lines.

Wang and Isola, *Understanding Contrastive Representation Learning through Alignment and Uniformity on the Hypersphere*
(ICML 2020). Both branches and both views come in, one loss a sample goes out: `sdclr` needs no more.

    python examples/own_framework.py
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdclr.data.scan import load_images
from sdclr.data.sources import digits
from sdclr.encoders import EncoderConfig, HeadConfig, Preprocessing, create_network
from sdclr.evaluation.knn import knn_predict
from sdclr.features.extract import extract_features
from sdclr.loading.batches import ResidentLoader
from sdclr.method import Objective, SelfCompetitor
from sdclr.recipes import digits_demo

Branch = Callable[[Tensor], Tensor]
EPOCHS = 10


class AlignUniform(nn.Module):
    """`|z_i - z'_i|² + (log Σ_{j≠i} exp(-2 |z_i - z_j|²) + the same of z') / 2`, z and z' on the unit sphere."""

    def forward(self, a: Branch, b: Branch, view1: Tensor, view2: Tensor) -> Tensor:
        z1, z2 = F.normalize(a(view1), dim=1), F.normalize(b(view2), dim=1)
        return (z1 - z2).square().sum(1) + (uniformity(z1) + uniformity(z2)) / 2


def uniformity(z: Tensor) -> Tensor:
    """`log Σ_{j≠i} exp(-2 |z_i - z_j|²)`, `(N,)`: small where rows are spread evenly."""
    near = -2 * torch.cdist(z, z).square()
    itself = torch.eye(len(z), dtype=torch.bool)
    return near.masked_fill(itself, -torch.inf).logsumexp(1)


def accuracy(encoder: nn.Module) -> float:
    """Percent of test digits that their five nearest neighbors name."""
    train, test = digits("train"), digits("test")
    known, asked = (
        extract_features(encoder, source, preprocessing=Preprocessing(image_size=8)).values for source in (train, test)
    )
    return 100 * float(np.mean(knn_predict(known, train.labels, asked, 10, k=5) == test.labels))


def main() -> None:
    config = digits_demo()
    images = load_images(digits("train")).images
    for name in ("plain", "self-damaging"):
        torch.manual_seed(0)
        network = create_network(EncoderConfig(name="resnet18", stem="small", width=8), HeadConfig(), image_size=8)
        before = accuracy(network.encoder)
        competitor = SelfCompetitor(network, 0.3) if name == "self-damaging" else None
        objective = Objective(AlignUniform(), network, competitor)
        optimizer = torch.optim.SGD(objective.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
        loader = ResidentLoader(images, config.views, seed=0, batch_size=128)
        for epoch in range(EPOCHS):
            if competitor is not None:
                competitor.refresh()
            for batch in loader.epoch(epoch):
                optimizer.zero_grad()
                objective(batch.view1, batch.view2).mean().backward()
                optimizer.step()
        print(f"{name}: {before:.1f} % of digits named before training, {accuracy(network.encoder):.1f} % after")


if __name__ == "__main__":
    main()
