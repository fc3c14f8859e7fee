"""Training with outside images: sampling, resuming, and errors for invalid combinations."""

import dataclasses
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

import sdclr
from sdclr.cli.commands.pretrain import Pretrain, parse
from sdclr.data.joined import JoinedSource
from sdclr.data.sources import ArraySource, Source, SubsetSource, digits
from sdclr.encoders import create_encoder
from sdclr.errors import InputError
from sdclr.features.extract import encode_images
from sdclr.method.rebalancing import OutsideConfig
from sdclr.training.config import DamageConfig, PretrainConfig
from sdclr.training.density import Reading, center_closeness
from sdclr.training.distributed import Processes
from sdclr.training.interrupts import Interrupted
from sdclr.training.opening import with_outside
from sdclr.training.pretrain import Trainer
from sdclr.training.run import Run
from sdclr.training.runtime import Runtime

Train = Callable[..., Run]
ALONE = Processes(0, 1, torch.device("cpu"))
OWN, BUDGET = 50, 20
EARLY: dict[str, Any] = {
    "rebalance": ("outside",),
    "outside": OutsideConfig(start=0.25, every=2, clusters=4, budget=BUDGET / OWN),
    "damage": DamageConfig(kind="none"),
}


@pytest.fixture
def others() -> SubsetSource:
    return SubsetSource(digits("test"), np.arange(90), name="others")


@pytest.fixture
def train(tiny: PretrainConfig, few_digits: SubsetSource, runtime: Runtime, tmp_path: Path) -> Train:
    def call(
        outside: Any, source: Source = few_digits, folder: str = "run", weights: Any = None, **changes: Any
    ) -> Run:
        config = dataclasses.replace(tiny, **(EARLY | changes))
        return sdclr.pretrain(source, config, run=tmp_path / folder, runtime=runtime, weights=weights, outside=outside)

    return call


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The samples of each step."""
    steps: list[list[int]] = []
    take_step = Trainer._take_step

    def noted(self: Trainer, batch: Any) -> None:
        steps.append(batch.indices.tolist())
        take_step(self, batch)

    monkeypatch.setattr(Trainer, "_take_step", noted)
    return steps


def test_epochs_keep_their_length_and_outside_images_come_after_the_start(
    train: Train, drawn: list[list[int]], few_digits: SubsetSource, others: SubsetSource
) -> None:
    weights = np.ones(OWN)
    weights[7] = 0
    run = train(others, weights=weights)
    assert len(drawn) == 12  # four epochs of 50 samples, as without outside images
    assert max(max(step) for step in drawn[:3]) < OWN
    for epochs in (drawn[3:9], drawn[9:]):  # chosen at the start of the second epoch and of the fourth
        outside = {sample for step in epochs for sample in step if sample >= OWN}
        assert 0 < len(outside) <= BUDGET
    assert 7 not in {sample for step in drawn for sample in step}
    counts = np.bincount(np.asarray(few_digits.labels), minlength=10).tolist()
    assert run.source["class_counts"] == counts
    assert (run.source["images"], run.source["outside_images"], run.source["name"]) == (140, 90, "few+others")


LARGE = ArraySource(np.random.default_rng(0).integers(0, 256, (32, 100, 120, 3), dtype=np.uint8), name="large")


@pytest.mark.parametrize(
    ("damage", "source"),
    [
        ("none", SubsetSource(digits(), np.arange(OWN), name="few")),
        ("prune", SubsetSource(digits(), np.arange(OWN), name="few")),
        ("none", LARGE),  # cannot be held in memory
    ],
)
def test_it_goes_on_as_if_never_stopped(
    train: Train, monkeypatch: pytest.MonkeyPatch, others: SubsetSource, damage: Any, source: Source
) -> None:
    changes = {"damage": DamageConfig(kind=damage, ratio=0.3), "accumulate": 1 if source is LARGE else 2}
    whole = train(others, source, **changes)
    take_step = Trainer._take_step

    def stepped(self: Trainer, batch: Any) -> None:
        take_step(self, batch)
        if self.step == 5:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_take_step", stepped)
        with pytest.raises(Interrupted):
            train(others, source, "cut", **changes)
    with pytest.raises(InputError, match="not on these"):
        train(SubsetSource(others, np.arange(89)), source, "cut", **changes)
    resumed = train(others, source, "cut", **changes)
    assert (resumed.path / "encoder.safetensors").read_bytes() == (whole.path / "encoder.safetensors").read_bytes()


def test_an_adaptive_ratio_holds_out_own_images_only(
    train: Train, others: SubsetSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    made = Trainer.__init__

    def noted(self: Trainer, *args: Any, **settings: Any) -> None:
        made(self, *args, **settings)
        found.append(next(each for each in self.objective.rebalancers if hasattr(each, "held")))

    monkeypatch.setattr(Trainer, "__init__", noted)
    source = SubsetSource(digits(), np.arange(100), name="more")
    train(others, source, damage=DamageConfig(ratio="adaptive"), epochs=2)
    (adaptive,) = found
    assert int(adaptive.held.sum()) == 10
    assert not adaptive.held[100:].any()
    assert all(int(chosen.max()) < 100 for epoch in range(5) for chosen in adaptive.chosen(epoch))


def test_each_kind_needs_the_other(train: Train, few_digits: SubsetSource, others: SubsetSource) -> None:
    with pytest.raises(InputError, match=r"needs outside images: add --outside IMAGES"):
        train(None)
    with pytest.raises(InputError, match=r"add --rebalance outside, or leave out --outside"):
        train(others, rebalance=())
    with pytest.raises(InputError, match=r"as density would: leave one out"):
        PretrainConfig(rebalance=("outside", "density"))
    assert with_outside(few_digits, None, PretrainConfig()) is few_digits


def test_the_command_takes_outside_images() -> None:
    command = parse(["pretrain", "digits", "--outside", "digits:test", "--rebalance", "outside"][1:])
    assert isinstance(command, Pretrain)
    assert (command.outside, command.config.rebalance) == ("digits:test", ("outside",))
    assert parse(["digits", "--outside.alpha", "0.5"]).config.outside.alpha == 0.5


def test_clusters_are_those_of_own_images_and_all_are_compared_with_the_centers(
    few_digits: SubsetSource, others: SubsetSource, tiny: PretrainConfig
) -> None:
    torch.manual_seed(0)
    encoder = create_encoder(tiny.encoder, image_size=8)
    joined = JoinedSource(few_digits, others)
    pixels = torch.from_numpy(np.stack([joined.image(index) for index in range(140)])).permute(0, 3, 1, 2).contiguous()
    own = ~joined.outside
    clusters, closeness = center_closeness(
        encoder, pixels, own, place=ALONE, reading=Reading(image_size=8, seed=1), clusters=4
    )
    rows = torch.nn.functional.normalize(encode_images(encoder, pixels, batch_size=256, device="cpu", amp="none"))
    assert (clusters[OWN:] == -1).all()
    assert closeness.shape == (140, 4)
    found = clusters[:OWN]
    # The centers are a k-means: no worse than scikit-learn's by more than a tenth.
    inertia = sum(
        float((rows[:OWN][found == each] - rows[:OWN][found == each].mean(0)).square().sum()) for each in range(4)
    )
    assert inertia < 1.1 * KMeans(4, n_init=3, random_state=0).fit(rows[:OWN].numpy()).inertia_ + 1e-6
    assert (closeness[:OWN].argmax(1) == found).float().mean() > 0.9
    assert closeness.abs().max() <= 1 + 1e-5
