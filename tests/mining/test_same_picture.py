"""Whether two images show the same picture."""

import cv2
import numpy as np
import pytest

from sdclr.data.sources import SubsetSource, open_source
from sdclr.mining.same_picture import full_size, look, same_picture


def scene(seed, height=240, width=180):
    """A picture with details at many scales: shapes of random colors, softened, with grain."""
    random = np.random.default_rng(seed)
    image = np.full((height, width, 3), random.integers(60, 200, 3), dtype=np.uint8)
    for _ in range(60):
        center = (int(random.integers(width)), int(random.integers(height)))
        color = tuple(random.integers(0, 256, 3).tolist())
        cv2.ellipse(
            image, center, tuple(random.integers(4, 40, 2).tolist()), int(random.integers(180)), 0, 360, color, -1
        )
    grain = random.normal(0, 3, image.shape)
    return np.clip(cv2.GaussianBlur(image, (0, 0), 0.8) + grain, 0, 255).astype(np.uint8)


def jpeg(image, quality):
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)


def turned(image, degrees):
    height, width = image.shape[:2]
    return cv2.warpAffine(image, cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1), (width, height))


CHANGES = {
    "recompressed": lambda image: jpeg(image, 35),
    "resized": lambda image: cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
    "cropped": lambda image: image[20:215, 15:160],
    "mirrored": lambda image: image[:, ::-1],
    "brightness": lambda image: np.clip(image * 0.6 + 10, 0, 255).astype(np.uint8),
    "gray": lambda image: np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2),
    "rotated": lambda image: turned(image, 3),
    "border": lambda image: np.pad(image, ((20, 20), (15, 15), (0, 0)), constant_values=255),
    "mirrored, cropped": lambda image: image[20:215, 15:160][:, ::-1],
    "cropped, resized": lambda image: cv2.resize(
        image[20:215, 15:160], None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA
    ),
}


@pytest.mark.parametrize("how", CHANGES)
def test_a_changed_copy_is_the_same_picture_whatever_the_order(how):
    image = scene(0)
    one, other = look(image), look(np.ascontiguousarray(CHANGES[how](image)))
    match = same_picture(one, other)
    assert match is not None
    assert match.how == how
    assert 0.88 <= match.similarity <= 1
    assert same_picture(other, one) == match


def test_other_pictures_are_not():
    looks = [look(scene(seed)) for seed in range(12)]
    assert not any(same_picture(one, other) for one in looks for other in looks if one is not other)


def test_a_picture_of_which_a_quarter_changed_is_another():
    image, other = scene(0), scene(1)
    nearly, changed = image.copy(), image.copy()
    nearly[:60, :40] = other[:60, :40]
    changed[120:, 60:] = other[120:, 60:]
    assert same_picture(look(image), look(nearly)) is not None
    assert same_picture(look(image), look(changed)) is None


def test_equal_pixels_are_the_same_at_any_size():
    for side in (1, 3, 8, 32, 300):
        image = np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8)
        assert same_picture(look(image), look(image.copy())) == (1.0, "same pixels")


def test_images_without_detail_are_the_same_only_if_their_values_are():
    random = np.random.default_rng(0)
    black = [np.clip(random.normal(3, 1, (100, 80, 3)), 0, 255).astype(np.uint8) for _ in range(2)]
    white = np.full((100, 80, 3), 250, dtype=np.uint8)
    assert same_picture(look(black[0]), look(black[1])) is not None
    assert same_picture(look(black[0]), look(white)) is None
    assert same_picture(look(white), look(scene(0))) is None
    red, green = (np.full((100, 80, 3), color, dtype=np.uint8) for color in ((200, 0, 0), (0, 102, 0)))
    assert same_picture(look(red), look(green)) is None  # equally bright
    assert same_picture(look(white), look(np.full((50, 40, 3), 251, dtype=np.uint8))).how == "resized"


def test_noise_is_only_like_itself():
    noise = [np.random.default_rng(seed).integers(0, 256, (120, 120, 3), dtype=np.uint8) for seed in range(4)]
    looks = [look(image) for image in noise]
    assert not any(same_picture(one, other) for one in looks for other in looks if one is not other)


def test_digits_of_8_pixels_are_never_mixed_up():
    source = SubsetSource(open_source("digits"), np.arange(150))
    images = [source.image(index) for index in range(len(source))]
    looks = [look(image) for image in images]
    for one in range(len(looks)):
        for other in range(one):
            equal = np.abs(images[one].astype(int) - images[other]).mean() <= 3
            assert (same_picture(looks[one], looks[other]) is not None) == equal


def test_one_pixel_rows_and_columns_do_no_harm():
    strips = [np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8) for shape in ((1, 500, 3), (400, 2, 3))]
    assert same_picture(look(strips[0]), look(strips[1])) is None
    assert same_picture(look(strips[0]), look(strips[0] // 255)) is None


def test_a_file_says_how_large_the_whole_image_is(tmp_path):
    cv2.imwrite(str(tmp_path / "a.jpg"), scene(0))
    assert full_size(tmp_path / "a.jpg", np.zeros((2, 3, 3), np.uint8)) == (
        240 * 180,
        (tmp_path / "a.jpg").stat().st_size,
    )
    assert full_size(None, np.zeros((2, 3, 3), np.uint8)) == (6, 0)
    assert full_size(tmp_path / "gone.jpg", np.zeros((2, 3, 3), np.uint8)) == (6, 0)


def test_photos_of_one_kind_of_garment_are_not_mixed_up(shared_data):
    """Every pair of 16 photos of trousers, and a crop of each: 16 matches and no other."""
    source = open_source(f"{shared_data}/data/clothing:train")
    rows = [row for row, image_id in enumerate(source.ids) if image_id.startswith("pants/")][:16]
    photos = [source.image(row) for row in rows]
    whole = [look(photo) for photo in photos]
    crops = [look(np.ascontiguousarray(photo[20:-10, 10:-15][:, ::-1])) for photo in photos]
    same = {(a, b) for a, one in enumerate(whole) for b, other in enumerate(crops) if same_picture(one, other)}
    assert same == {(row, row) for row in range(16)}
    assert not any(same_picture(whole[a], whole[b]) for a in range(16) for b in range(a))
