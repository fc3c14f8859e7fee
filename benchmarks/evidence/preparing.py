"""Ways to adapt an encoder that `sdclr pretrain` does not offer, for adapting.py: they are offered if they help."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final
from unittest.mock import patch

import torch
from torch import Tensor, nn

from sdclr.data.sources import Source
from sdclr.encoders import Encoder, Network
from sdclr.method.objective import Branch, Framework, Objective
from sdclr.training.config import PretrainConfig
from sdclr.training.pretrain import pretrain
from sdclr.training.run import create_objective
from sdclr.training.runtime import Runtime

HEAD_EPOCHS: Final = 2
HEAD_RATE: Final = 0.125
"""Learning rate of a new head, which is that of training from scratch at this batch size."""

Prepare = Callable[[Objective], None]
"""Changes the objective before training starts."""


class Distilled(nn.Module):
    """A framework's loss plus the cosine distance of each feature vector to that of the frozen encoder.

    The distance is the mean over the views that the dense branch sees.

    Args:
        framework: `framework(a, b, view1, view2)`.
        encoder: The encoder that is trained; a frozen copy of its present weights is the teacher.
        weight: Weight of the distance.
    """

    def __init__(self, framework: Framework, encoder: Encoder, weight: float) -> None:
        super().__init__()
        self.framework = framework
        self.weight = weight
        self.teacher = copy.deepcopy(encoder).requires_grad_(requires_grad=False)
        self._seen: list[tuple[Tensor, Tensor]] = []
        encoder.register_forward_hook(self._see)

    def forward(self, a: Branch, b: Branch, view1: Tensor, view2: Tensor) -> Tensor:
        """Losses `(N,)`."""
        self._seen.clear()
        losses: Tensor = self.framework(a, b, view1, view2)
        self.teacher.eval()
        distances = []
        for images, features in self._seen[: 2 if a is b else 1]:
            with torch.no_grad():
                target = self.teacher(images)
            distances.append(1 - nn.functional.cosine_similarity(features, target))
        return losses + self.weight * torch.stack(distances).mean(0)

    def _see(self, _: nn.Module, given: tuple[Tensor], features: Tensor) -> None:
        if features.requires_grad:  # passes without gradient are not training
            self._seen.append((given[0], features))


def distilled(weight: float) -> Prepare:
    """Keep the features near those of the frozen encoder."""

    def prepare(objective: Objective) -> None:
        network = network_of(objective)
        objective.framework = Distilled(objective.framework, network.encoder, weight)

    return prepare


@contextmanager
def prepared(prepare: Prepare) -> Iterator[None]:
    """Change the objective of every run that starts within the block."""

    def create(config: PretrainConfig, network: Network | None = None) -> Objective:
        objective = create_objective(config, network)
        prepare(objective)
        return objective

    with patch("sdclr.training.pretrain.create_objective", create):
        yield


def head_first(images: Source, config: PretrainConfig, folder: Path, how: Runtime) -> Prepare:
    """Train the projection head on the frozen encoder; training then starts with it (LP-FT, Kumar et al., 2022)."""
    alone = replace(config, epochs=HEAD_EPOCHS, optim=replace(config.optim, lr=HEAD_RATE))

    def freeze(objective: Objective) -> None:
        network_of(objective).encoder.requires_grad_(requires_grad=False)

    with prepared(freeze):
        run = pretrain(images, alone, run=folder, runtime=how)
    head = network_of(run.objective()).head.state_dict()

    def prepare(objective: Objective) -> None:
        network_of(objective).head.load_state_dict(head)

    return prepare


def halfway(start: Encoder, trained: Encoder) -> Encoder:
    """The mean of the weights before and after training (WiSE-FT, Wortsman et al., 2022)."""
    between = copy.deepcopy(trained)
    first, last = start.state_dict(), trained.state_dict()
    mean = {
        name: (value + first[name].to(value)) / 2 if value.is_floating_point() else value
        for name, value in last.items()
    }
    between.load_state_dict(mean)
    return between


def network_of(objective: Objective) -> Network:
    """The network, with its type."""
    assert isinstance(objective.network, Network)  # noqa: S101  # for mypy: every run trains one
    return objective.network
