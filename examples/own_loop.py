"""Self-damaging contrast in a training loop of your own: the idea, without the rest of the library.

Any network will do; here a small one learns from scikit-learn's digits for a few epochs.

    python examples/own_loop.py
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torchvision.transforms import v2

import sdclr

EPOCHS, BATCH = 5, 128


def main() -> None:
    torch.manual_seed(0)
    images = torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 16
    encoder = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip
    network = nn.Sequential()
    network.add_module("encoder", encoder)  # what is called `encoder` may be pruned …
    network.add_module("head", nn.Linear(32, 16))  # … and what stands beside it never is

    competitor = sdclr.SelfCompetitor(network, ratio=0.3)
    optimizer = torch.optim.SGD(competitor.parameters(), lr=0.1, momentum=0.9)
    view = v2.RandomResizedCrop(8, scale=(0.3, 1.0), antialias=True)

    for epoch in range(EPOCHS):
        competitor.refresh()  # prune what is smallest now
        losses = []
        for batch in torch.randperm(len(images)).split(BATCH)[:-1]:
            view1, view2 = (torch.stack([view(image) for image in images[batch]]) for _ in range(2))
            loss = sdclr.nt_xent(network(view1), competitor(view2), temperature=0.2)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        print(f"epoch {epoch}: loss {sum(losses) / len(losses):.3f}")
    for name, share in competitor.sparsity().items():
        print(f"{name}: {share:.0%} pruned")


if __name__ == "__main__":
    main()
