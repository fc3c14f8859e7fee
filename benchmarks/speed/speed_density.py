"""Cost of one update of density-guided sampling, as a share of an epoch.

    python benchmarks/speed/speed_density.py [--images 4096] [--width 16] [--every 10] [--device auto] [--quick]

An update, called a look, is the work of `sdclr.training.density.refresh`: features of all images, their nearest
neighbors, and the weights. An epoch is one of SimCLR on the same images, including views. The parts are also timed
separately, because they scale differently: features with the number of images, neighbors with its square.
"""

import argparse
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sdclr.features.extract import encode_images
from sdclr.features.nearest import nearest
from sdclr.method.rebalancing.config import DensityConfig
from sdclr.method.rebalancing.density import density_weights
from sdclr.training.density import Reading, neighbor_distances
from sdclr.training.distributed import Processes, resolve_device
from speed_harness import Candidate, Comparison, Effort, Findings, Quartiles, Table, Target, compare, spread
from speed_steps import StepSize, Training, loader_of

LIMIT = 0.02
"""Maximum share of all looks in the time of a run."""

LOOK, EPOCH, FEATURES, NEIGHBORS, WEIGHTS = (
    "one look",
    "one epoch of SimCLR",
    "features alone",
    "neighbors alone",
    "weights alone",
)


@dataclass(frozen=True, kw_only=True)
class Size:
    """A set of images and a network."""

    images: int
    step: StepSize

    def __str__(self) -> str:
        return f"{self.images:,} images, {self.step}"


def compare_look(size: Size, effort: Effort, device: torch.device) -> Comparison:
    """Times of a look, an epoch, and the parts of a look."""
    generator = torch.Generator().manual_seed(0)
    side = size.step.image_size
    images = torch.randint(256, (size.images, 3, side, side), dtype=torch.uint8, generator=generator).to(device)
    training = Training("simclr", size.step)
    training.objective.to(device)
    loader, epochs = loader_of(images, size.step), itertools.count()  # views differ between epochs
    encoder, place = training.objective.network.encoder, Processes(0, 1, device)
    config, reading = DensityConfig(), Reading(image_size=side)

    def epoch() -> None:
        for batch in loader.epoch(next(epochs)):
            training.step(batch.view1, batch.view2)

    def look() -> Tensor:
        distances = neighbor_distances(encoder, images, place=place, reading=reading, k=config.neighbors)
        return density_weights(distances, effective=config.effective)

    features = encode_images(encoder, images)
    distances = nearest(features, config.neighbors).distances.mean(dim=1).cpu()
    parts: dict[str, Callable[[], object]] = {
        LOOK: look,
        EPOCH: epoch,
        FEATURES: lambda: encode_images(encoder, images),
        NEIGHBORS: lambda: nearest(features, config.neighbors + 1, queries=features),
        WEIGHTS: lambda: density_weights(distances, effective=config.effective),
    }
    candidates = [Candidate(name, _finished(call, device)) for name, call in parts.items()]
    note = "Pixels and weights are random; a look ends with weights that reach an effective number."
    return compare(f"Density, {size}", note, "s", candidates, effort)


def findings(comparison: Comparison, *, every: int) -> Findings:
    """The share of looks in a run, with one every `every` epochs; the epochs before the first do not count."""
    ratio = comparison.ratio(EPOCH)
    share = Target(
        what=f"Looks every {every} epochs as a share of training",
        limit=LIMIT,
        measured=ratio.median / every,
        quartiles=Quartiles(*(value / every for value in ratio)),
    )
    rows = [
        (name, comparison.median(name), spread(comparison.ratio(EPOCH, of=name)))
        for name in comparison.samples
        if name != EPOCH
    ]
    heading = ("", "seconds", "share of an epoch (quartiles)")
    table = Table(title="A look and its parts", note="By round, as above.", heading=heading, rows=rows)
    return Findings(targets=[share], comparisons=[comparison], tables=[table])


def _finished(call: Callable[[], object], device: torch.device) -> Callable[[], None]:
    """The call, with a wait for its work on a GPU."""

    def whole() -> None:
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return whole


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--width", type=int, default=16, help="channels of the ResNet-18's first stage")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--every", type=int, default=DensityConfig().every, help="epochs from one look to the next")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="three rounds")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    size = Size(
        images=options.images,
        step=StepSize(width=options.width, batch=options.batch, image_size=options.image_size),
    )
    effort = Effort(rounds=3 if options.quick else 9, seconds=300)
    found = findings(compare_look(size, effort, resolve_device(options.device)), every=options.every)
    for target in found.targets:
        print(" | ".join(target.row()))
    print(f"\n{found.markdown()}")


if __name__ == "__main__":
    main()
