"""SimCLR as in lightly's documentation, and a comparison with our step in each precision."""

import time
import warnings

import torch
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from torch import Tensor, nn

from sdclr.encoders import EncoderConfig, create_encoder
from speed_harness import Candidate, Comparison, Effort, Table, compare
from speed_steps import SDCLR, TEMPERATURE, Precision, StepSize, Training, autocast, draw_pair

BF16, COMPILED = "SDCLR, bf16", "SDCLR, bf16, compiled"
LIGHTLY, LIGHTLY_BF16 = "lightly's SimCLR", "lightly's SimCLR, bf16"


class LightlyTraining:
    """SimCLR as in lightly's documentation: its head and loss, one forward pass per view, and torch's SGD.

    The encoder, the optimizer's settings and the temperature are ours. As in the documentation, views are already
    normalized, and weights and images have torch's default memory layout.
    """

    def __init__(self, size: StepSize, *, amp: Precision = "none") -> None:
        self.amp = amp
        torch.manual_seed(0)
        encoder = create_encoder(EncoderConfig(name="resnet18", width=size.width), size.image_size)
        features = encoder.num_features
        self.network = nn.Sequential(encoder.backbone, SimCLRProjectionHead(features, features, 128)).train()
        self.criterion = NTXentLoss(temperature=TEMPERATURE)
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)

    def step(self, view1: Tensor, view2: Tensor) -> None:
        """Forward pass, backward pass and optimizer."""
        with autocast(view1, self.amp):
            loss = self.criterion(self.network(view1), self.network(view2))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def compare_precisions(
    images: Tensor, size: StepSize, effort: Effort, *, compiled: bool
) -> tuple[Comparison, list[Table]]:
    """Seconds per step of SDCLR in each precision, and of lightly's SimCLR in float32 (its default) and bf16.

    Compiled steps are timed only if `compiled`; a table then gives the time of the compilation.
    """
    views = draw_pair(images, size)
    plain = [view.contiguous(memory_format=torch.contiguous_format) for view in views]
    ours, fast = Training("sdclr", size), Training("sdclr", size, amp="bf16")
    theirs, theirs_fast = LightlyTraining(size), LightlyTraining(size, amp="bf16")
    candidates = [
        Candidate(BF16, lambda: fast.step(*views)),
        Candidate(SDCLR, lambda: ours.step(*views)),
        Candidate(LIGHTLY, lambda: theirs.step(*plain)),
        Candidate(LIGHTLY_BF16, lambda: theirs_fast.step(*plain)),
    ]
    tables = []
    if compiled:
        quick = Training("sdclr", size, amp="bf16")
        tables.append(_compiled(quick, views, size))
        candidates.append(Candidate(COMPILED, lambda: quick.step(*views)))
    note = (
        "Forward, backward and SGD on the same pixels, with the same encoder, head, momentum and decay. bf16 is "
        "autocast. lightly's step follows its documentation: torch's default memory layout and SGD, and normalized "
        "views; sdclr normalizes in the network."
    )
    return compare(f"Step, precision and lightly, {size}", note, "s", candidates, effort), tables


def _compiled(training: Training, views: tuple[Tensor, Tensor], size: StepSize) -> Table:
    """Compile a training's objective, and measure the time."""
    rows = []
    with torch.compiler.config.patch(force_disable_caches=True), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="dynamo_pgo force disabled")
        training.objective.compile()
        for what in ("first, with the compilation in it", "second", "third, after a refresh of the masks"):
            start = time.perf_counter()
            training.step(*views)
            rows.append((what, time.perf_counter() - start))
            training.objective.competitor.refresh()
    note = "The first steps of SDCLR in bf16 after `torch.compile`, without torch's disk cache of earlier compilations."
    return Table(title=f"Compilation, {size}", note=note, heading=("step", "seconds"), rows=rows)
