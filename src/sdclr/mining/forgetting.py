"""Forgetting: the change of an image's features by pruning (Jiang et al., ICML 2021, §4.7)."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdclr.encoders import Encoder, Network
from sdclr.errors import InputError
from sdclr.method import Objective, SelfCompetitor
from sdclr.training.checkpoint import load_checkpoint, read_checkpoint
from sdclr.training.run import STATE, Run


class Networks(NamedTuple):
    """Networks of one state of a run, in eval mode."""

    dense: Network
    second: Network
    """Network of the second view in training: the pruned twin, or the dense network itself."""
    pruned: dict[float, Network]
    """Pruned networks by ratio."""


def forgetting(dense: Tensor, pruned: Tensor) -> Tensor:
    """1 - cosine between outputs before and after pruning, in [0, 2]; larger means more is forgotten.

    Args:
        dense: (N, D) outputs of the network.
        pruned: (N, D) outputs of the pruned network for the same images.

    Returns:
        (N,) float32.
    """
    return 1 - F.cosine_similarity(dense.float(), pruned.float())


def own_normalization(run: Run) -> bool:
    """Whether the run's pruned branch has separate normalization statistics."""
    damage = run.config.damage
    return damage.kind != "none" and damage.independent_norm is not False


def load_networks(run: Run, ratios: Sequence[float], checkpoints: int = 1) -> list[Networks]:
    """The newest states of a run, each with its pruned twins.

    A run with a self-competitor is pruned by its rule. At the run's ratio, the masks are those of the checkpoint. At
    other ratios, the masks are computed again, but the normalization statistics of the pruned branch stay those of the
    run's ratio. A run without a self-competitor (SimCLR) is pruned by magnitude and uses the dense network's
    statistics, so the effect of its normalization layers on the changed activations is part of the forgetting.

    Args:
        run: The run.
        ratios: Pruning ratios, each in [0, 1).
        checkpoints: Number of states, newest first; a run keeps two.

    Raises:
        InputError: No checkpoint is complete, or there are too few.
    """
    found = []
    for objective in _states(run, checkpoints):
        network, competitor = cast("Network", objective.network), objective.competitor
        second = network if competitor is None else _baked(competitor)
        pruned = {}
        for ratio in ratios:
            if competitor is not None and ratio == competitor.ratio:
                pruned[ratio] = second
            else:
                pruned[ratio] = _pruned(network, competitor, ratio)
        found.append(Networks(network, second, pruned))
    return found


def pruned_copies(encoder: Encoder, ratios: Sequence[float]) -> Networks:
    """An encoder without a run, and copies of it pruned by magnitude.

    The copies use the encoder's normalization statistics, so the effect of the normalization layers on the changed
    activations is part of the forgetting.

    Args:
        encoder: The encoder.
        ratios: Pruning ratios, each in [0, 1).

    Raises:
        InputError: The encoder has no prunable weight.
    """
    network = Network(encoder, nn.Identity()).eval()
    return Networks(network, network, {ratio: _pruned(network, None, ratio) for ratio in ratios})


def _states(run: Run, checkpoints: int) -> list[Objective]:
    """The run's newest states in eval mode, newest first."""
    states = [run.objective()]
    for path in _older(run, checkpoints - 1):
        objective = run.objective()  # only for its structure; the weights are replaced
        states.append(run.restored(objective, read_checkpoint(path, STATE)["objective"], path))
    return states


def _older(run: Run, count: int) -> list[Path]:
    """Checkpoints before the newest complete one, newest first."""
    loaded = load_checkpoint(run.checkpoints, STATE) if count else None
    if loaded is None:
        return []
    older = sorted((path for path in run.checkpoints.glob("step-*.pt") if path < loaded[1]), reverse=True)[:count]
    if len(older) < count:
        raise InputError(f"{run.checkpoints} holds {len(older) + 1} checkpoints, not {count + 1}: ask for fewer")
    return older


def _pruned(network: Network, competitor: SelfCompetitor | None, ratio: float) -> Network:
    """The network pruned at any ratio."""
    try:
        if competitor is None:
            return _baked(SelfCompetitor(network, ratio, independent_norm=False))
        twin = copy.deepcopy(competitor)
        twin.ratio = ratio
        twin.refresh()
    except ValueError as error:
        raise InputError(f"--ratios: {error}") from error
    return _baked(twin)


@torch.no_grad()
def _baked(competitor: SelfCompetitor) -> Network:
    """The pruned twin as a separate network, so that masks are not applied again for every batch."""
    network = cast("Network", copy.deepcopy(competitor.network))
    network.load_state_dict(competitor.twin(), strict=False)
    return network.eval()
