"""Whether two images show the same picture, after what programs do to files: compared on pixels.

The pictures are brought onto each other, and their details are correlated where they overlap. First as they are, and
mirrored, at one size; then by features (ORB, Rublee et al., ICCV 2011, matched both ways; a similarity transform by
RANSAC), refined by ECC (Evangelidis & Psarakis, PAMI 2008). "Details" are a band of spatial frequencies: photos of two
garments are alike in their coarse shapes, but not in their folds.

Same: recompressed, resized, cropped to 60 % of the area or more, mirrored, turned by some degrees, with a border,
brighter, darker, of another contrast, color temperature or gamma, gray. Color is not compared: the picture of an
object that a program recolored is the same, too. Frames of a camera are the same while no more than 12 % of the
detailed area has changed. Another photo of the same things is not: folds, shadows and perspective differ.

Images without detail (blank, black, overexposed) are the same only if they have nearly the same values throughout.
Images under `TINY` pixels have too few details to tell them apart, and are the same only if their values are.
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
"""Longer side in pixels at which images are compared; smaller ones are compared as they are."""

TINY: Final = 24
"""Shorter side in pixels below which only equal values count."""

SAME: Final = 0.88
"""Least correlation of the details, and least share of the detailed area that must agree. Chosen on one half of the
classes of the clothing photos (docs/results/duplicates.md): made copies reached 0.94 and more, photos of other things
0.83 and less."""

SAME_UNGUIDED: Final = 0.95
"""The same where a transform was sought without features, as in small images: it fits one ship onto another."""

_POINTS: Final = 200
_INLIERS: Final = 12
"""Features of an image; matched pairs that must fit one transform before pictures are compared under it."""

_FAR: Final = 64
"""Bits of 256 in which descriptors of one feature differ at most."""

_OVERLAP: Final = (0.6, 0.45)
"""Least overlap as a share of the smaller picture's area and of the larger one's."""

_THUMB: Final = 24
_ALIKE: Final = 0.8
"""Side of a thumbnail, and the correlation of two from which on pictures may lie on each other as they are."""

_DISTORTED: Final = 1.12
"""Largest ratio of two directions' scales in a refined transform: a free one fits any silhouette onto another."""

_TEXTURE: Final = 4.0
_LOCAL: Final = 0.6
"""Mean square of the details around a place from which on it is compared, and the correlation there that agrees."""

_WHOLE: Final = 0.96
_TURNED: Final = 0.8
_RELIT: Final = 0.08
_RESIZED: Final = 0.04
"""What is told: an overlap below this, degrees, logarithms of contrast and of scale."""

_BLANK: Final = 1.0
"""Standard deviation of the details, in levels of 255, below which an image has none."""

_EQUAL: Final = 3.0
_SHAPE: Final = 0.15
"""Largest mean difference, in levels of 255, of images without detail that count as the same, and largest logarithm of
the ratio of their aspects."""

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
"""What is compared of an image: width times height, bytes of its file, whether it has color, whether it lacks details,
its mean color, a digest of its pixels, the gray picture in the upper left corner, how many features it has and where,
their descriptors, and those in the mirrored picture."""


class Match(NamedTuple):
    """Two images that show the same picture."""

    similarity: float
    """Correlation of the details where they overlap, 1 for equal ones."""
    how: str
    """What was done to one of them, in words with commas."""


class _Fit(NamedTuple):
    """How well one picture lies on another."""

    transform: NDArray[np.float64]
    """(2, 3), from places in the second picture (mirrored if so said) to the first."""
    mirrored: bool
    similarity: float
    agreeing: float
    """Share of the detailed area."""
    of_smaller: float
    of_larger: float
    """Overlap as a share of each picture's area."""

    def same(self, least: float) -> bool:
        """Whether that is enough."""
        wide = self.of_smaller >= _OVERLAP[0] and self.of_larger >= _OVERLAP[1]
        return wide and self.similarity >= least and self.agreeing >= SAME


def look(image: NDArray[np.uint8], *, pixels: int | None = None, size: int = 0) -> NDArray[Any]:
    """What is compared of an image.

    Args:
        image: (H, W, 3) RGB.
        pixels: Width times height of the whole image, if this is a reduced one.
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
    """Width times height of a whole image, of which `image` may be a reduced copy, and the bytes of its file."""
    pixels = image.shape[0] * image.shape[1]
    if file is None:
        return pixels, 0
    try:
        size = file.stat().st_size
        with Image.open(file, formats=formats()) as opened:
            return opened.width * opened.height, size
    except Exception:  # noqa: BLE001  # what broken files raise; the picture was decoded all the same
        return pixels, 0


def same_picture(one: NDArray[Any], other: NDArray[Any]) -> Match | None:
    """How alike two images are, or None if they do not show the same picture. The order of the two does not matter.

    Args:
        one: What `look` gives.
        other: The same of another image.

    Example:
        >>> photo = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        >>> same_picture(look(photo), look(photo[:, ::-1])).how
        'mirrored'
    """
    if one["digest"] == other["digest"]:
        return Match(1.0, "same pixels" if one["pixels"] == other["pixels"] else "resized")
    # The picture with more pixels stays, so that details of the other one are made smaller and not blurred.
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
    """Ways in which the second picture may lie on the first, from the cheapest on, and how well they must fit."""
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
    """(P, 2) places and (2, P, 32) descriptors of features, and of the same ones in the mirrored picture."""
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
    """The similarity transform from the second picture, mirrored or not, to the first that enough features agree on."""
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
    """The affine transform near `start` under which the pictures correlate most; None if it distorts."""
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
    """How well the second picture lies on the first."""
    shape = (a.shape[1], a.shape[0])
    covered = cv2.warpAffine(np.ones_like(b), transform, shape, flags=cv2.INTER_NEAREST) > 0
    area = b.size * abs(np.linalg.det(transform[:, :2]))
    overlap = float(covered.sum())
    # Beyond the second picture's edge the first one goes on, so that the edge is no detail.
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
    """What was done to one of two pictures; the first one has no fewer pixels."""
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
    """Spatial frequencies between those of noise and coding, and those of shapes and light."""
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
    """Whether two pictures of one shape have nearly the same values, at the size of the smaller."""
    if abs(np.log(a.shape[0] * b.shape[1] / (a.shape[1] * b.shape[0]))) > _SHAPE:
        return False
    shape = (min(a.shape[1], b.shape[1]), min(a.shape[0], b.shape[0]))
    small = [cv2.resize(gray, shape, interpolation=cv2.INTER_AREA).astype(np.float32) for gray in (a, b)]
    return float(np.abs(small[0] - small[1]).mean()) <= _EQUAL
