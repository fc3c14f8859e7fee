"""Input sizes at which a timm architecture can be trained, tested without computation."""

from collections.abc import Iterable

import torch

from sdclr.encoders import EncoderConfig, create_encoder
from sdclr.errors import InputError

Shapes = dict[str, tuple[int, ...]]


def first_that_fits(
    candidates: Iterable[tuple[EncoderConfig, int]], *, trained_at: int | None = None
) -> tuple[EncoderConfig, int]:
    """The first of some encoders and sizes of images, in pixels, that timm can make.

    Args:
        candidates: In order of preference; at least one.
        trained_at: Size of images at which an encoder has trained weights, if it has. They must fit at the other size,
            but for position embeddings, which can be resampled.

    Raises:
        InputError: If timm can make none of them: why it cannot make the last.
    """
    failed: InputError | None = None
    for encoder, size in candidates:
        try:
            shapes = _shapes(encoder, size)
            if trained_at in {None, size} or shapes == _shapes(encoder, trained_at or size):
                return encoder, size
        except InputError as error:
            failed = error
    raise failed or InputError("no size of images was given")


def _shapes(encoder: EncoderConfig, size: int) -> Shapes:
    """Shapes of an encoder's weights by name, without position embeddings."""
    # Tensors of this device have shapes and no values.
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        state = create_encoder(encoder, size).backbone.state_dict()
    return {name: tuple(weight.shape) for name, weight in state.items() if name != "pos_embed"}
