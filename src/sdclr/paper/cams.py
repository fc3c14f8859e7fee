"""Figure 5: Grad-CAM heat maps of images of rare classes (Jiang et al., ICML 2021, §4.9).

No image is selected by hand: the figure shows the first test images of the rarest classes. The values next to them
are means over all test images of the Few classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from sdclr.data.source import class_name
from sdclr.data.sources import Source, SubsetSource
from sdclr.encoders import Preprocessing
from sdclr.errors import InputError
from sdclr.evaluation.gradcam import Target, class_prototypes, gradcam, last_map, similarity_target
from sdclr.features.extract import evaluating, extract_features, load_views
from sdclr.paper.panels import Row, panels, spread_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN: Final = 6
"""Number of images on the sheet."""

MIN_SIDE: Final = 4
"""Minimum side of a map in positions: a 2 x 2 map has a quarter of any heat in the central quarter of the area."""

_COLORS: Final = "inferno"
_OPACITY: Final = 0.75
_COLUMN: Final = 1.7  # inches
_LONGEST_NAME: Final = 20

Pixels = NDArray[np.uint8]


class Cams(NamedTuple):
    """Heat maps of one encoder."""

    rows: list[dict[str, Any]]
    """For each test image of the requested classes: its `class`, `id`, whether it is `shown`, the cosine `similarity`
    to its class prototype (minus the mean of all prototypes), `central` (the share of the heat in the central quarter
    of the area) and `entropy` of the heat (1: even, 0: in one pixel); nan without heat."""
    images: Pixels
    """(n, S, S, 3), the images shown, preprocessed for the encoder."""
    heat: NDArray[np.float32]
    """(n, S, S), their heat maps, in [0, 1]."""
    classes: list[str]
    """(n,), names of their classes."""


def first_of_each(labels: ArrayLike, classes: Sequence[int], count: int) -> NDArray[np.int64]:
    """The first image of each class, then the second of each, and so on.

    Args:
        labels: `(N,)` class ids in the order of the source.
        classes: Class ids in the wanted order.
        count: Number of images.

    Returns:
        Positions of `count` images, or of all if there are fewer.
    """
    known = np.asarray(labels, dtype=np.int64)
    members = [np.flatnonzero(known == number)[:count].tolist() for number in classes]
    deepest = max(map(len, members), default=0)
    chosen = [found[turn] for turn in range(deepest) for found in members if turn < len(found)]
    return np.array(chosen[:count], dtype=np.int64)


def rarest_first(counts: ArrayLike, groups: Mapping[str, ArrayLike]) -> list[int]:
    """The Few classes by number of training images, fewest first; ties by id."""
    sizes, few = np.asarray(counts), np.sort(np.asarray(groups["few"], dtype=np.int64))
    ranked: list[int] = few[np.argsort(sizes[few], kind="stable")].tolist()
    return ranked


def heat_figures(heat: Tensor) -> tuple[Tensor, Tensor]:
    """Location and concentration of the heat. Neither value tells whether the heat is on the object.

    Args:
        heat: `(N, H, W)` nonnegative values.

    Returns:
        `(N,)` share of the heat in the central rectangle of half the height and half the width (0.25 for even heat),
        and `(N,)` entropy of the heat over pixels, divided by the entropy of even heat; nan without heat.
    """
    height, width = heat.shape[1:]
    top, left = height // 4, width // 4
    total = heat.sum(dim=(1, 2))
    central = heat[:, top : height - top, left : width - left].sum(dim=(1, 2)) / total  # 0 / 0 is nan
    shares = (heat / total[:, None, None]).flatten(1)
    entropy = -torch.special.xlogy(shares, shares).sum(dim=1) / math.log(height * width)
    return central, entropy


def tail_cams(
    encoder: nn.Module,
    few_shot: Source,
    test: Source,
    classes: Sequence[int],
    *,
    image_size: int,
    shown: int = SHOWN,
    layer: str | None = None,
    batch_size: int = 64,
    workers: int = 0,
) -> Cams:
    """Grad-CAM of all test images of some classes, for the similarity to the labeled images of the class.

    The score is the cosine to the class prototype minus the mean of all prototypes. With plain prototypes, which are
    similar to each other, half of the maps were empty (quarter-width ResNet-18 on CIFAR-10-LT).

    Args:
        encoder: A frozen encoder.
        few_shot: Labeled images, whose mean features by class are the prototypes.
        test: Labeled images of the same classes.
        classes: Class ids in the order to show.
        image_size: Side S of the encoder's input, in pixels.
        shown: Number of images to keep with their maps: the first of each class, then the second of each.
        layer: As for `gradcam`; by default the last stage whose map is at least `MIN_SIDE` positions wide.
        batch_size: Images per forward pass.
        workers: Number of decoding processes.

    Raises:
        InputError: A source has no labels, or `test` has no image of these classes.
    """
    if few_shot.labels is None or test.labels is None:
        absent = few_shot if few_shot.labels is None else test
        raise InputError(f"{absent.name} has no labels: heat maps need a class to look for")
    positions = np.flatnonzero(np.isin(test.labels, classes))
    if not len(positions):
        raise InputError(f"{test.name} has no image of the classes {list(classes)}: there is nothing to look at")
    views = load_views(
        SubsetSource(test, positions), preprocessing=Preprocessing(image_size=image_size), workers=workers
    )
    positions = positions[views.kept]
    labels = test.labels[positions]
    if layer is None:
        with evaluating(encoder) as where:
            layer = last_map(encoder, views.images[:1].to(where).float() / 255, min_side=MIN_SIDE)
    prototypes = _prototypes(encoder, few_shot, max(int(test.labels.max()) + 1, len(test.classes)), image_size, workers)
    chosen = first_of_each(labels, classes, shown)
    rows, kept = _looked_at(
        encoder, views.images, labels, prototypes, chosen=chosen, layer=layer, batch_size=batch_size
    )
    names = [class_name(test, number) for number in labels.tolist()]
    on_sheet = set(chosen.tolist())
    return Cams(
        [
            {"class": names[row], "id": test.ids[position], "shown": row in on_sheet} | figures
            for row, (position, figures) in enumerate(zip(positions.tolist(), rows, strict=True))
        ],
        views.images[torch.from_numpy(chosen)].permute(0, 2, 3, 1).numpy(),
        kept,
        [names[row] for row in chosen.tolist()],
    )


def draw_cams(cams: Mapping[str, Cams], *, rows: Mapping[str, Sequence[Row]] | None = None) -> Figure:
    """Draw one row per image: the image, and each method's heat map on the image in gray.

    Args:
        cams: The heat maps of each method, for the same images.
        rows: For each method, the images for the means in the title; by default those of `cams`.

    Raises:
        InputError: There is nothing to show, or methods show different images.
    """
    first = next(iter(cams.values()), None)
    if first is None or not len(first.images):
        raise InputError("no heat maps to draw: give those of at least one image")
    if any(not np.array_equal(found.images, first.images) for found in cams.values()):
        raise InputError(f"{', '.join(cams)} show different images: give heat maps of the same ones")
    titles = ["Image", *(f"{method}\n{_summary((rows or {}).get(method, cams[method].rows))}" for method in cams)]
    count = len(first.images)
    measured = [row for method, found in cams.items() for row in (rows or {}).get(method, found.rows)]
    known = sum(not math.isnan(row["central"]) for row in measured)
    with panels(titles, rows=count, width=_COLUMN, height=0.8 + _COLUMN * count, plots=False) as (figure, axes):
        figure.supxlabel(
            f"Heat in the central quarter (even: 25 %) and its entropy (even: 1): means over {known:,} test maps",
            fontsize=7,
        )
        for number, line in enumerate(axes):
            line[0].set_ylabel(first.classes[number][:_LONGEST_NAME], fontsize=8)
            line[0].imshow(first.images[number])
            for panel, found in zip(line[1:], cams.values(), strict=True):
                panel.imshow(overlay(first.images[number], found.heat[number]))
    return figure


def overlay(image: Pixels, heat: NDArray[np.float32]) -> Pixels:
    """Overlay a heat map on its image in gray.

    Args:
        image: `(H, W, 3)` RGB.
        heat: `(H, W)` in [0, 1].

    Returns:
        `(H, W, 3)` RGB.
    """
    import matplotlib as mpl

    gray = image.astype(np.float64) @ (0.299, 0.587, 0.114)
    colors = 255 * mpl.colormaps[_COLORS](heat)[..., :3]
    opacity = _OPACITY * heat[..., None].astype(np.float64)  # cold pixels stay visible
    mixed: Pixels = ((1 - opacity) * gray[..., None] + opacity * colors).round().astype(np.uint8)
    return mixed


def _looked_at(
    encoder: nn.Module,
    images: Tensor,
    labels: NDArray[np.int64],
    prototypes: Tensor,
    *,
    chosen: NDArray[np.int64],
    layer: str | None,
    batch_size: int,
) -> tuple[list[dict[str, float]], NDArray[np.float32]]:
    """Heat statistics of every image, and the maps of the chosen images."""
    rows: list[dict[str, float]] = []
    kept = np.zeros((len(chosen), *images.shape[2:]), dtype=np.float32)
    for start in range(0, len(images), batch_size):
        part = slice(start, start + batch_size)
        likeness = similarity_target(prototypes, labels[part])
        scores: list[Tensor] = []

        def target(features: Tensor, likeness: Target = likeness, scores: list[Tensor] = scores) -> Tensor:
            scores.append(likeness(features))
            return scores[-1]

        heat = gradcam(encoder, images[part].float() / 255, target, layer=layer).cpu()
        columns = (scores[-1].detach().cpu(), *heat_figures(heat))
        rows += [
            dict(zip(("similarity", "central", "entropy"), values, strict=True))
            for values in zip(*(column.tolist() for column in columns), strict=True)
        ]
        here = (chosen >= start) & (chosen < start + len(heat))
        kept[here] = heat.numpy()[chosen[here] - start]
    return rows, kept


def _prototypes(encoder: nn.Module, few_shot: Source, classes: int, image_size: int, workers: int) -> Tensor:
    found = extract_features(encoder, few_shot, preprocessing=Preprocessing(image_size=image_size), workers=workers)
    labels = np.asarray(few_shot.labels)[found.kept]
    return class_prototypes(found.values[labels >= 0], labels[labels >= 0], classes, centered=True)


def _summary(rows: Sequence[Row]) -> str:
    central, entropy = (spread_of([row[name] for row in rows]).mean for name in ("central", "entropy"))
    return f"central {100 * central:.0f} %, entropy {entropy:.2f}"
