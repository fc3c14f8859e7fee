"""Does adapting a pretrained encoder to one's own long-tailed images improve its frozen features? A first measurement.

First trials had shown a gain of several points with fixed batch-norm statistics, and a loss with moving ones. This
script repeats one of them with the automatic settings of `--start`: four epochs on CIFAR-10-LT (imbalance 50, 4,196
images, 64 px), against the frozen encoder. One class order and one seed: a lead, not a result.

    python benchmarks/adapting.py --data DIR --run runs/adapted [--epochs 4] [--ratio 0.3]
    python benchmarks/adapting.py --data DIR                      # the frozen encoder

The probe is logistic regression on standardized features: 5,000 labeled training images, or 450 of them (mean of three
draws); 3,000 test images.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn

from sdclr.data.longtail import long_tail_counts
from sdclr.data.sources import Source, SubsetSource, open_source
from sdclr.encoders import DEFAULT, Preprocessing, load_encoder
from sdclr.features.extract import extract_features
from sdclr.training.config import Runtime
from sdclr.training.defaults import for_images, starting_line
from sdclr.training.pretrain import pretrain

SIZE = 64


def long_tail(train: Source) -> SubsetSource:
    """CIFAR-10-LT: 1,500 images of the most frequent class, imbalance 50, one random class order."""
    rng, labels = np.random.default_rng(0), np.asarray(train.labels)
    order = rng.permutation(10)
    chosen = [
        rng.choice(np.flatnonzero(labels == label), count, replace=False)
        for label, count in zip(order, long_tail_counts(10, 1500, 50), strict=True)
    ]
    return SubsetSource(train, np.sort(np.concatenate(chosen)), name="cifar10-lt")


def probe(encoder: nn.Module, train: Source, test: Source) -> tuple[float, float]:
    """Accuracy in percent with 5,000 labels and with 450."""
    rng = np.random.default_rng(0)
    parts = [
        SubsetSource(source, np.sort(rng.choice(len(source), count, replace=False)))
        for source, count in ((train, 5000), (test, 3000))
    ]
    seen = Preprocessing(image_size=SIZE)
    x, judged = (extract_features(encoder, part, preprocessing=seen).values for part in parts)
    labels, truth = (np.asarray(part.labels) for part in parts)
    scale = StandardScaler().fit(x)
    x, judged = scale.transform(x), scale.transform(judged)
    full = LogisticRegression(C=0.01, max_iter=300).fit(x, labels).score(judged, truth)
    few = []
    for draw in range(3):
        rng = np.random.default_rng(draw)
        chosen = np.concatenate([rng.choice(np.flatnonzero(labels == k), 45, replace=False) for k in range(10)])
        few.append(LogisticRegression(C=0.01, max_iter=300).fit(x[chosen], labels[chosen]).score(judged, truth))
    return 100 * full, 100 * float(np.mean(few))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="CIFAR-10 as open_source takes it")
    parser.add_argument("--run", type=Path, help="folder of the run; without one the frozen encoder is measured")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--ratio", type=float, default=0.3)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    train, test = open_source(asked.data, split="train"), open_source(asked.data, split="test")
    if asked.run is None:
        encoder, name = load_encoder(image_size=SIZE), "frozen"
    else:
        source = long_tail(train)
        config = for_images(source, gpu=False, start=DEFAULT)
        config = replace(
            config,
            views=replace(config.views, image_size=SIZE),
            damage=replace(config.damage, ratio=asked.ratio),
            epochs=asked.epochs,
        )
        print(starting_line(config), flush=True)
        runtime = Runtime(device="cpu", workers=0, amp="none", progress=False, checkpoint_minutes=1)
        encoder = pretrain(source, config, run=asked.run, runtime=runtime).encoder()
        name = f"adapted, {asked.ratio:g} pruned, {asked.epochs} epochs"
    full, few = probe(encoder, train, test)
    print(f"{name}: {full:.1f} % with 5,000 labels, {few:.1f} % with 450")


if __name__ == "__main__":
    main()
