"""The end of a run whose numbers are not finite."""

from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from sdclr.files import write_json
from sdclr.training.distributed import Processes
from sdclr.training.feed import Feed


def give_up(
    what: str, step: int, indices: NDArray[np.int64], *, feed: Feed, place: Processes, checkpoint: Path | None
) -> NoReturn:
    """End the run at a number that is not finite. All processes call this together.

    Args:
        what: The number, in words.
        step: The step of that number.
        indices: `(n,)` samples of this process in that step.
        feed: The batches; the list of images is written to the folder of their run.
        place: This process among the others.
        checkpoint: The last checkpoint.

    Raises:
        FloatingPointError: Always; it names the images, the checkpoint and the remedy.
    """
    shares = place.gather([feed.name(index) for index in indices.tolist()])
    names = [name for share in shares for name in share]
    listed = feed.run.path / f"nonfinite-step-{step}.json"
    if place.first:
        write_json(listed, {"step": step, "images": names})
    good = f"the last good checkpoint is {checkpoint}" if checkpoint else "no checkpoint is saved"
    some = ", ".join(names[:3])
    remedy = "lower --optim.lr, raise the warm-up or drop --amp, in a new run"
    raise FloatingPointError(f"{what} (images {some}, …, all in {listed}); {good}: {remedy}")
