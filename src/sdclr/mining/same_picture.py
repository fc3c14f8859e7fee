"""Check on pixels whether two images show the same picture, possibly edited by a program.

The pictures are aligned, and their details are correlated in the overlap. First they are compared at one size, as they
are and mirrored. Then they are aligned by features (ORB, Rublee et al., ICCV 2011, matched both ways; a similarity
transform by RANSAC), refined by ECC (Evangelidis & Psarakis, PAMI 2008). "Details" are a band of spatial frequencies:
photos of two garments have similar coarse shapes, but different folds.

Same: recompressed, resized, cropped to 60 % of the area or more, mirrored, rotated by a few degrees, with a border,
brighter, darker, with other contrast, color temperature or gamma, gray. Color is not compared, so a recolored picture
is also the same. Camera frames are the same if at most 12 % of the detailed area has changed. Another photo of the same
objects is different: folds, shadows and perspective differ.

Images without details (blank, black, overexposed) are the same only if their values are nearly equal everywhere. So are
images with a side under `TINY` pixels, which have too few details to compare.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sdclr.decoding.formats import formats

SIDE: Final = 160
"""Maximum longer side in pixels for comparison; smaller images are not resized."""

TINY: Final = 24
"""Minimum shorter side in pixels to compare details; smaller images must have equal values."""

SAME: Final = 0.88
"""Minimum correlation of the details, and minimum share of the detailed area that must agree. Chosen on half of the
classes of the clothing photos (docs/results/duplicates.md): synthetic copies reached 0.94 and more, photos of other
objects 0.83 and less."""

SAME_UNGUIDED: Final = 0.95
"""Minimum correlation without features, as in small images, where a transform can align different ships."""

_POINTS: Final = 200
_INLIERS: Final = 12
"""Maximum number of features per image, and minimum number of matched pairs that fit one transform."""

_FAR: Final = 64
"""Maximum number of different bits, of 256, between descriptors of one feature."""

_OVERLAP: Final = (0.6, 0.45)
"""Minimum overlap as a share of the area of the smaller and of the larger picture."""

_THUMB: Final = 24
_ALIKE: Final = 0.8
"""Side of a thumbnail, and minimum correlation of two thumbnails to compare pictures without alignment."""

_DISTORTED: Final = 1.12
"""Maximum ratio of the two scales of a refined transform: an unrestricted one fits any silhouette onto another."""

_TEXTURE: Final = 4.0
_LOCAL: Final = 0.6
"""Minimum mean square of the local details to compare a place, and minimum local correlation to agree."""

_WHOLE: Final = 0.96
_TURNED: Final = 0.8
_RELIT: Final = 0.08
_RESIZED: Final = 0.04
"""Thresholds to report an edit: overlap below this, degrees, logarithms of contrast and of scale."""

_BLANK: Final = 1.0
"""Minimum standard deviation of the details, in levels of 255; images below have none."""

_EQUAL: Final = 3.0
_SHAPE: Final = 0.15
"""For images without details to be the same: maximum mean difference in levels of 255, and maximum logarithm of the
ratio of their aspect ratios."""

LOOK: Final = np.dtype(
    [
        ("pixels", "i8"),
        ("bytes", "i8"),
        ("colored", "?"),
        ("blank", "?"),
        ("mean", "f4", (3,)),
        ("digest", "S32"),
        ("height", "u2"),
        ("width", "u2"),
        ("gray", "u1", (SIDE, SIDE)),
        ("points", "u2"),
        ("places", "f4", (_POINTS, 2)),
        ("descriptors", "u1", (2, _POINTS, 32)),
    ]
)
"""Data of an image for comparison: width times height, bytes of its file, whether it has color, whether it lacks
details, its mean color, a digest of its pixels, the gray picture in the upper left corner, number and positions of its
features, and their descriptors in the picture and in the mirrored one."""


class Match(NamedTuple):
    """Two images that show the same picture."""

    similarity: float
    """Correlation of the details in the overlap, 1 for equal ones."""
    how: str
    """Comma-separated edits between the two."""


class _Fit(NamedTuple):
    """Quality of the alignment of two pictures."""

    transform: NDArray[np.float64]
    """(2, 3), from positions in the second picture (mirrored if `mirrored`) to the first."""
    mirrored: bool
    similarity: float
    agreeing: float
    """Share of the detailed area that agrees."""
    of_smaller: float
    of_larger: float
    """Overlap as a share of each picture's area."""

    def same(self, least: float) -> bool:
        """Whether the overlap, the correlation and the agreeing area are large enough."""
        wide = self.of_smaller >= _OVERLAP[0] and self.of_larger >= _OVERLAP[1]
        return wide and self.similarity >= least and self.agreeing >= SAME


def look(image: NDArray[np.uint8], *, pixels: int | None = None, size: int = 0) -> NDArray[Any]:
    """Compute the data of an image for comparison.

    Args:
        image: (H, W, 3) RGB.
        pixels: Width times height of the original image, if this one is reduced.
        size: Bytes of its file, if it has one.

    Returns:
        A record of type `LOOK`, with shape ().
    """
    height, width = image.shape[:2]
    small = image
    if max(height, width) > SIDE:
        factor = SIDE / max(height, width)
        shape = (max(1, round(width * factor)), max(1, round(height * factor)))
        small = cv2.resize(image, shape, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    gray = np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), dtype=np.uint8)
    record = np.zeros((), dtype=LOOK)
    record["pixels"], record["bytes"] = height * width if pixels is None else pixels, size
    red, green, blue = cv2.split(small)
    highest, lowest = cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue)
    record["mean"] = cv2.mean(small)[:3]
    record["colored"] = cv2.mean(cv2.subtract(highest, lowest))[0] > _EQUAL
    record["blank"] = float(_details(gray).std()) < _BLANK
    record["digest"] = hashlib.blake2b(
        np.ascontiguousarray(image).tobytes() + repr(image.shape).encode(), digest_size=16
    ).hexdigest()
    record["height"], record["width"] = gray.shape
    record["gray"][: gray.shape[0], : gray.shape[1]] = gray
    places, descriptors = _features(gray)
    record["points"] = len(places)
    record["places"][: len(places)] = places
    record["descriptors"][:, : len(places)] = descriptors
    return record


def full_size(file: Path | None, image: NDArray[np.uint8]) -> tuple[int, int]:
    """Width times height of the original image, which `image` may be a reduced copy of, and the bytes of its file."""
    pixels = image.shape[0] * image.shape[1]
    if file is None:
        return pixels, 0
    try:
        size = file.stat().st_size
        with Image.open(file, formats=formats()) as opened:
            return opened.width * opened.height, size
    except Exception:  # noqa: BLE001  # broken files raise anything, but the picture was decoded
        return pixels, 0


def same_picture(one: NDArray[Any], other: NDArray[Any]) -> Match | None:
    """Match of two images, or None if they do not show the same picture. The order of the two does not matter.

    Args:
        one: The result of `look`.
        other: The result of `look` for another image.

    Example:
        >>> photo = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        >>> same_picture(look(photo), look(photo[:, ::-1])).how
        'mirrored'
    """
    if one["digest"] == other["digest"]:
        return Match(1.0, "same pixels" if one["pixels"] == other["pixels"] else "resized")
    # The picture with more pixels is the reference, so that the other one is usually shrunk and not blurred.
    first, second = sorted((one, other), key=lambda record: (-int(record["pixels"]), record["digest"]))
    a, b = _gray(first), _gray(second)
    blank = bool(first["blank"]) + bool(second["blank"])
    if blank or min(*a.shape, *b.shape) < TINY:
        if blank != 1 and np.abs(first["mean"] - second["mean"]).max() <= _EQUAL and _nearly_equal(a, b):
            return Match(1.0, _how(first, second, None))
        return None
    for fit, least in _fits(first, second, a, b):
        if fit.same(least):
            return Match(round(fit.similarity, 4), _how(first, second, fit))
    return None


def _fits(
    first: NDArray[Any], second: NDArray[Any], a: NDArray[np.uint8], b: NDArray[np.uint8]
) -> Iterator[tuple[_Fit, float]]:
    """Possible alignments of the second picture with the first, cheapest first, and their minimum correlation."""
    sides = (b, np.ascontiguousarray(b[:, ::-1]))
    eye = np.array([[a.shape[1] / b.shape[1], 0, 0], [0, a.shape[0] / b.shape[0], 0]], dtype=np.float64)
    thumb = _thumbnail(a)
    alike = [_correlation(thumb, _thumbnail(side)) for side in sides]
    for mirrored, side in enumerate(sides):
        if alike[mirrored] >= _ALIKE:
            yield _fit(a, side, eye, mirrored=bool(mirrored)), SAME
    few = min(int(first["points"]), int(second["points"])) < 3 * _INLIERS
    for mirrored, side in enumerate(sides):
        start = eye if few else _by_features(first, second, mirrored)
        if start is None or (few and alike[mirrored] < _ALIKE / 2):
            continue
        refined = _refined(a, side, start)
        if refined is not None:
            yield _fit(a, side, refined, mirrored=bool(mirrored)), SAME_UNGUIDED if few else SAME


def _features(gray: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """(P, 2) positions of features, and (2, P, 32) descriptors in the picture and in the mirrored one."""
    if min(gray.shape) < 2 * TINY:
        return np.zeros((0, 2), np.float32), np.zeros((2, 0, 32), np.uint8)
    orb = cv2.ORB.create(nfeatures=_POINTS, nlevels=5, edgeThreshold=15, fastThreshold=10)
    found, descriptors = orb.detectAndCompute(gray, None)
    if not found:
        return np.zeros((0, 2), np.float32), np.zeros((2, 0, 32), np.uint8)
    width = gray.shape[1]
    for number, point in enumerate(found):
        point.pt, point.angle = (width - 1 - point.pt[0], point.pt[1]), (180 - point.angle) % 360
        point.class_id = number
    turned, mirrored = orb.compute(np.ascontiguousarray(gray[:, ::-1]), found)
    rows = [point.class_id for point in turned][:_POINTS]  # points near the edge may be left out
    places = np.array([(width - 1 - point.pt[0], point.pt[1]) for point in turned][:_POINTS], dtype=np.float32)
    return places.reshape(-1, 2), np.stack([descriptors[rows], mirrored[:_POINTS]])


def _by_features(first: NDArray[Any], second: NDArray[Any], mirrored: int) -> NDArray[np.float64] | None:
    """Similarity transform from the second picture, mirrored or not, to the first; None if too few features agree."""
    here, there = int(first["points"]), int(second["points"])
    matcher = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True)
    pairs = matcher.match(second["descriptors"][mirrored][:there], first["descriptors"][0][:here])
    pairs = [pair for pair in pairs if pair.distance <= _FAR]
    if len(pairs) < _INLIERS:
        return None
    source = second["places"][[pair.queryIdx for pair in pairs]]
    if mirrored:
        source = np.stack([int(second["width"]) - 1 - source[:, 0], source[:, 1]], axis=1)
    target = first["places"][[pair.trainIdx for pair in pairs]]
    cv2.setRNGSeed(0)
    found, inliers = cv2.estimateAffinePartial2D(source, target, ransacReprojThreshold=3, maxIters=500)
    if found is None or int(inliers.sum()) < _INLIERS:
        return None
    return np.asarray(found, dtype=np.float64)


def _refined(a: NDArray[np.uint8], b: NDArray[np.uint8], start: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """The affine transform near `start` with the highest correlation; None if it distorts."""
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 1e-4)
    inverse = np.asarray(cv2.invertAffineTransform(start), dtype=np.float32)
    try:
        _, found = cv2.findTransformECC(a, b, inverse, cv2.MOTION_AFFINE, stop, np.ones_like(b), 5)
    except cv2.error:  # the pictures do not overlap, or the search does not converge
        return None
    transform = np.asarray(cv2.invertAffineTransform(found), dtype=np.float64)
    long, short = np.linalg.svd(transform[:, :2], compute_uv=False)
    return transform if short > 0 and long / short <= _DISTORTED else None


def _fit(a: NDArray[np.uint8], b: NDArray[np.uint8], transform: NDArray[np.float64], *, mirrored: bool) -> _Fit:
    """Alignment quality of the second picture on the first."""
    shape = (a.shape[1], a.shape[0])
    covered = cv2.warpAffine(np.ones_like(b), transform, shape, flags=cv2.INTER_NEAREST) > 0
    area = b.size * abs(np.linalg.det(transform[:, :2]))
    overlap = float(covered.sum())
    # Fill the area outside the second picture with the first one, so that the edge is not a detail.
    moved = cv2.warpAffine(b, transform, shape, flags=cv2.INTER_LINEAR)
    details = _details(a), _details(np.where(covered, moved, a))
    inside = cv2.erode(np.pad(covered.astype(np.uint8), 1), np.ones((9, 9), np.uint8))[1:-1, 1:-1] > 0
    box = tuple(cv2.blur(x * y, (15, 15)) for x, y in ((details[0],) * 2, (details[1],) * 2, details))
    textured = inside & (np.maximum(box[0], box[1]) > _TEXTURE)
    agree = box[2] > _LOCAL * np.sqrt(np.maximum(box[0] * box[1], 1e-6))
    count = int(textured.sum())
    return _Fit(
        transform=transform,
        mirrored=mirrored,
        similarity=_correlation(details[0][inside], details[1][inside]),
        agreeing=float(agree[textured].sum()) / count if count else 0.0,
        of_smaller=overlap / min(a.size, max(area, 1.0)),
        of_larger=overlap / max(a.size, area),
    )


def _how(first: NDArray[Any], second: NDArray[Any], fit: _Fit | None) -> str:
    """Edits between two pictures, the first of which has at least as many pixels."""
    words = []
    if fit is None:
        scale = np.sqrt(int(first["pixels"]) / max(1, int(second["pixels"])))
    else:
        a, b = _gray(first), _gray(second)
        b = np.ascontiguousarray(b[:, ::-1]) if fit.mirrored else b
        linear = fit.transform[:, :2]
        shrunk = [np.sqrt(gray.size / int(record["pixels"])) for gray, record in ((a, first), (b, second))]
        scale = np.sqrt(abs(np.linalg.det(linear))) * shrunk[1] / shrunk[0]
        covered = cv2.warpAffine(np.ones_like(b), fit.transform, a.shape[::-1], flags=cv2.INTER_NEAREST) > 0
        moved = cv2.warpAffine(b, fit.transform, a.shape[::-1])
        words += ["mirrored"] * fit.mirrored
        if fit.of_larger < _WHOLE:
            outside = a[~covered]
            plain = outside.size > 0 and float(np.median(np.abs(outside - np.median(outside)))) < _EQUAL
            words.append("border" if plain else "cropped")
        if abs(np.degrees(np.arctan2(linear[1, 0] - linear[0, 1], linear[0, 0] + linear[1, 1]))) > _TURNED:
            words.append("rotated")
        x, y = moved[covered].astype(np.float64), a[covered].astype(np.float64)
        gain = y.std() / max(x.std(), 1e-6)
        if abs(np.log(max(gain, 1e-6))) > _RELIT or abs(x.mean() - y.mean()) > 2 * _EQUAL:
            words.append("brightness")
    if abs(np.log(scale)) > _RESIZED:
        words.append("resized")
    if bool(first["colored"]) != bool(second["colored"]):
        words.append("gray")
    return ", ".join(words) or "recompressed"


def _gray(record: NDArray[Any]) -> NDArray[np.uint8]:
    gray: NDArray[np.uint8] = record["gray"][: int(record["height"]), : int(record["width"])]
    return np.ascontiguousarray(gray)


def _details(gray: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Band of spatial frequencies between noise and compression artifacts, and shapes and illumination."""
    values = gray.astype(np.float32)
    return np.asarray(cv2.GaussianBlur(values, (0, 0), 1.0) - cv2.GaussianBlur(values, (0, 0), 4.0))


def _thumbnail(gray: NDArray[np.uint8]) -> NDArray[np.float32]:
    small = cv2.resize(gray, (_THUMB, _THUMB), interpolation=cv2.INTER_AREA)
    return np.asarray(small, dtype=np.float32)


def _correlation(x: NDArray[np.float32], y: NDArray[np.float32]) -> float:
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.sqrt(np.vdot(x, x) * np.vdot(y, y)))
    return float(np.vdot(x, y)) / scale if scale > 0 else 0.0


def _nearly_equal(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> bool:
    """Whether two pictures have similar aspect ratios and nearly equal values at the size of the smaller one."""
    if abs(np.log(a.shape[0] * b.shape[1] / (a.shape[1] * b.shape[0]))) > _SHAPE:
        return False
    shape = (min(a.shape[1], b.shape[1]), min(a.shape[0], b.shape[0]))
    small = [cv2.resize(gray, shape, interpolation=cv2.INTER_AREA).astype(np.float32) for gray in (a, b)]
    return float(np.abs(small[0] - small[1]).mean()) <= _EQUAL
