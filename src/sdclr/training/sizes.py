"""Input sizes that a timm architecture supports, tested without computation."""

from collections.abc import Iterable

import torch

from sdclr.encoders import EncoderConfig, create_encoder
from sdclr.errors import InputError

Shapes = dict[str, tuple[int, ...]]


def first_that_fits(
    candidates: Iterable[tuple[EncoderConfig, int]], *, trained_at: int | None = None
) -> tuple[EncoderConfig, int]:
    """The first pair of encoder and image size, in pixels, that timm can create.

    Args:
        candidates: Pairs in order of preference; at least one.
        trained_at: Image size of the encoder's trained weights, if it has some. They must fit at the new size, except
            position embeddings, which can be resampled.

    Raises:
        InputError: If timm can create none of them; gives the reason for the last.
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
    # Tensors on the meta device have shapes and no values.
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        state = create_encoder(encoder, size).backbone.state_dict()
    return {name: tuple(weight.shape) for name, weight in state.items() if name != "pos_embed"}
