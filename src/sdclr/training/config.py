"""Everything that decides a pre-training run, composed of the configurations of its parts."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from sdclr.choices import Amp
from sdclr.config import check_numbers
from sdclr.data.config import RandAugmentConfig, ViewConfig
from sdclr.data.stored import CACHE_GB
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
    DensityConfig,
    HarmonizationConfig,
    IndividualTemperatureConfig,
    MemorizationConfig,
    TemperatureConfig,
)
from sdclr.method.schedule import Schedule
from sdclr.training.optim_config import LONGEST_WARMUP, WARMUP_SHARE, OptimConfig

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
"""What tables call them."""
BATCH_LOSSES: Final = frozenset[FrameworkName]({"barlow_twins", "vicreg"})
"""Frameworks whose loss does not decompose over samples."""

RebalancerName = Literal["density", "temperature", "memorization", "harmonization", "individual_temperature", "focal"]
REBALANCER_NAMES: Final[Mapping[RebalancerName, str]] = {
    "density": "density",
    "temperature": "TS",
    "memorization": "BCL",
    "harmonization": "GH",
    "individual_temperature": "iSogCLR",
    "focal": "focal",
}
"""What tables call them."""
PER_SAMPLE: Final = frozenset[RebalancerName]({"focal", "memorization", "individual_temperature"})
"""Rebalancers that go by the loss of each sample."""
CONTRASTIVE: Final = frozenset[FrameworkName]({"simclr", "moco", "moco_v3"})
"""Frameworks with a temperature, and a probability that images are told apart."""

SCRATCH: Final = "scratch"
"""What stands for random weights where trained ones are named."""

DamageKind = Literal["prune", "random", "dropout", "none"]


@dataclass(frozen=True, kw_only=True)
class DamageConfig:
    """The self-competitor: what the second branch loses."""

    kind: DamageKind = "prune"
    """Prune contrasts the network with its pruned self (SDCLR); none, with itself (plain SimCLR). Two controls: random
    removes weights at random; dropout removes none, but drops a share of the activations anew at every step."""
    ratio: float | Literal["adaptive"] = 0.9
    """Share of the encoder's weights to remove: 0.9 for a full ResNet-18, 0.3 for a ResNet-50; less if small. Adaptive
    finds it in every epoch, by how far the network has learned its images by heart."""
    gain: float = 2.0
    """Adaptive ratio per nat of the generalization gap: the loss of images held out less that of images trained on."""
    schedule: Schedule = "constant"
    """How a ratio that is a number changes over the run: ramp rises evenly to it; cyclic swings between 0 and it."""
    cycles: float = 5.0
    """Swings of a cyclic schedule."""
    also: tuple[float, ...] = ()
    """Ratios of further competitors, with which the first shares each batch."""
    scope: Literal["global", "layer"] = "global"
    """One magnitude threshold over the whole encoder, or one for each layer."""
    independent_norm: bool | Literal["statistics"] = True
    """Normalization parameters and statistics of its own for the pruned branch, as in the paper. Statistics alone let
    both branches train the parameters."""
    refresh_steps: int | None = None
    """Choose the masks anew every so many steps; by default at the start of every epoch."""

    def __post_init__(self) -> None:
        for ratio in (self.ratio, *self.also):
            if ratio != "adaptive" and not 0 <= ratio < 1:
                raise InputError(f"a pruning ratio lies in [0, 1), not {ratio}: 0.9 removes nine weights in ten")
        self._check_changes()
        if self.refresh_steps is not None and self.refresh_steps < 1:
            raise InputError(f"masks are refreshed every 1 or more steps, not {self.refresh_steps}")

    def _check_changes(self) -> None:
        if not self.gain > 0:
            raise InputError(f"the gain of an adaptive ratio is positive, not {self.gain}")
        if not self.cycles > 0:
            raise InputError(f"a schedule has more than 0 cycles, not {self.cycles}")
        changing = self.ratio == "adaptive" or self.schedule != "constant"
        if changing and self.kind not in {"prune", "none"}:
            raise InputError(
                f"only pruning by magnitude can change its ratio, not {self.kind}: give a constant --damage.ratio"
            )
        if changing and self.also:
            raise InputError(
                "several competitors have constant ratios: leave out --damage.also, or give a constant --damage.ratio"
            )
        if self.ratio == "adaptive" and self.schedule != "constant":
            raise InputError(
                "an adaptive ratio makes its own schedule: leave out --damage.schedule, or give --damage.ratio 0.3, say"
            )
        if self.also and self.kind == "dropout":
            raise InputError("dropout has one competitor: leave out --damage.also")

    @property
    def prunes(self) -> bool:
        """Whether the second branch lacks weights."""
        return self.kind in {"prune", "random"}

    @property
    def may_adapt(self) -> bool:
        """Whether an adaptive ratio goes with the rest of this."""
        return self.kind in {"prune", "none"} and self.schedule == "constant" and not self.also

    @property
    def changes(self) -> bool:
        """Whether the ratio changes in the course of a run."""
        return self.prunes and (self.ratio == "adaptive" or self.schedule != "constant")

    @property
    def highest(self) -> float:
        """The largest ratio that it may come to."""
        return 0.9 if self.ratio == "adaptive" else self.ratio

    @property
    def share(self) -> str:
        """How much goes, such as "50%", "up to 80% (ramp)" or "an adaptive share"."""
        if self.ratio == "adaptive":
            return "an adaptive share"
        shares = [f"{ratio:.0%}" for ratio in (self.ratio, *self.also)]
        return f"up to {shares[0]} ({self.schedule})" if self.schedule != "constant" else ", ".join(shares)


@dataclass(frozen=True, kw_only=True)
class FocalConfig:
    """The focal loss: samples that are told apart already count less."""

    gamma: float = 2.0
    """Power of (1 - p); 0 changes nothing."""

    def __post_init__(self) -> None:
        if not self.gamma >= 0:
            raise InputError(f"the focal loss takes a gamma of 0 or more, not {self.gamma}")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """A pre-training run. Equal configuration, data and number of threads give an equal encoder."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    views: ViewConfig = field(default_factory=ViewConfig)
    damage: DamageConfig = field(default_factory=DamageConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    start: str | None = None
    """Trained weights that the encoder starts from: timm:NAME, timm:NAME=FILE, a run's folder or a file of weights; the
    head starts at random. None, or "scratch", is random weights."""
    norm_statistics: Literal["auto", "fixed", "moving"] = "auto"
    """Running statistics of the encoder's batch normalization. Fixed keeps those it starts with: layers normalize by
    them, and only weight and bias are trained; a pruned twin's own are corrected by what its masks change. Moving
    follows the batches. Auto fixes them with --start."""
    framework: FrameworkName = "simclr"
    """What the two branches are compared by."""
    moco: MoCoConfig = field(default_factory=MoCoConfig)
    moco_v3: MoCoV3Config = field(default_factory=MoCoV3Config)
    byol: BYOLConfig = field(default_factory=BYOLConfig)
    simsiam: SimSiamConfig = field(default_factory=SimSiamConfig)
    barlow_twins: BarlowTwinsConfig = field(default_factory=BarlowTwinsConfig)
    vicreg: VICRegConfig = field(default_factory=VICRegConfig)
    decoupled: bool = False
    """Leave the positive out of SimCLR's denominator (DCL)."""
    rebalance: tuple[RebalancerName, ...] = ()
    """What else turns the training towards rare images; any of them may be combined."""
    focal: FocalConfig = field(default_factory=FocalConfig)
    density: DensityConfig = field(default_factory=DensityConfig)
    temperature_schedule: TemperatureConfig = field(default_factory=TemperatureConfig)
    memorization: MemorizationConfig = field(default_factory=MemorizationConfig)
    randaugment: RandAugmentConfig = field(default_factory=RandAugmentConfig)
    """What memorization does to the views of images that are hard to memorize."""
    harmonization: HarmonizationConfig = field(default_factory=HarmonizationConfig)
    individual_temperature: IndividualTemperatureConfig = field(default_factory=IndividualTemperatureConfig)
    temperature: float = 0.2
    """Temperature of the contrast."""
    epochs: int = 500
    """Passes over the images."""
    steps: int | None = None
    """End after so many steps, in the middle of an epoch if need be, with the whole schedule in them. By default the
    run ends after its epochs."""
    batch_size: int = 512
    """Images a step, over all processes; the last incomplete batch of an epoch is left out."""
    accumulate: int = 1
    """Split each batch into so many parts to save memory; each part has only its own images as negatives."""
    seed: int = 0
    """Decides the initial weights, the order of the images and every view."""

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.start == SCRATCH:
            object.__setattr__(self, "start", None)
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
            raise InputError("--decoupled is a form of SimCLR's loss, and no focal one: leave it out")
        self._check_rebalancers()
        if self.framework == "moco" and not self.moco.symmetric and self.damage.kind != "none":
            raise InputError(
                "MoCo with one direction has no second branch to damage: leave out --moco.no-symmetric, or add "
                "--damage.kind none"
            )

    def _check_warmup(self) -> None:
        warmup = self.optim.warmup_epochs
        if warmup is not None and warmup > self.epochs:
            raise InputError(
                f"a warm-up of {warmup:g} epochs is longer than the run of {self.epochs}: lower "
                "--optim.warmup-epochs, leave it out (it is then a tenth of the run), or raise --epochs"
            )
        if warmup == LONGEST_WARMUP and warmup <= WARMUP_SHARE * self.epochs:
            # What is automatic anyway. Runs that were begun when 10 epochs were the default stay the same runs.
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
        return f"{number:,} {unit}{'' if number == 1 else 's'}"

    def _check_rebalancers(self) -> None:
        name, chosen = FRAMEWORK_NAMES[self.framework], set(self.rebalance)
        if len(chosen) < len(self.rebalance):
            raise InputError(f"--rebalance names one twice: {', '.join(self.rebalance)}")
        weighing: list[str] = sorted(chosen & PER_SAMPLE)
        if "density" in chosen and self.density.weigh == "loss":
            weighing.append("density (of the loss)")
        if weighing and self.framework in BATCH_LOSSES:
            raise InputError(
                f"{name}'s loss is one of the batch and does not decompose over images, so that {', '.join(weighing)} "
                "cannot weigh them: leave that out of --rebalance, or take another framework"
            )
        contrasting = sorted(chosen & {"focal", "temperature"})
        if contrasting and self.framework not in CONTRASTIVE:
            raise InputError(
                f"{name} contrasts nothing, so that there is no temperature and no probability for "
                f"{', '.join(contrasting)}: leave that out of --rebalance, or take another framework"
            )
        if "individual_temperature" in chosen and (self.framework != "simclr" or self.decoupled):
            raise InputError(
                "individual_temperature has a loss of its own in place of SimCLR's: it goes with --framework simclr, "
                "without --decoupled"
            )
        others = sorted(chosen & {"focal", "temperature"})
        if "individual_temperature" in chosen and others:
            raise InputError(
                f"individual_temperature has a loss of its own, which {', '.join(others)} would change: leave one out "
                "of --rebalance"
            )

    @property
    def fixes_statistics(self) -> bool:
        """Whether the running statistics of the encoder's batch normalization stay as they are at the start."""
        return self.norm_statistics == "fixed" or (self.norm_statistics == "auto" and self.start is not None)

    @property
    def method(self) -> str:
        """Its name in tables and figures, such as "SimCLR", "SDCLR, 50% pruned" or "MoCo + dropout, 90%"."""
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


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """How a run is carried out: may change between two sittings of the same run."""

    device: str = "auto"
    """cpu, cuda, cuda:1, …; auto takes a GPU if there is one."""
    workers: int | None = None
    """Processes that decode large images; by default beside a GPU all cores but one, on a CPU a quarter of them."""
    cache_gb: float = CACHE_GB
    """Disk space in GB for large images once they are decoded, shared by all runs (~/.cache/sdclr/images); 0 keeps none
    and decodes in every epoch. The result is the same."""
    amp: Amp = "auto"
    """Mixed precision; auto takes what the run began with, and at its start bf16 if that is clearly faster: as timed on
    a CPU, on GPUs from Ampere on."""
    threads: int | None = None
    """Threads on a CPU; by default OMP_NUM_THREADS, else what the run began with, and at its start the fastest."""
    channels_last: bool = True
    """Memory layout of images and convolution weights."""
    compile: bool = False
    """Compile the two-branch forward pass with torch.compile: a minute more at the start, faster steps after it."""
    cuda_graphs: bool = False
    """With --compile on a GPU: replay each step's kernels as CUDA graphs, for small networks that launch many."""
    checkpoint_activations: bool = False
    """Keep the input of each block alone and compute the rest again: less memory for a third more computation."""
    checkpoint_minutes: float = 5.0
    """Save the whole state at least this often; 0 saves at every step."""
    snapshot_epochs: int = 0
    """Keep network and masks as they are after every so many epochs, to look back on; 0 keeps none."""
    log_steps: int = 50
    """Write metrics every so many steps, and at the end of every epoch."""
    max_bad_fraction: float = 0.01
    """Stop before training if more than this share of the images cannot be decoded."""
    progress: bool = True
    """Show how far the run is."""

    def __post_init__(self) -> None:
        check_numbers(self, workers=0)
        if self.threads is not None and self.threads < 1:
            raise InputError(f"--threads is a number of threads, 1 or more, not {self.threads}")
        if self.log_steps < 1 or self.checkpoint_minutes < 0:
            raise InputError("--log-steps is 1 or more and --checkpoint-minutes is not negative")
        if self.snapshot_epochs < 0:
            raise InputError(f"--snapshot-epochs is a number of epochs, or 0 for none, not {self.snapshot_epochs}")
        if self.cuda_graphs and not self.compile:
            raise InputError("--cuda-graphs replays what --compile has compiled: give both")
        if self.compile and self.checkpoint_activations:
            raise InputError("--compile chooses by itself what to compute again: leave out --checkpoint-activations")
        if self.cache_gb < 0:
            raise InputError(f"--cache-gb is a number of gigabytes, or 0 for none, not {self.cache_gb}")
        if not 0 <= self.max_bad_fraction <= 1:
            raise InputError(f"--max-bad-fraction is a share between 0 and 1, not {self.max_bad_fraction}")
