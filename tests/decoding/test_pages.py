"""Pages of TIFF files as images of their own."""

import io
import struct

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import sdclr
from sdclr.data.sources import image_bytes, image_file, open_source
from sdclr.decoding.pages import tiff_pages
from sdclr.features.embeddings import EmbeddedImages, embeddings_of

PAGES = [(load_digits().images[number] * 15).astype(np.uint8).repeat(4, 0).repeat(4, 1) for number in range(5)]


def stack(path, pages=PAGES, **how):
    first, *others = (Image.fromarray(page) for page in pages)
    first.save(path, save_all=True, append_images=others, **how)
    return path


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "stacks"
    place.mkdir()
    stack(place / "b.tif")
    Image.fromarray(PAGES[0]).save(place / "a.tif")
    Image.fromarray(PAGES[1]).save(place / "c.png")
    return place


IDS = ["a.tif", "b.tif#1", "b.tif#2", "b.tif#3", "b.tif#4", "b.tif#5", "c.png"]


@pytest.mark.parametrize("how", [{}, {"compression": "tiff_lzw"}, {"big_tiff": True}])
def test_each_page_is_an_image(tmp_path, how):
    stack(tmp_path / "s.tif", **how)
    source = open_source(tmp_path)
    assert list(source.ids) == [f"s.tif#{number}" for number in range(1, 6)]
    for number, page in enumerate(PAGES):
        np.testing.assert_array_equal(source.image(number)[..., 0], page)
        assert image_file(source, number) is None
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(image_bytes(source, number)))), page)
        assert source.header(number).width == 32
    assert len({source.stored(number) for number in range(5)}) == 5


def test_a_file_of_one_page_keeps_its_name(folder):
    source = open_source(folder)
    assert list(source.ids) == IDS
    assert image_file(source, 0) == folder / "a.tif"
    assert source.image(0).shape == (32, 32, 3)
    assert sdclr.inspect_images(folder).sizes == {(32, 32): 7}


def test_thumbnails_and_masks_are_no_pages(tmp_path):
    path = stack(tmp_path / "pyramid.tif", PAGES[:3])
    data = bytearray(path.read_bytes())
    first, second, third = tiff_pages(path).values()
    for at, kind in ((second, 1), (third, 4)):
        (count,) = struct.unpack_from("<H", data, at)
        for entry in range(
            at + 2, at + 2 + 12 * count, 12
        ):  # the tag of the compression, which no page needs, is renamed
            if struct.unpack_from("<H", data, entry)[0] == 259:
                struct.pack_into("<HHII", data, entry, 254, 4, 1, kind)
    path.write_bytes(data)
    assert tiff_pages(path) == {}
    assert list(open_source(tmp_path).ids) == ["pyramid.tif"]
    assert first


def test_a_page_that_is_lost_is_listed_and_the_others_are_read(tmp_path):
    path = stack(tmp_path / "cut.tif", compression="tiff_lzw")
    fourth = tiff_pages(path)[4]
    path.write_bytes(path.read_bytes()[: fourth + 4])
    source = open_source(tmp_path)
    assert list(source.ids) == ["cut.tif#1", "cut.tif#2", "cut.tif#3", "cut.tif#4"]
    assert source.image(2)[..., 0].tolist() == PAGES[2].tolist()
    with pytest.raises(sdclr.BadImageError, match=r"cut\.tif#4"):
        source.image(3)
    assert [bad.id for bad in sdclr.inspect_images(tmp_path).unreadable] == ["cut.tif#4"]


def test_pages_are_limited(folder, monkeypatch):
    monkeypatch.setenv("SDCLR_MAX_PAGES", "4")
    source = open_source(folder)
    assert list(source.ids) == ["a.tif", "c.png"]
    (bad,) = source.skipped
    assert bad.id == "b.tif"
    assert bad.counted
    assert "more pages than the limit of 4; SDCLR_MAX_PAGES raises it" in bad.reason


@pytest.mark.parametrize("after", [8, 2**32 - 1])
def test_a_chain_that_turns_back_or_leads_away_ends(tmp_path, after):
    path = stack(tmp_path / "s.tif", PAGES[:2])
    data = bytearray(path.read_bytes())
    second = tiff_pages(path)[2]
    (count,) = struct.unpack_from("<H", data, second)
    struct.pack_into("<I", data, second + 2 + 12 * count, after)
    path.write_bytes(data)
    assert len(tiff_pages(path)) == (2 if after == 8 else 3)


def test_pages_in_a_manifest(folder):
    (folder / "list.csv").write_text("path,label,id\nb.tif,cell,x\na.tif,bare,y\nb.tif#2,cell,z\n")
    source = open_source(folder / "list.csv")
    assert list(source.ids) == ["x#1", "x#2", "x#3", "x#4", "x#5", "y", "z"]
    assert [source.classes[label] for label in source.labels] == ["cell"] * 5 + ["bare", "cell"]
    np.testing.assert_array_equal(source.image(6)[..., 0], PAGES[1])


def test_pages_of_embeddings_are_found(folder):
    vectors = np.eye(7, dtype=np.float32)
    source = EmbeddedImages(embeddings_of(vectors, [*IDS[:-1], "b.tif#9"], folder=folder))
    np.testing.assert_array_equal(source.image(2)[..., 0], PAGES[1])
    with pytest.raises(sdclr.BadImageError, match="no image file"):
        source.image(6)


def test_marks_of_pages_are_carried_out(folder, tmp_path):
    marks = tmp_path / "marks.csv"
    marks.write_text("id,mark\nb.tif#2,drop\nb.tif#4,keep\n")
    done = sdclr.apply_marks(marks, folder, links=tmp_path / "kept", how="copy")
    assert [picture.id for picture in done.images.kept] == [name for name in IDS if name != "b.tif#2"]
    kept = open_source(tmp_path / "kept" / "manifest.csv")
    assert list(kept.ids) == [name for name in IDS if name != "b.tif#2"]
    np.testing.assert_array_equal(kept.image(3)[..., 0], PAGES[3])


def test_pages_are_mined_shown_and_chosen(folder, tmp_path):
    vectors = np.random.default_rng(0).random((7, 8), dtype=np.float32)
    scores = sdclr.mine(folder, encoder=vectors, out=tmp_path / "mined")
    assert set(scores.ids) == set(IDS)
    page = sdclr.write_page(tmp_path / "page.html", scores, folder).read_text()
    assert "b.tif#3" in page
    assert set(sdclr.select(folder, "all", encoder=vectors, out=tmp_path / "mined").ids) == set(IDS)
