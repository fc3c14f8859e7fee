"""Configuration of a pre-training run, composed of the configurations of its parts."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from sdclr.config import check_numbers
from sdclr.encoders import EncoderConfig, HeadConfig
from sdclr.errors import InputError
from sdclr.method.frameworks import (
    BarlowTwinsConfig,
    BYOLConfig,
    MoCoConfig,
    MoCoV3Config,
    SimSiamConfig,
    VICRegConfig,
)
from sdclr.method.rebalancing import (
    CurationConfig,
    DensityConfig,
    HarmonizationConfig,
    IndividualTemperatureConfig,
    KoLeoConfig,
    MemorizationConfig,
    OutsideConfig,
    TemperatureConfig,
)
from sdclr.training.optim_config import LONGEST_WARMUP, WARMUP_SHARE, OptimConfig
from sdclr.views.config import RandAugmentConfig, ViewConfig
from sdclr.visible import counted

FrameworkName = Literal["simclr", "moco", "moco_v3", "byol", "simsiam", "barlow_twins", "vicreg"]
FRAMEWORK_NAMES: Final[Mapping[FrameworkName, str]] = {
    "simclr": "SimCLR",
    "moco": "MoCo",
    "moco_v3": "MoCo v3",
    "byol": "BYOL",
    "simsiam": "SimSiam",
    "barlow_twins": "Barlow Twins",
    "vicreg": "VICReg",
}
"""Display names."""
BATCH_LOSSES: Final = frozenset[FrameworkName]({"barlow_twins", "vicreg"})
"""Frameworks whose loss does not decompose over samples."""

RebalancerName = Literal[
    "density",
    "temperature",
    "memorization",
    "harmonization",
    "individual_temperature",
    "focal",
    "curation",
    "koleo",
    "outside",
]
REBALANCER_NAMES: Final[Mapping[RebalancerName, str]] = {
    "density": "density",
    "temperature": "TS",
    "memorization": "BCL",
    "harmonization": "GH",
    "individual_temperature": "iSogCLR",
    "focal": "focal",
    "curation": "curation",
    "koleo": "KoLeo",
    "outside": "COLT",
}
"""Display names."""
PER_SAMPLE: Final = frozenset[RebalancerName]({"focal", "memorization", "individual_temperature"})
"""Rebalancers that use the loss of each sample."""
CONTRASTIVE: Final = frozenset[FrameworkName]({"simclr", "moco", "moco_v3"})
"""Frameworks with a temperature and a probability of the positive."""

SCRATCH: Final = "scratch"
"""The name for random initial weights."""

DamageKind = Literal["prune", "random", "dropout", "none"]


@dataclass(frozen=True, kw_only=True)
class DamageConfig:
    """The damage of the second branch, the self-competitor.

    Examples:
        >>> sdclr.DamageConfig(ratio=0.8).share
        '80%'
    """

    kind: DamageKind = "prune"
    """prune contrasts the network with its pruned copy (SDCLR); none contrasts it with itself (plain SimCLR). Two
    controls: random removes random weights; dropout keeps the weights and drops random activations at every step."""
    ratio: float | Literal["adaptive"] = 0.9
    """Share of the encoder's weights to remove: 0.9 for a full ResNet-18, 0.3 for a ResNet-50, less for small networks.
    adaptive sets it in every epoch from the generalization gap, that is, by how much the network memorizes images."""
    gain: float = 2.0
    """Adaptive ratio per nat of the generalization gap: the loss of held-out images minus that of training images."""
    scope: Literal["global", "layer"] = "global"
    """One magnitude threshold over the whole encoder, or one for each layer."""
    independent_norm: bool | Literal["statistics"] = True
    """Separate normalization parameters and statistics for the pruned branch, as in the paper. statistics separates
    only the statistics; both branches train the same parameters."""
    refresh_steps: int | None = None
    """Steps between updates of the masks; by default at the start of every epoch."""

    def __post_init__(self) -> None:
        if self.ratio != "adaptive" and not 0 <= self.ratio < 1:
            raise InputError(f"a pruning ratio must be in [0, 1), not {self.ratio}: 0.9 removes 90% of the weights")
        if not self.gain > 0:
            raise InputError(f"the gain of an adaptive ratio is positive, not {self.gain}")
        if self.ratio == "adaptive" and not self.may_adapt:
            raise InputError(
                f"only pruning by magnitude can change its ratio, not {self.kind}: give a constant --damage.ratio"
            )
        if self.refresh_steps is not None and self.refresh_steps < 1:
            raise InputError(f"masks are refreshed every 1 or more steps, not {self.refresh_steps}")

    @property
    def prunes(self) -> bool:
        """Whether weights of the second branch are removed."""
        return self.kind in {"prune", "random"}

    @property
    def may_adapt(self) -> bool:
        """Whether the other settings allow an adaptive ratio."""
        return self.kind in {"prune", "none"}

    @property
    def changes(self) -> bool:
        """Whether the ratio changes during a run."""
        return self.prunes and self.ratio == "adaptive"

    @property
    def highest(self) -> float:
        """The largest possible ratio."""
        return 0.9 if self.ratio == "adaptive" else self.ratio

    @property
    def share(self) -> str:
        """The ratio in words, such as "50%" or "an adaptive share"."""
        return "an adaptive share" if self.ratio == "adaptive" else f"{self.ratio:.0%}"


@dataclass(frozen=True, kw_only=True)
class FocalConfig:
    """The focal loss, which reduces the weight of well-separated samples."""

    gamma: float = 2.0
    """Power of (1 - p); 0 changes nothing."""

    def __post_init__(self) -> None:
        if not self.gamma >= 0:
            raise InputError(f"the focal loss takes a gamma of 0 or more, not {self.gamma}")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """A pre-training run. Equal configuration, data and number of threads give an equal encoder.

    Examples:
        >>> config = sdclr.PretrainConfig(damage=sdclr.DamageConfig(ratio=0.5), epochs=200)
        >>> config.method, config.length
        ('SDCLR, 50% pruned', '200 epochs')
    """

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    views: ViewConfig = field(default_factory=ViewConfig)
    damage: DamageConfig = field(default_factory=DamageConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    start: str | None = None
    """Trained weights that the encoder starts from: timm:NAME, timm:NAME=FILE, a run's folder or a file of weights. The
    head starts from random weights. None, or "scratch", means random weights for both."""
    norm_statistics: Literal["auto", "fixed", "moving"] = "auto"
    """Running statistics of the encoder's batch normalization. fixed keeps the initial ones: layers normalize with
    them, and only weight and bias are trained; those of a pruned twin are corrected for the effect of its masks. moving
    follows the batches. auto fixes them with --start."""
    trainable: Literal["all", "last-stage", "norms"] = "all"
    """The part of the encoder that is trained: all of it, its deepest stage, or weight and bias of its normalization
    layers. The rest keeps the weights it starts with, so it makes sense with --start alone."""
    framework: FrameworkName = "simclr"
    """The framework, that is, how the two branches are compared."""
    moco: MoCoConfig = field(default_factory=MoCoConfig)
    moco_v3: MoCoV3Config = field(default_factory=MoCoV3Config)
    byol: BYOLConfig = field(default_factory=BYOLConfig)
    simsiam: SimSiamConfig = field(default_factory=SimSiamConfig)
    barlow_twins: BarlowTwinsConfig = field(default_factory=BarlowTwinsConfig)
    vicreg: VICRegConfig = field(default_factory=VICRegConfig)
    decoupled: bool = False
    """Leave the positive out of SimCLR's denominator (DCL)."""
    rebalance: tuple[RebalancerName, ...] = ()
    """Rebalancers, which emphasize rare images; they can be combined."""
    focal: FocalConfig = field(default_factory=FocalConfig)
    density: DensityConfig = field(default_factory=DensityConfig)
    temperature_schedule: TemperatureConfig = field(default_factory=TemperatureConfig)
    memorization: MemorizationConfig = field(default_factory=MemorizationConfig)
    randaugment: RandAugmentConfig = field(default_factory=RandAugmentConfig)
    """How memorization augments the views of images that are hard to memorize."""
    harmonization: HarmonizationConfig = field(default_factory=HarmonizationConfig)
    individual_temperature: IndividualTemperatureConfig = field(default_factory=IndividualTemperatureConfig)
    curation: CurationConfig = field(default_factory=CurationConfig)
    koleo: KoLeoConfig = field(default_factory=KoLeoConfig)
    outside: OutsideConfig = field(default_factory=OutsideConfig)
    temperature: float = 0.2
    """Temperature of the contrast."""
    epochs: int = 500
    """Passes over the images."""
    steps: int | None = None
    """End after this number of steps, even within an epoch; the whole schedule fits into them. By default the run ends
    after its epochs."""
    batch_size: int = 512
    """Images per step, over all processes; the last incomplete batch of an epoch is dropped."""
    shuffle_buffer: int = 0
    """Size of a shuffle buffer, in images, for tar shards or Parquet files on slow disks: shards come in a random
    order, and each is read once. 0 shuffles all images. Sets that fit into memory are always shuffled as a whole."""
    accumulate: int = 1
    """Split each batch into this number of parts to save memory; each part has only its own images as negatives."""
    seed: int = 0
    """Seed of the initial weights, the order of the images and every view."""

    def __post_init__(self) -> None:
        check_numbers(self, shuffle_buffer=0)
        self._check_start()
        if self.epochs < 1:
            raise InputError(f"a run needs 1 or more epochs, not {self.epochs}")
        if self.batch_size < 2:
            raise InputError(f"a batch needs 2 or more images, not {self.batch_size}")
        if self.steps is not None and self.steps < 1:
            raise InputError(f"a run has 1 or more steps, not {self.steps}")
        self._check_warmup()
        if self.accumulate < 1 or self.batch_size % self.accumulate or self.batch_size // self.accumulate < 2:
            raise InputError(
                f"a batch of {self.batch_size} cannot be split into {self.accumulate} equal parts of 2 or more"
            )
        if not 0 <= self.seed < 2**63:
            raise InputError(f"the seed lies between 0 and 2^63 - 1, not {self.seed}")
        if not self.temperature > 0:
            raise InputError(f"the temperature must be positive, not {self.temperature}")
        if self.decoupled and (self.framework != "simclr" or "focal" in self.rebalance):
            raise InputError("--decoupled applies to SimCLR's loss, without focal: leave it out")
        self._check_rebalancers()
        if self.framework == "moco" and not self.moco.symmetric and self.damage.kind != "none":
            raise InputError(
                "MoCo with one direction has no second branch to damage: leave out --moco.no-symmetric, or add "
                "--damage.kind none"
            )

    def _check_start(self) -> None:
        if self.start == SCRATCH:
            object.__setattr__(self, "start", None)
        if self.trainable != "all" and self.start is None:
            raise InputError(f"--trainable {self.trainable} would keep random weights: add --start, or leave it out")

    def _check_warmup(self) -> None:
        warmup = self.optim.warmup_epochs
        if warmup is not None and warmup > self.epochs:
            raise InputError(
                f"a warm-up of {warmup:g} epochs is longer than the run of {self.epochs}: lower "
                "--optim.warmup-epochs, leave it out (it is then a tenth of the run), or raise --epochs"
            )
        if warmup == LONGEST_WARMUP and warmup <= WARMUP_SHARE * self.epochs:
            # Same as the automatic warm-up. Runs from when 10 epochs were the default keep the same configuration.
            object.__setattr__(self, "optim", replace(self.optim, warmup_epochs=None))

    def total_steps(self, steps_per_epoch: int) -> int:
        """Steps of the whole run.

        Args:
            steps_per_epoch: Steps of a whole epoch.
        """
        whole = self.epochs * steps_per_epoch
        return whole if self.steps is None else min(self.steps, whole)

    @property
    def length(self) -> str:
        """The length of the run in words, such as "200 epochs", or "18 steps" if it ends within an epoch."""
        number, unit = (self.epochs, "epoch") if self.steps is None else (self.steps, "step")
        return counted(number, unit)

    def _check_rebalancers(self) -> None:
        name, chosen = FRAMEWORK_NAMES[self.framework], set(self.rebalance)
        if len(chosen) < len(self.rebalance):
            raise InputError(f"--rebalance names one twice: {', '.join(self.rebalance)}")
        weighing = sorted(chosen & PER_SAMPLE)
        if weighing and self.framework in BATCH_LOSSES:
            raise InputError(
                f"{name} has no loss per image, so {', '.join(weighing)} cannot weight images: leave that out of "
                "--rebalance, or choose another framework"
            )
        contrasting = sorted(chosen & {"focal", "temperature"})
        if contrasting and self.framework not in CONTRASTIVE:
            raise InputError(
                f"{name} is not contrastive, so there is no temperature and no probability for "
                f"{', '.join(contrasting)}: leave that out of --rebalance, or choose another framework"
            )
        if "individual_temperature" in chosen and (self.framework != "simclr" or self.decoupled):
            raise InputError(
                "individual_temperature replaces SimCLR's loss: use it with --framework simclr, without --decoupled"
            )
        drawing = sorted(chosen & {"density", "curation"})
        if "outside" in chosen and drawing:
            raise InputError(
                f"outside decides which images are drawn, as {', '.join(drawing)} would: leave one out of --rebalance"
            )
        others = sorted(chosen & {"focal", "temperature"})
        if "individual_temperature" in chosen and others:
            raise InputError(
                f"individual_temperature has its own loss, which {', '.join(others)} would change: leave one out of "
                "--rebalance"
            )

    @property
    def fixes_statistics(self) -> bool:
        """Whether the encoder's batch normalization keeps its initial running statistics."""
        return self.norm_statistics == "fixed" or (self.norm_statistics == "auto" and self.start is not None)

    @property
    def method(self) -> str:
        """Name of the method in tables and figures, such as "SDCLR, 50% pruned" or "MoCo + dropout, 90%"."""
        plain = FRAMEWORK_NAMES[self.framework] + (" (decoupled)" if self.decoupled else "")
        share = self.damage.share
        damaged = {
            "none": plain,
            "prune": f"SDCLR, {share} pruned" if plain == "SimCLR" else f"self-damaging {plain}, {share} pruned",
            "random": f"{plain} + random pruning, {share}",
            "dropout": f"{plain} + dropout, {share}",
        }[self.damage.kind]
        added = {"focal": f"focal, γ {self.focal.gamma:g}"}
        return " + ".join([damaged, *(added.get(name, REBALANCER_NAMES[name]) for name in self.rebalance)])
