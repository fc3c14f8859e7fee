"""Methods learn: their encoders tell digits apart clearly better than random weights do."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sdclr.data.sources import digits
from sdclr.encoders import EncoderConfig
from sdclr.evaluation.knn import knn_predict
from sdclr.method.frameworks import MoCoConfig
from sdclr.recipes import digits_demo, with_framework
from sdclr.training.config import DamageConfig, PretrainConfig, Runtime
from sdclr.training.optim import OptimConfig
from sdclr.training.pretrain import pretrain
from sdclr.training.run import create_objective

pytestmark = pytest.mark.slow

SHORT = replace(
    digits_demo(),
    encoder=EncoderConfig(name="resnet18", stem="small", width=8),
    damage=DamageConfig(kind="none"),
    optim=OptimConfig(lr=0.25, warmup_epochs=2),
    moco=MoCoConfig(queue=512, momentum=0.9),
    epochs=10,
)

LIGHT = DamageConfig(ratio=0.3)
METHODS: dict[str, PretrainConfig] = {
    "SimCLR": SHORT,
    "SDCLR": replace(SHORT, damage=LIGHT),
    "MoCo": replace(SHORT, framework="moco"),
    "self-damaging MoCo": replace(SHORT, framework="moco", damage=LIGHT),
    "random pruning": replace(SHORT, damage=DamageConfig(kind="random", ratio=0.3)),
    "dropout": replace(SHORT, damage=DamageConfig(kind="dropout", ratio=0.3)),
    "focal": replace(SHORT, rebalance=("focal",)),
    "decoupled": replace(SHORT, decoupled=True),
    "self-damaging decoupled": replace(SHORT, decoupled=True, damage=LIGHT),
    "VICReg": with_framework(SHORT, "vicreg"),
    "self-damaging VICReg": replace(with_framework(SHORT, "vicreg"), damage=LIGHT),
}
MARGIN = 5  # points


@pytest.fixture(scope="module")
def accuracy(embed_digits: Callable[..., Any]) -> Callable[[nn.Module], float]:
    """Percent of test digits that the vote of 5 neighbors names."""
    train, test = digits("train").labels, digits("test").labels

    def call(encoder: nn.Module) -> float:
        x, queries = embed_digits(encoder)
        assert train is not None
        return 100 * float(np.mean(knn_predict(x, train, queries, 10, k=5) == test))

    return call


@pytest.fixture(scope="module")
def untrained(accuracy: Callable[[nn.Module], float]) -> float:
    torch.manual_seed(SHORT.seed)
    network: Any = create_objective(SHORT).network
    return accuracy(network.encoder.eval())


@pytest.mark.parametrize("method", METHODS)
def test_beats_random_weights(
    method: str, untrained: float, accuracy: Callable[[nn.Module], float], runtime: Runtime, tmp_path: Path
) -> None:
    run = pretrain(digits("train"), METHODS[method], run=tmp_path / "run", runtime=runtime)
    assert accuracy(run.encoder()) > untrained + MARGIN
