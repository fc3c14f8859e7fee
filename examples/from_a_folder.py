"""From a folder of images to an encoder and its embeddings.

    python examples/from_a_folder.py ./images runs/mine

Without arguments it makes a small folder of digits first, one file of it broken, and trains for a few seconds.
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import torch
from PIL import Image

import sdclr


def a_small_folder(folder: Path) -> Path:
    digits = sdclr.open_source("digits")
    for index in range(200):
        Image.fromarray(digits.image(index)).save(folder / f"{index:04}.png")
    (folder / "broken.png").write_bytes(b"not an image")
    return folder


def main(images: Path, run_folder: Path, *, quick: bool) -> None:
    config = sdclr.default_config(sdclr.open_source(images))
    if quick:  # a few epochs of a narrow network, to see it work
        config = replace(
            config, epochs=4, encoder=sdclr.EncoderConfig(width=8), optim=sdclr.OptimConfig(lr=0.1, warmup_epochs=1)
        )
    run = sdclr.pretrain(images, config, run=run_folder)  # called again, it goes on where it was
    print(f"left out: {run.bad_images_file.read_text().splitlines()[1:]}")

    encoder = sdclr.load_encoder(run.path)
    features = encoder(torch.randint(0, 256, (4, 3, encoder.image_size, encoder.image_size), dtype=torch.uint8))
    print(f"{encoder.num_features} features an image: {tuple(features.shape)}")

    table = run.path / "embeddings.parquet"
    rows, _ = sdclr.embed(images, table, encoder=run)
    print(f"{rows} embeddings in {table}, columns {', '.join(pq.read_schema(table).names)}")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        main(Path(sys.argv[1]), Path(sys.argv[2]), quick=False)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            place = Path(scratch) / "images"
            place.mkdir()
            main(a_small_folder(place), Path(scratch) / "run", quick=True)
