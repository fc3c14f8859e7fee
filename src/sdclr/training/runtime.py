"""How a run is executed: device, precision, threads, checkpoints. Imports no torch."""

from dataclasses import dataclass

from sdclr.choices import Amp
from sdclr.config import check_numbers
from sdclr.data.stored import CACHE_GB
from sdclr.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """How a run is executed; may change between two sessions of the same run.

    Examples:
        >>> runtime = sdclr.Runtime(device="cpu", threads=4)
        >>> runtime.amp
        'auto'
    """

    device: str = "auto"
    """cpu, cuda, cuda:1, …; auto uses a GPU if there is one."""
    workers: int | None = None
    """Processes that decode large images; by default all cores but one with a GPU, and a quarter of them on a CPU."""
    cache_gb: float = CACHE_GB
    """Disk space in GB for decoded large images, shared by all runs (~/.cache/sdclr/images); 0 stores none and decodes
    in every epoch. The result is the same."""
    amp: Amp = "auto"
    """Mixed precision. auto uses bf16 if it is clearly faster: as timed on a CPU, on GPUs from Ampere on; a resumed run
    keeps its precision. Images of less than 16 px are trained in float32."""
    threads: int | None = None
    """Threads on a CPU; by default OMP_NUM_THREADS, or else the fastest number, which a resumed run keeps."""
    channels_last: bool = True
    """Memory layout of images and convolution weights."""
    compile: bool = False
    """Compile the two-branch forward pass with torch.compile: a minute more at the start, then faster steps."""
    cuda_graphs: bool = False
    """With --compile on a GPU: replay each step's kernels as CUDA graphs, for small networks that launch many."""
    checkpoint_activations: bool = False
    """Store only the input of each block and recompute the rest: less memory for a third more computation."""
    checkpoint_minutes: float = 5.0
    """Minutes between checkpoints, at most; 0 saves at every step."""
    snapshot_epochs: int = 0
    """Epochs between snapshots of network and masks; 0 stores none."""
    log_steps: int = 50
    """Steps between lines of metrics; they are also written at the end of every epoch."""
    max_bad_fraction: float = 0.01
    """Stop before training if more than this share of the images cannot be decoded."""
    progress: bool = True
    """Show the progress."""

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
            raise InputError("--compile decides what to recompute: leave out --checkpoint-activations")
        if self.cache_gb < 0:
            raise InputError(f"--cache-gb is a number of gigabytes, or 0 for none, not {self.cache_gb}")
        if not 0 <= self.max_bad_fraction <= 1:
            raise InputError(f"--max-bad-fraction is a share between 0 and 1, not {self.max_bad_fraction}")
