"""From a folder of images to the rare ones among them, without labels.

    python examples/rare_images.py ./images runs/mine

Without arguments it makes a folder of handwritten zeros first, a few sevens among them, and trains for a few seconds.
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

import sdclr


def zeros_and_few_sevens(folder: Path) -> Path:
    digits = sdclr.open_source("digits")
    for digit, count in ((0, 140), (7, 4)):
        for index in np.flatnonzero(digits.labels == digit)[:count]:
            Image.fromarray(digits.image(index)).save(folder / f"{digit}-{index:04}.png")
    return folder


def main(images: Path, run_folder: Path, *, quick: bool) -> None:
    config = sdclr.for_images(sdclr.open_source(images))
    if quick:  # a few epochs of a narrow network, to see it work
        optim = sdclr.OptimConfig(lr=0.1, warmup_epochs=2)
        config = replace(config, epochs=20, encoder=sdclr.EncoderConfig(width=16), optim=optim)
    run = sdclr.pretrain(images, config, run=run_folder)

    scores = sdclr.mine(images, encoder=run)  # also written to RUN/mine/scores.parquet
    print("the rarest:")
    for position in scores.order()[:5]:
        print(f"  {scores.ids[position]}: {sdclr.why(scores, position)}")
    page = sdclr.write_page(run.path / "mine" / "rarest.html", scores, sdclr.open_source(images))
    print(f"all of them to look at: {page}")

    for sentence in sdclr.diagnose(images, encoder=run).summary:
        print(sentence)
    chosen = sdclr.choose_to_label(images, encoder=run, budget=5)
    print(f"to label next: {', '.join(chosen.ids)}")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        main(Path(sys.argv[1]), Path(sys.argv[2]), quick=False)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            place = Path(scratch) / "images"
            place.mkdir()
            main(zeros_and_few_sevens(place), Path(scratch) / "run", quick=True)
