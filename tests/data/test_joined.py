"""Own and outside images as one source."""

import numpy as np
import pytest
from PIL import Image

from sdclr.data.joined import JoinedSource
from sdclr.data.sources import (
    ArraySource,
    Source,
    SubsetSource,
    attributes_of,
    fingerprint,
    held_image,
    image_file,
    open_source,
    shrunk_image,
    stored_image,
)
from sdclr.errors import BadImageError

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)


def test_own_images_come_first_and_outside_ones_have_no_labels():
    own = ArraySource(PIXELS[:2], labels=[1, 0], ids=["a", "b"], classes=["x", "y"], name="own")
    joined = JoinedSource(own, ArraySource(PIXELS[2:], labels=[0, 0, 0], ids=["a", "b", "c"], name="other"))
    assert isinstance(joined, Source)
    assert (len(joined), joined.name, joined.classes) == (5, "own+other", ("x", "y"))
    assert list(joined.ids) == ["a", "b", "outside/a", "outside/b", "outside/c"]
    assert joined.labels.tolist() == [1, 0, -1, -1, -1]
    assert joined.outside.tolist() == [False, False, True, True, True]
    for index in range(5):
        np.testing.assert_array_equal(joined.image(index), PIXELS[index])
        np.testing.assert_array_equal(held_image(joined, index), PIXELS[index])
        np.testing.assert_array_equal(shrunk_image(joined, index, 4), shrunk_image(ArraySource(PIXELS), index, 4))
    assert JoinedSource(ArraySource(PIXELS[:2]), own).labels is None
    part = SubsetSource(joined, [4, 1])
    np.testing.assert_array_equal(part.image(0), PIXELS[4])


def test_ids_stay_unique_and_tell_other_outside_images_apart():
    own = ArraySource(PIXELS[:2], ids=["outside/a", "b"])
    joined = JoinedSource(own, ArraySource(PIXELS[2:4], ids=["a", "b"]))
    assert list(joined.ids) == ["outside/a", "b", "outside-2/a", "outside-2/b"]
    other = JoinedSource(own, ArraySource(PIXELS[2:4], ids=["a", "c"]))
    assert len({fingerprint(source) for source in (own, joined, other)}) == 3


def test_files_keep_their_places_and_unreadable_ones_their_new_names(tmp_path):
    birds = tmp_path / "birds"
    for folder in ("owl", "jay"):
        (birds / folder).mkdir(parents=True)
        Image.new("RGB", (5, 4), "red").save(birds / folder / "a.png")
    (birds / "owl" / "notes.txt").write_text("hoot")
    (birds / "owl" / "bad.png").write_bytes(b"")
    source = open_source(birds)
    joined = JoinedSource(ArraySource(PIXELS[:1], ids=["one"]), source)
    assert image_file(joined, 0) is None
    assert stored_image(joined, 0) is None
    bad = list(joined.ids).index("outside/owl/bad.png")
    assert image_file(joined, bad) == birds / "owl" / "bad.png"
    assert [entry.id for entry in joined.skipped] == ["outside/owl/notes.txt"]
    for read in (lambda: joined.image(bad), lambda: shrunk_image(joined, bad, 8)):
        with pytest.raises(BadImageError, match="zero bytes") as caught:
            read()
        assert caught.value.image_id == "outside/owl/bad.png"


def test_attributes_of_outside_images_are_unknown():
    own = ArraySource(PIXELS[:2])
    own.attributes, own.attribute_names = np.array([[1, 0], [0, 1]]), ("red", "blue")
    found = attributes_of(JoinedSource(own, ArraySource(PIXELS[2:4])))
    assert found.names == ("red", "blue")
    assert found.values.tolist() == [[1, 0], [0, 1], [-1, -1], [-1, -1]]
