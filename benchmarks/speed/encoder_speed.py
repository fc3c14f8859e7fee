"""Images per second of a pretrained encoder on a folder of photos: `sdclr`, and a plain timm loop on the same cores.

The target, set before the measurement: `extract_features` encodes at least 1.5 times as many images per second as a
plain loop (timm's model, timm's transforms by torchvision, a DataLoader) at equal features (cosine above 0.999).
Decoding alone and the network alone are upper limits.

    python benchmarks/speed/encoder_speed.py --images DIR [--encoder timm:NAME] [--rounds 3] [--count 1000]

The loops alternate within each round, so that changes of the load affect both. All files are read once before, so that
none comes from a cold disk.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch.utils.data import DataLoader, Dataset

from sdclr.data.sources import SubsetSource, open_source
from sdclr.decoding.decode import decode_image
from sdclr.encoders import DEFAULT, Encoder, load_encoder
from sdclr.features.extract import encode_images, extract_features
from sdclr.features.inference import for_inference
from sdclr.features.view import decode_side, evaluation_view

BATCH = 64


class Photos(Dataset[torch.Tensor]):
    """Image files with a transform, as in tutorials."""

    def __init__(self, files: list[Path], transform: Callable[[Image.Image], torch.Tensor]) -> None:
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> torch.Tensor:
        with Image.open(self.files[index]) as image:
            return self.transform(image.convert("RGB"))


def plain_timm(encoder: Encoder, files: list[Path], workers: int) -> NDArray[np.float32]:
    """Features from a plain loop with timm's model and the encoder's weights."""
    model: Any = timm.create_model(encoder.config.name, num_classes=0).eval()
    model.load_state_dict(encoder.backbone.state_dict())
    transform = create_transform(**resolve_data_config(model=model), is_training=False)
    with torch.inference_mode():
        batches = DataLoader(Photos(files, transform), batch_size=BATCH, num_workers=workers)
        return torch.cat([model(batch) for batch in batches]).numpy()


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Duration in seconds, and result of a call."""
    begun = time.perf_counter()
    result = work()
    return time.perf_counter() - begun, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, help="a folder of photos")
    parser.add_argument("--encoder", default=DEFAULT)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=1000, help="photos, drawn at random")
    parser.add_argument("--workers", type=int, default=1, help="processes that decode, in both loops")
    asked = parser.parse_args()
    whole = open_source(asked.images)
    chosen = np.sort(np.random.default_rng(0).permutation(len(whole))[: asked.count])
    source = SubsetSource(whole, chosen)
    files = [whole.file(int(position)) for position in chosen]
    encoder = load_encoder(asked.encoder)
    seen = encoder.preprocessing
    how = {"batch_size": BATCH, "workers": asked.workers}
    works: dict[str, Callable[[], Any]] = {
        "plain timm loop": lambda: plain_timm(encoder, files, asked.workers),
        "sdclr, float32": lambda: extract_features(encoder, source, preprocessing=seen, **how).values,
        "sdclr, bfloat16": lambda: extract_features(encoder, source, preprocessing=seen, amp="bf16", **how).values,
        "decoding alone, one process": lambda: [
            evaluation_view(decode_image(file, image_id=file.name, min_side=decode_side(seen)), seen) for file in files
        ],
        "network alone": lambda: encode_images(
            for_inference(encoder),
            torch.zeros(len(files), 3, seen.image_size, seen.image_size, dtype=torch.uint8),
            batch_size=BATCH,
        ),
    }
    for file in files:
        file.read_bytes()
    seconds: dict[str, list[float]] = {name: [] for name in works}
    features: dict[str, NDArray[np.float32]] = {}
    for _ in range(asked.rounds):
        for name, work in works.items():
            took, result = timed(work)
            seconds[name].append(took)
            if name.startswith(("plain", "sdclr")):
                features[name] = result
    base = features["plain timm loop"]
    print(f"{len(files)} photos, {asked.encoder}, {seen.image_size} px, {torch.get_num_threads()} threads, ", end="")
    print(f"{asked.workers} decoding processes, {asked.rounds} rounds\n")
    print(
        "| loop | images/s (best) | of the plain loop, median of rounds | lowest cosine |\n| --- | ---: | ---: | ---: |"
    )
    for name, times in seconds.items():
        ratio = float(np.median(np.divide(seconds["plain timm loop"], times)))
        cosine = "-"
        if name in features:
            a, b = (torch.nn.functional.normalize(torch.from_numpy(values)) for values in (base, features[name]))
            cosine = f"{float((a * b).sum(1).min()):.5f}"
        print(f"| {name} | {len(files) / min(times):.0f} | {ratio:.2f} | {cosine} |")


if __name__ == "__main__":
    main()
