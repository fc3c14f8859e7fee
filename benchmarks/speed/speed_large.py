"""Large images on the CPU: views per second, and images per second from JPEG files to batches of two views.

    python benchmarks/speed/speed_large.py --folder /tmp/jpegs [--data DIR] [--count 2000] [--workers N]

If the folder does not hold the JPEGs, the script creates them: crops of scikit-learn's two photographs with changed
colors and, if `--data` names CIFAR-10 as parquet files, mosaics of its images.
"""

import argparse
import itertools
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from sklearn.datasets import load_sample_images
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from sdclr.data.sources import ArraySource, FolderSource, Source, open_source, shrunk_image
from sdclr.decoding.decode import prepare_worker
from sdclr.decoding.shrink import short_side
from sdclr.loading.batches import ResidentLoader
from sdclr.loading.cache import cached
from sdclr.loading.streaming import Floats, StreamLoader
from sdclr.views.config import ViewConfig
from sdclr.views.parameters import ViewParameters, draw_views
from sdclr.views.render_cv import render_cv_views
from speed_harness import Candidate, Comparison, Effort, Table, compare
from speed_harness import number as shown
from speed_views import (
    KORNIA,
    LIGHTLY,
    OPENCV,
    TORCH,
    TORCHVISION,
    VIEWS_NOTE,
    ViewSize,
    batched,
    kornia_views,
    lightly_transform,
    lightly_view,
    ours,
    peer,
    pictures,
    title,
    torchvision_view,
)

LATER_EPOCHS, FIRST_EPOCH = "sdclr, later epochs", "sdclr, first epoch, filling the cache"
NO_CACHE, LIGHTLY_FILES = "sdclr without a cache", "lightly SimCLRTransform in a DataLoader"
JPEG_SIZE = (500, 375)
"""Width and height of the JPEGs: ImageNet's most common."""


def large_views(*, batch: int, image_size: int = 224) -> ViewSize:
    """The paper's recipe for ImageNet."""
    config = ViewConfig(image_size=image_size, crop_scale=(0.08, 1.0), blur=0.5)
    return ViewSize(config=config, batch=batch, peer_batch=batch)


def compare_large(images: Tensor, size: ViewSize, effort: Effort) -> Comparison:
    """Views per second of large, already decoded images.

    Args:
        images: (N, 3, H, W) uint8.
        size: The views.
        effort: How long to measure.
    """
    source = ArraySource(images.permute(0, 2, 3, 1).contiguous().numpy())
    candidates = [
        ours(OPENCV, StreamLoader(source, size.config, seed=0, batch_size=size.batch), size.batch),
        ours(TORCH, ResidentLoader(images, size.config, seed=0, batch_size=size.batch), size.batch),
        peer(LIGHTLY, lightly_view(size.config), pictures(images), size.peer_batch),
        peer(TORCHVISION, _with_blur(torchvision_view(size.config), size.config), list(images), size.peer_batch),
        batched(KORNIA, kornia_views(size.config), images, size.peer_batch),
    ]
    return compare(title(images, size), f"{VIEWS_NOTE} {_BLUR_NOTE}", "/s", candidates, effort)


_BLUR_NOTE = (
    "The blur kernel reaches three sigma: of each view for sdclr and lightly, of the largest sigma for torchvision and "
    "kornia, which use one kernel size."
)


def _with_blur(view: v2.Compose, config: ViewConfig) -> Callable[[object], Tensor]:
    """The recipe in torchvision's transforms, with its blur before the conversion to floats."""
    blur = v2.GaussianBlur(2 * round(3 * config.blur_sigma[1]) + 1, config.blur_sigma)
    return v2.Compose([*view.transforms[:-1], v2.RandomApply([blur], config.blur), view.transforms[-1]])


def make_jpegs(folder: Path, count: int = 2000, data: Path | None = None) -> Path:
    """Write JPEGs of 500 x 375 px that vary like photographs. The same arguments give the same files.

    Args:
        folder: Their folder. It stays unchanged if it already holds `count` JPEGs.
        count: Number of files.
        data: A folder of CIFAR-10 as parquet files: every second picture is then a mosaic of its images.

    Returns:
        The folder.
    """
    if folder.is_dir() and len(list(folder.glob("*.jpg"))) == count:
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    tiles = None if data is None else open_source(data, split="train")
    for number in range(count):
        rng = np.random.default_rng([0, number])
        mosaic = tiles is not None and number % 2 == 1
        picture = _mosaic(tiles, rng) if mosaic else _crop(photos[number // 2 % len(photos)], rng)
        picture.save(folder / f"{number:05d}.jpg", quality=int(rng.integers(80, 96)))
    return folder


def _crop(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A random crop of a photograph with changed colors, half of the time flipped."""
    width, height = JPEG_SIZE
    scale = rng.uniform(0.4, 1) * min(photo.width / width, photo.height / height)
    left = rng.uniform(0, photo.width - scale * width)
    top = rng.uniform(0, photo.height - scale * height)
    box = (left, top, left + scale * width, top + scale * height)
    picture = photo.resize(JPEG_SIZE, Image.Resampling.BICUBIC, box=box)
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        picture = change(picture).enhance(rng.uniform(0.7, 1.3))
    return picture


def _mosaic(tiles: Source, rng: np.random.Generator) -> Image.Image:
    """Small images side by side, enlarged."""
    side = int(rng.choice([64, 125, 250]))
    picture = Image.new("RGB", JPEG_SIZE)
    for top, left in itertools.product(range(0, JPEG_SIZE[1], side), range(0, JPEG_SIZE[0], side)):
        tile = Image.fromarray(tiles.image(int(rng.integers(len(tiles)))))
        picture.paste(tile.resize((side, side), Image.Resampling.BICUBIC), (left, top))
    return picture


def compare_end_to_end(
    folder: Path, *, workers: int, effort: Effort, batch: int = 64, image_size: int = 224
) -> Comparison:
    """Images per second from JPEG files to two float batches in this process; a call is a pass over the folder.

    Args:
        folder: The files.
        workers: Decoding processes of each candidate. Those of the other candidates wait meanwhile.
        effort: How long to measure.
        batch: Images in a batch.
        image_size: Side of the views.
    """
    config = large_views(batch=batch, image_size=image_size).config
    source = FolderSource(folder)
    dataset = _LightlyPairs(folder, lightly_transform(config))
    loader = DataLoader(
        dataset,
        batch_size=batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    with TemporaryDirectory() as scratch:
        homes = [Path(scratch, name) for name in ("later", "first")]
        later, first = (_keeping(source, short_side(image_size), home, max(1, workers)) for home in homes)
        passes = [_Passes(images, config, batch, workers) for images in (later, first, source)]
        passes[0]()  # fills its cache
        images = passes[0].images
        candidates = [
            Candidate(LATER_EPOCHS, passes[0], units=images),
            Candidate(FIRST_EPOCH, passes[1], units=images, prepare=lambda: _set_aside(homes[1])),
            Candidate(NO_CACHE, passes[2], units=images),
            Candidate(LIGHTLY_FILES, lambda: _exhaust(loader), units=images),
        ]
        return compare(
            f"Images from JPEG files, {workers} workers",
            f"Whole passes over {len(dataset)} files to two float32 batches of {batch} views at {image_size} px in "
            "[0, 1]; the same probabilities and strengths. For lightly, Pillow decodes the images and torch "
            "batches them, as in its documentation.",
            "/s",
            candidates,
            effort,
        )


def _set_aside(home: Path) -> None:
    """Empty a cache without deleting: after that, ext4 takes ten times as long to create files for some seconds."""
    if home.exists():
        home.rename(home.with_name(f"{home.name} {time.monotonic_ns()}"))


class _Passes:
    """Passes over all images, each as a new epoch."""

    def __init__(self, source: Source, config: ViewConfig, batch: int, workers: int) -> None:
        self._stream = StreamLoader(source, config, seed=0, batch_size=batch, workers=workers)
        self._epochs = itertools.count()
        self.images = self._stream.steps_per_epoch * batch

    def __call__(self) -> None:
        _exhaust(self._stream.epoch(next(self._epochs)))


def _keeping(source: Source, side: int, home: Path, writers: int) -> Source:
    """The source with its own empty cache."""
    with patch.dict(os.environ, {"XDG_CACHE_HOME": str(home)}):
        images = cached(source, side, limit_gb=1000, writers=writers)
    if images is source:
        raise SystemExit(f"{home}: holds no cache of {source.name}: free disk space, or set TMPDIR")
    return images


class _LightlyPairs(Dataset[tuple[list[Tensor], int]]):
    """Files read as by torchvision's ImageFolder, with two views by lightly."""

    def __init__(self, folder: Path, transform: Callable[[Image.Image], list[Tensor]]) -> None:
        self._files = sorted(folder.glob("*.jpg"))
        self._transform = transform

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[list[Tensor], int]:
        return self._transform(_by_pillow(self._files[index])), index


def _by_pillow(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def _exhaust(batches: object) -> None:
    for _ in batches:
        pass


def where_time_goes(folder: Path, *, count: int = 64, rounds: int = 15, image_size: int = 224) -> Table:
    """Milliseconds of one core per image, stage by stage, in a process like the workers.

    Args:
        folder: JPEG files.
        count: Number of files to use.
        rounds: Number of turns of each stage; the minimum counts, because other load affects it least.
        image_size: Side of the views.
    """
    files = sorted(folder.glob("*.jpg"))[:count]
    with TemporaryDirectory() as scratch, multiprocessing.get_context().Pool(1, initializer=prepare_worker) as pool:
        taken = pool.apply(_time_stages, (files, Path(scratch), rounds, image_size))
    drawing = taken[_PARAMETERS] + taken[_RENDER] + taken[_FLOATS]
    theirs = taken[_PILLOW] + taken[_LIGHTLY]
    sums = {
        "without a cache": taken[_DECODE] + drawing,
        "first epoch": taken[_DECODE] + taken[_WRITE] + drawing,
        "later epochs": taken[_READ] + drawing,
    }
    rows = [
        *taken.items(),
        ("sum, lightly", theirs),
        *(
            (f"sum, sdclr, {name}", f"{shown(value)} (lightly / this: {theirs / value:.1f})")
            for name, value in sums.items()
        ),
    ]
    return Table(
        title="Time from a JPEG file to two views",
        note=f"{len(files)} files of {JPEG_SIZE[0]} x {JPEG_SIZE[1]} px, {image_size} px views: processor time of one "
        f"core, the minimum of {rounds} rounds. The transfer between processes is not included; it is larger for "
        "lightly, whose workers send floats.",
        heading=("", "ms per image"),
        rows=rows,
    )


_DECODE, _WRITE, _READ = "decode and shrink, sdclr", "write to the cache, sdclr", "read from the cache, sdclr"
_PARAMETERS, _RENDER = "draw the parameters of two views, sdclr", "render two views, sdclr"
_FLOATS = "two views to floats, sdclr"
_PILLOW, _LIGHTLY = "decode, Pillow", "two views, lightly"


def _time_stages(files: list[Path], scratch: Path, rounds: int, image_size: int) -> dict[str, float]:
    torch.set_num_threads(1)
    config, side = large_views(batch=1, image_size=image_size).config, short_side(image_size)
    source = FolderSource(files[0].parent)
    kept, places = _keeping(source, side, scratch / "kept", 1), range(len(files))
    images = [shrunk_image(kept, place, side) for place in places]
    photos = [_by_pillow(path) for path in files]
    views = np.empty((2, len(files), image_size, image_size, 3), dtype=np.uint8)
    params, transform, to_floats = _draw(config, images), lightly_transform(config), Floats(torch.device("cpu"))

    def write() -> None:
        """Includes the decoding, which is subtracted later."""
        home = scratch / "new"
        _set_aside(home)
        new = _keeping(source, side, home, 1)
        start = time.process_time()
        for place in places:
            shrunk_image(new, place, side)
        taken[_WRITE].append(time.process_time() - start)

    stages: dict[str, Callable[[], object]] = {
        _DECODE: lambda: [shrunk_image(source, place, side) for place in places],
        _READ: lambda: [_touched(shrunk_image(kept, place, side)) for place in places],
        _PARAMETERS: lambda: _draw(config, images),
        _RENDER: lambda: render_cv_views(images, params, views),
        _FLOATS: lambda: to_floats(torch.from_numpy(views)),
        _PILLOW: lambda: [_by_pillow(path) for path in files],
        _LIGHTLY: lambda: [transform(photo) for photo in photos],
    }
    taken: dict[str, list[float]] = {name: [] for name in (_DECODE, _WRITE, *stages)}
    for _ in range(rounds):
        write()
        for name, stage in stages.items():
            start = time.process_time()
            stage()
            taken[name].append(time.process_time() - start)
    found = {name: min(values) / len(files) * 1e3 for name, values in taken.items()}
    return found | {_WRITE: max(0.0, found[_WRITE] - found[_DECODE])}


def _touched(image: NDArray[np.uint8]) -> int:
    """Read every memory page of an image."""
    return int(image.reshape(-1)[::4096].max())


def _draw(config: ViewConfig, images: Sequence[NDArray[np.uint8]]) -> tuple[ViewParameters, ViewParameters]:
    heights, widths = np.array([image.shape[:2] for image in images]).T
    one, two = (
        draw_views(config, seed=0, epoch=0, indices=np.arange(len(images)), view=view, height=heights, width=widths)
        for view in (0, 1)
    )
    return one, two


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="folder of the JPEGs; made if it is not there")
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10 as parquet files")
    parser.add_argument("--count", type=int, default=2000, help="number of JPEGs")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that decode")
    parser.add_argument("--batch", type=int, default=64, help="images in a batch")
    parser.add_argument("--rounds", type=int, default=5, help="passes over the folder")
    options = parser.parse_args(arguments)
    make_jpegs(options.folder, options.count, options.data)
    effort = Effort(rounds=options.rounds, seconds=600)
    passes = compare_end_to_end(options.folder, workers=options.workers, effort=effort, batch=options.batch)
    for part in (passes, where_time_goes(options.folder, count=min(64, options.count))):
        print(f"## {part.title}\n\n{part.note}\n\n{part.table()}\n")


if __name__ == "__main__":
    main()
