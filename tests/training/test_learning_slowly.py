"""Frameworks that learn slowly, most of them without negatives, tell digits apart better than random weights do.

They are judged by a linear probe after 24 epochs. Heads are short, since 64 features are what they have to project:
with those of the papers, and in a deeper network, 20 epochs left some no better than they began.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from sdclr.data.sources import digits
from sdclr.encoders import EncoderConfig
from sdclr.method.frameworks import BarlowTwinsConfig, BYOLConfig, SimSiamConfig
from sdclr.recipes import digits_demo, with_framework
from sdclr.training.config import DamageConfig, FrameworkName, PretrainConfig
from sdclr.training.optim import OptimConfig
from sdclr.training.pretrain import pretrain
from sdclr.training.run import create_objective
from sdclr.training.runtime import Runtime

pytestmark = [pytest.mark.slow, pytest.mark.long]

MARGIN = 5  # points


def config(framework: FrameworkName, damage: DamageConfig, **changes: Any) -> PretrainConfig:
    """A run in a framework, with what is customary for it but for `changes`."""
    short = replace(
        digits_demo(), encoder=EncoderConfig(name="resnet20", width=8), damage=damage, batch_size=64, epochs=24
    )
    short = replace(short, optim=OptimConfig(lr=0.25, warmup_epochs=2))
    made = with_framework(short, framework)
    optim, head = replace(made.optim, **changes.pop("optim", {})), replace(made.head, **changes.pop("head", {}))
    return replace(made, optim=optim, head=head, **changes)


FRAMEWORKS: dict[FrameworkName, dict[str, Any]] = {
    "moco_v3": {"optim": {"lr": 0.1}, "epochs": 12},
    "byol": {
        "optim": {"lr": 0.2, "weight_decay": 5e-4},
        "head": {"dim": 32, "hidden": 128},
        "byol": BYOLConfig(hidden=128, momentum=0.97),
    },
    "simsiam": {
        "optim": {"lr": 0.2, "weight_decay": 5e-4},
        "head": {"dim": 32, "hidden": 128},
        "simsiam": SimSiamConfig(hidden=32),
    },
    "barlow_twins": {"optim": {"lr": 0.1}, "barlow_twins": BarlowTwinsConfig(scale=0.1)},
}
DAMAGES = {"plain": DamageConfig(kind="none"), "damaged": DamageConfig(ratio=0.2, independent_norm="statistics")}


@pytest.fixture(scope="module")
def accuracy(embed_digits: Callable[..., Any]) -> Callable[[nn.Module], float]:
    """Percent of test digits that a linear probe names."""
    train, test = digits("train").labels, digits("test").labels

    def call(encoder: nn.Module) -> float:
        x, queries = embed_digits(encoder)
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(x, train)
        return 100 * float(np.mean(probe.predict(queries) == test))

    return call


@pytest.fixture(scope="module")
def untrained(accuracy: Callable[[nn.Module], float]) -> float:
    made = config("simsiam", DAMAGES["plain"])
    torch.manual_seed(made.seed)
    network: Any = create_objective(made).network
    return accuracy(network.encoder.eval())


@pytest.mark.parametrize("case", [(framework, damage) for framework in FRAMEWORKS for damage in DAMAGES], ids="-".join)
def test_beats_random_weights(
    case: tuple[FrameworkName, str],
    untrained: float,
    accuracy: Callable[[nn.Module], float],
    runtime: Runtime,
    tmp_path: Path,
) -> None:
    framework, damage = case
    made = config(framework, DAMAGES[damage], **FRAMEWORKS[framework])
    run = pretrain(digits("train"), made, run=tmp_path / "run", runtime=runtime)
    assert accuracy(run.encoder()) > untrained + MARGIN
