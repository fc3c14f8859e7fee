"""Compilation of the objective and its distribution over processes."""

import contextlib
import warnings

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sdclr.training.config import Runtime
from sdclr.training.distributed import Processes


def wrapped(objective: nn.Module, runtime: Runtime, place: Processes) -> nn.Module:
    """Compile an objective and distribute it over processes, as `runtime` says.

    Args:
        objective: On the device; compilation changes it in place.
        runtime: Whether to compile.
        place: The rank of this process.
    """
    model = objective
    if runtime.cuda_graphs:
        model.compile(mode="reduce-overhead")
    elif runtime.compile:
        model.compile()
    if place.world > 1:
        ids = [place.device] if place.device.type == "cuda" else None
        # torch warns of the strides of each 1x1 convolution in channels_last, where two descriptions are equivalent.
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        # Running statistics are not averaged in training mode, and masks are equal everywhere by construction.
        model = DistributedDataParallel(model, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True)
    return model


def gradients_shared(model: nn.Module, *, last: bool) -> contextlib.AbstractContextManager[object]:
    """Exchange gradients between processes once per step, with the last part of the batch."""
    if last or not isinstance(model, DistributedDataParallel):
        return contextlib.nullcontext()
    return model.no_sync()
