"""A run on disk: the location of its files, and functions to read them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Final

import torch
from torch import Tensor, nn

from sdclr.config import from_json
from sdclr.encoders import Encoder, Network, create_network, load_encoder
from sdclr.errors import InputError
from sdclr.files import check_keys, parsing, read_json, read_json_lines
from sdclr.files.reading import Keys
from sdclr.intensities import Intensities
from sdclr.method import (
    BYOL,
    BarlowTwins,
    DropoutCompetitor,
    MoCo,
    MoCoV3,
    Objective,
    SelfCompetitor,
    SimCLR,
    SimSiam,
    VICReg,
    magnitude_masks,
    random_masks,
)
from sdclr.training.checkpoint import last_checkpoint, load_checkpoint, load_snapshot, read_checkpoint
from sdclr.training.config import DamageConfig, FrameworkName, PretrainConfig
from sdclr.training.trainable import freeze_all_but

STATE: Final[Keys] = {"step": int, "objective": dict, "optimizer": dict, "scaler": dict, "logged_losses": list}
"""Keys of a run's checkpoint, with their types."""
_SOURCE: Final[Keys] = {"name": str, "images": int}
_SOURCE_MAY: Final[Keys] = {
    "bad_images": int,
    "class_counts": (list, NoneType),
    "attribute_counts": (dict, NoneType),
    "held_in_memory": bool,
    "left_out": list,
    "intensities": dict,
}
_CLASSIFIERS: Final = ("linear", "few_shot", "knn")
_GROUPS: Final = ("many", "medium", "few", "all", "std")
_AGAIN: Final = "put back a whole copy of it, or run `sdclr pretrain` with another --run"


@dataclass(frozen=True)
class Run:
    """A pre-training run in its folder: finished, interrupted or going on.

    Args:
        path: The folder, which holds `config.json`.

    Examples:
        >>> run = sdclr.Run.open("runs/digits")
        >>> run.finished, run.config.method
        (True, 'SDCLR, 50% pruned')
        >>> run.source["name"]
        'digits-train'
    """

    path: Path

    @classmethod
    def open(cls, path: str | Path) -> "Run":
        """The run in a folder.

        Raises:
            InputError: If the folder holds no run.
        """
        run = cls(Path(path))
        if not run.config_file.is_file():
            raise InputError(
                f"{path} is not a run: it holds no config.json (`sdclr pretrain SOURCE --run {path}` makes one)"
            )
        return run

    @property
    def config_file(self) -> Path:
        """The configuration, accepted back by `sdclr pretrain --config`."""
        return self.path / "config.json"

    @property
    def source_file(self) -> Path:
        """The training images: name, number, fingerprint of the ids, class counts if known."""
        return self.path / "source.json"

    @property
    def image_files(self) -> Path:
        """Sizes and modification times of the image files when the run last trained on them."""
        return self.path / "image_files.npy"

    @property
    def start_file(self) -> Path:
        """The encoder's initial weights, unless random: name, file, SHA-256, license, use of labels."""
        return self.path / "start.json"

    @property
    def sessions_file(self) -> Path:
        """One JSON object for each time that training started or resumed: device, precision, threads, versions."""
        earlier = self.path / "sittings.jsonl"  # the name until 0.1
        return earlier if earlier.exists() else self.path / "sessions.jsonl"

    @property
    def budget_file(self) -> Path:
        """The time budget in minutes, the measured speed and the chosen length. Absent without a time budget."""
        return self.path / "budget.json"

    @property
    def metrics_file(self) -> Path:
        """Metrics, one JSON object per line."""
        return self.path / "metrics.jsonl"

    @property
    def bad_images_file(self) -> Path:
        """Images that could not be used, and why."""
        return self.path / "bad_images.csv"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def snapshots(self) -> Path:
        """The folder of snapshots of the network after some epochs, if the run stores them."""
        return self.path / "snapshots"

    @property
    def results(self) -> Path:
        """The folder of evaluations."""
        return self.path / "results"

    @property
    def finished(self) -> bool:
        """Whether the encoder was written."""
        return (self.path / "encoder.json").is_file()

    @property
    def config(self) -> PretrainConfig:
        """The run's settings."""
        values = read_json(self.config_file, _AGAIN)
        if values.get("start") is not None:
            values.setdefault("norm_statistics", "moving")  # the behavior before this setting existed
        try:
            return from_json(PretrainConfig, values)
        except InputError as error:
            raise InputError(f"{self.config_file}: {error}") from error

    @property
    def source(self) -> dict[str, Any]:
        """The contents of `source.json`."""
        values = read_json(self.source_file, _AGAIN, keys=_SOURCE)
        check_keys(self.source_file, values, {key: _SOURCE_MAY[key] for key in values if key in _SOURCE_MAY}, _AGAIN)
        return values

    @property
    def intensities(self) -> Intensities | None:
        """Intensity range of the training images; None if all have 8 bits, or the run does not record it."""
        if not self.source_file.exists() or "intensities" not in (source := self.source):
            return None
        with parsing(self.source_file, _AGAIN):
            return from_json(Intensities, source["intensities"])

    def metrics(self) -> Iterator[dict[str, Any]]:
        """The logged metrics, in order."""
        if self.metrics_file.exists():
            yield from read_json_lines(self.metrics_file, keys={"step": int})

    def sessions(self) -> list[dict[str, Any]]:
        """The lines of `sessions_file`. Damaged lines are skipped with a warning."""
        if not self.sessions_file.exists():
            return []
        return read_json_lines(self.sessions_file, keys={"precision": str}, skip=True)

    def encoder(self) -> Encoder:
        """The trained encoder, in eval mode on the CPU."""
        return load_encoder(self.path)

    def objective(self, epoch: int | None = None) -> Objective:
        """Network and competitor in eval mode on the CPU, without rebalancers.

        Args:
            epoch: Number of epochs of a snapshot; by default the newest checkpoint is loaded.

        Raises:
            InputError: If there is no undamaged checkpoint, or no such snapshot.
        """
        state, file = self._newest() if epoch is None else load_snapshot(self.snapshots, epoch)
        with torch.random.fork_rng(devices=[]):  # the random weights are about to be replaced
            objective = create_objective(self.config)
        return self.restored(objective, state, file)

    def restored(self, objective: Objective, state: Mapping[str, Any], file: Path) -> Objective:
        """Load a saved state into an objective of this run, without rebalancers, and set it to eval mode.

        Args:
            objective: An objective with this run's structure.
            state: State of network, competitor and framework.
            file: File of the state.

        Raises:
            DamagedFileError: If the state does not fit the objective.
        """
        own = {name: value for name, value in state.items() if not name.startswith("rebalancers.")}
        with parsing(file, f"put back whole copies of it and of {self.config_file}"):
            objective.load_state_dict(own)
        if objective.competitor is not None and self.config.damage.changes:
            objective.competitor.ratio = round(objective.competitor.pruned_fraction(), 4)
        return objective.eval()

    @property
    def pruned_fraction(self) -> float | None:
        """Share of the encoder's weights that are pruned in the second branch at the end; None without pruning."""
        damage = self.config.damage
        if not damage.prunes:
            return None
        competitor = self.objective().competitor if damage.changes else None
        return damage.highest if competitor is None else competitor.ratio

    def _newest(self) -> tuple[dict[str, Any], Path]:
        last = last_checkpoint(self.checkpoints)
        if last is not None and self.finished:  # an earlier checkpoint would hold another encoder than the run's
            remedy = (
                "put back a whole copy, or remove encoder.json from the run and run the same `sdclr pretrain` again"
            )
            return read_checkpoint(last, STATE, remedy)["objective"], last
        loaded = load_checkpoint(self.checkpoints, STATE)
        if loaded is None:
            raise InputError(
                f"{self.checkpoints} holds no whole checkpoint: run `sdclr pretrain` again with the same --run"
            )
        return loaded[0]["objective"], loaded[1]


def read_evaluation(file: Path) -> dict[str, Any]:
    """Results that `sdclr evaluate` wrote for a branch.

    Raises:
        InputError: The file is missing, or there is no permission.
        DamagedFileError: The file has other contents.
    """
    remedy = "run `sdclr evaluate` again, which writes it"
    values = read_json(file, remedy, keys=dict.fromkeys(_CLASSIFIERS, dict))
    for name in _CLASSIFIERS:
        check_keys(file, values[name], {"balance": dict}, remedy)
        check_keys(file, values[name]["balance"], dict.fromkeys(_GROUPS, (int, float, NoneType)), remedy)
    return values


def create_objective(config: PretrainConfig, network: Network | None = None) -> Objective:
    """Network, competitor and framework with random weights, determined by `torch.manual_seed`.

    Args:
        config: Settings of the run.
        network: An existing network; by default a new one is created.
    """
    network = network or create_network(config.encoder, config.head, config.views.image_size)
    freeze_all_but(network, config.trainable)  # before the twin is created, which copies this setting
    return Objective(create_framework(config, network), network, _competitor(config.damage, network))


def _competitor(damage: DamageConfig, network: nn.Module) -> SelfCompetitor | None:
    """The damaged twin; None without damage."""
    if damage.kind == "none":
        return None
    if damage.kind == "dropout":
        return DropoutCompetitor(network, damage.highest, independent_norm=damage.independent_norm)

    def by_magnitude(weights: Mapping[str, Tensor], ratio: float) -> dict[str, Tensor]:
        return magnitude_masks(weights, ratio, scope=damage.scope)

    def at_random(weights: Mapping[str, Tensor], ratio: float) -> dict[str, Tensor]:
        # Drawn from the global generator, which the trainer seeds equally on all processes before masks are chosen.
        generator = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
        return random_masks(weights, ratio, generator=generator, scope=damage.scope)

    criterion = at_random if damage.kind == "random" else by_magnitude
    how: dict[str, Any] = {"independent_norm": damage.independent_norm, "criterion": criterion}
    return SelfCompetitor(network, damage.highest, **how)


def create_framework(config: PretrainConfig, network: nn.Module) -> nn.Module:
    """The framework, which compares the branches.

    Raises:
        InputError: If a number in its configuration is invalid.
    """
    damaged = config.damage.kind != "none"
    contrast: dict[str, Any] = {
        "temperature": config.temperature,
        "focal": config.focal.gamma if "focal" in config.rebalance else 0.0,
    }
    target: dict[str, Any] = {"network": network, "dim": config.head.dim}
    makers: dict[FrameworkName, Callable[[], nn.Module]] = {
        "simclr": lambda: SimCLR(decoupled=config.decoupled, **contrast),
        "moco": lambda: MoCo(config=config.moco, **target, **contrast),
        "moco_v3": lambda: MoCoV3(config=config.moco_v3, damaged=damaged, **target, **contrast),
        "byol": lambda: BYOL(config=config.byol, damaged=damaged, **target),
        "simsiam": lambda: SimSiam(config=config.simsiam, dim=config.head.dim, damaged=damaged),
        "barlow_twins": lambda: BarlowTwins(config=config.barlow_twins),
        "vicreg": lambda: VICReg(config=config.vicreg),
    }
    try:
        return makers[config.framework]()
    except ValueError as error:
        raise InputError(f"{config.framework}: {error}") from error
