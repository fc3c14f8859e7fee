import numpy as np
import pytest

from sdclr.data.scan import load_images
from sdclr.data.sources import ArraySource, Source, attributes_of, digits
from sdclr.errors import BadImageError, InputError
from sdclr.longtail.mosaics import MosaicSource, mosaics, tile_shares

LABELS = np.arange(40) % 4
SHADES = ArraySource(
    np.broadcast_to(np.arange(40, dtype=np.uint8)[:, None, None], (40, 2, 3)),
    labels=LABELS,
    classes=["a", "b", "c", "d"],
)


def test_a_mosaic_shows_its_tiles_in_their_places():
    source = MosaicSource(SHADES, np.array([[0, 1, 2, 5], [4, 4, 8, 12]]), "m")
    assert isinstance(source, Source)
    assert source.image(0).shape == (4, 6, 3)
    assert source.image(0)[::2, ::3, 0].tolist() == [[0, 1], [2, 5]]
    assert attributes_of(source).names == ("a", "b", "c", "d")
    assert source.attributes.tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]
    assert load_images(source).images.shape == (2, 3, 4, 6)


@pytest.mark.parametrize(("imbalance", "grid"), [(1, 2), (50, 2), (100, 3)])
def test_attributes_are_as_long_tailed_as_asked_for(imbalance, grid):
    shares = tile_shares(10, imbalance, tiles=grid * grid)
    shown = 1 - (1 - shares) ** (grid * grid)
    assert shares.sum() == pytest.approx(1)
    np.testing.assert_allclose(shown[:-1] / shown[1:], imbalance ** (1 / 9), rtol=1e-6)

    source = mosaics(digits(), 20_000, grid=grid, imbalance=imbalance, seed=3)
    counts = np.sort(source.attributes.sum(axis=0, dtype=int))[::-1]
    deviation = np.sqrt(20_000 * shown * (1 - shown))
    assert (np.abs(counts - 20_000 * shown) < 5 * deviation + 1).all()


def test_every_image_of_a_class_is_equally_likely():
    tiles = mosaics(SHADES, 10_000, imbalance=1).tiles
    assert np.bincount(tiles.ravel(), minlength=40).min() > 800  # 1,000 expected, deviation 31
    assert np.bincount(tiles.ravel(), minlength=40).max() < 1200


def test_the_seed_decides_everything():
    first, again, other = (mosaics(SHADES, 50, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.tiles, again.tiles)
    assert not np.array_equal(first.tiles, other.tiles)
    # Written once: the draw stays the same from release to release.
    assert mosaics(SHADES, 2, seed=0).tiles.tolist() == [[35, 2, 31, 7], [35, 22, 11, 19]]


def test_one_seed_gives_one_class_order():
    orders = [np.argsort(-mosaics(SHADES, count, seed=5).attributes.sum(axis=0)).tolist() for count in (3000, 5000)]
    assert orders[0] == orders[1]
    assert len({tuple(np.argsort(-mosaics(SHADES, 3000, seed=s).attributes.sum(axis=0))) for s in range(6)}) > 1


def test_unlabeled_images_are_not_used():
    labels = np.where(LABELS == 3, -1, LABELS)
    source = mosaics(ArraySource(np.zeros((40, 2, 2), np.uint8), labels=labels), 200)
    assert set(labels[source.tiles].ravel()) == {0, 1, 2}
    assert source.attribute_names == ("0", "1", "2")


def test_errors():
    with pytest.raises(InputError, match="has no labels; mosaics need labeled images"):
        mosaics(ArraySource(np.zeros((4, 2, 2), np.uint8)), 3)
    with pytest.raises(InputError, match="0 mosaics of 2 x 2 tiles"):
        mosaics(SHADES, 0)
    with pytest.raises(InputError, match=r"imbalance is 0\.5"):
        mosaics(SHADES, 3, imbalance=0.5)
    with pytest.raises(InputError, match="image 1 has no label"):
        MosaicSource(ArraySource(np.zeros((2, 2, 2), np.uint8), labels=[0, -1]), np.array([[0, 1, 0, 0]]), "m")


def test_tiles_of_different_sizes_make_a_bad_image():
    class Odd:
        name, ids, labels, classes = "odd", ("a", "b"), np.array([0, 0]), ()

        def __len__(self):
            return 2

        def image(self, index, *, min_side=None):  # noqa: ARG002  # as the protocol has it
            return np.zeros((2, 2 + index, 3), np.uint8)

    source = MosaicSource(Odd(), np.array([[0, 0, 0, 0], [0, 1, 0, 0]]), "m")
    assert source.image(0).shape == (4, 4, 3)
    with pytest.raises(BadImageError, match="m/00001: tiles of different sizes"):
        source.image(1)
