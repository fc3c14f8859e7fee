"""Cost of an increment of 1% more images, as a share of the whole pass.

    python benchmarks/speed/increment.py --data $SDCLR_DATA/data --images 1000

It mines the first CIFAR-10 images, then 1% more, with the default encoder and settings. It prints the CPU time of each
call, which hardly depends on other load. A third call finds no new images.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

import sdclr
from sdclr.data.sources import SubsetSource, open_source


def main() -> None:
    """Measure, and print a line for each call."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with cifar10/")
    parser.add_argument("--images", type=int, default=1000)
    args = parser.parse_args()
    images, encoder = open_source(args.data / "cifar10", split="train"), sdclr.load_encoder()
    counts = {"whole": args.images, "increment": args.images + args.images // 100}
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, count in (*counts.items(), ("again", counts["increment"])):
            begin = time.process_time()
            sdclr.mine(SubsetSource(images, np.arange(count), name="growing"), encoder=encoder, out=folder)
            seconds[name] = time.process_time() - begin
            share = seconds[name] / seconds["whole"]
            print(f"{name}: {count:,} images, {seconds[name]:.1f} s of CPU time, {share:.3f} of the whole", flush=True)


if __name__ == "__main__":
    main()
