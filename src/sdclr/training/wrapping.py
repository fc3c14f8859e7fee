"""The module whose forward pass is a training step: compiled, and distributed over processes."""

import contextlib
import warnings

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sdclr.training.config import Runtime
from sdclr.training.distributed import Processes


def wrapped(objective: nn.Module, runtime: Runtime, place: Processes) -> nn.Module:
    """An objective, compiled and spread over processes as asked.

    Args:
        objective: On the device; a compiled one is changed in place.
        runtime: What is asked.
        place: This process among the others.
    """
    model = objective
    if runtime.cuda_graphs:
        model.compile(mode="reduce-overhead")
    elif runtime.compile:
        model.compile()
    if place.world > 1:
        ids = [place.device] if place.device.type == "cuda" else None
        # torch warns of layouts for each 1x1 convolution in channels_last, where two descriptions fit one memory.
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        # Running statistics are not averaged in training mode, and masks are equal everywhere by construction.
        model = DistributedDataParallel(model, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True)
    return model


def gradients_shared(model: nn.Module, *, last: bool) -> contextlib.AbstractContextManager[object]:
    """Exchange gradients between processes once per step, with the last part of the batch."""
    if last or not isinstance(model, DistributedDataParallel):
        return contextlib.nullcontext()
    return model.no_sync()
