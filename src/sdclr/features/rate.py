"""Estimates the speed of encoding a collection on this machine, in about a second."""

import time
from contextlib import suppress
from typing import Final

import torch
from torch import nn

from sdclr.choices import Amp
from sdclr.data.sources import Source
from sdclr.encoders import Preprocessing
from sdclr.errors import BadImageError
from sdclr.features.extract import encode_images
from sdclr.features.inference import for_inference
from sdclr.features.view import decode_side, evaluation_view
from sdclr.progress import stage

_DECODED: Final = 8
_BATCH: Final = 16


@stage("measuring the speed of the encoder")
def seconds_an_image(
    encoder: nn.Module,
    preprocessing: Preprocessing,
    source: Source,
    *,
    device: torch.device,
    workers: int,
    amp: Amp,
    passes: int = 1,
) -> float:
    """Estimated seconds to decode and encode one image, without startup time.

    Args:
        encoder: The network.
        preprocessing: Preprocessing of the images for the network.
        source: The images, of which a few are decoded.
        device: Device of the network.
        workers: Processes that decode in parallel to it; 0 decodes before it.
        amp: Precision of the forward pass.
        passes: Forward passes for each image. With several, the network runs unchanged, not as a faster copy.
    """
    size = preprocessing.image_size
    batch = torch.zeros(_BATCH, 3, size, size, dtype=torch.uint8)
    encoder = for_inference(encoder.to(device)) if passes == 1 else encoder.to(device).eval()
    encode_images(encoder, batch, device=device, amp=amp)
    begun = time.perf_counter()
    encode_images(encoder, batch, device=device, amp=amp).cpu()
    network = passes * (time.perf_counter() - begun) / _BATCH
    step = max(1, len(source) // _DECODED)
    asked = range(0, len(source), step)[:_DECODED]
    begun = time.perf_counter()
    for index in asked:
        with suppress(BadImageError):
            evaluation_view(source.image(index, min_side=decode_side(preprocessing)), preprocessing)
    decoding = (time.perf_counter() - begun) / len(asked)
    return max(decoding / workers, network) if workers else decoding + network
