"""Searching by example as a reader does it: in Chromium, on a page opened from disk."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from sdclr.data.sources import ArraySource
from sdclr.decoding.decode import decode_image
from sdclr.encoders import Preprocessing, load_encoder, wrap_encoder
from sdclr.features.extract import extract_features
from sdclr.features.view import evaluation_view
from sdclr.reporting.gallery import GalleryEntries, KindGroup, write_gallery
from sdclr.reporting.search_index import make_index

COUNT = 200
BAD = 11  # position of an image that is not scored
RANKED = np.random.default_rng(3).permutation(np.delete(np.arange(COUNT), BAD))  # the page's order


class Small(nn.Module):
    """Each operation that a browser can compute, with numbers of channels and pixels that four does not divide."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 10, 3, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(10)
        self.wide = nn.Conv2d(10, 22, 1)
        self.depthwise = nn.Conv2d(22, 22, 5, stride=2, padding=2, groups=22)
        self.narrow = nn.Conv2d(22, 10, 1)
        self.across = nn.Conv2d(10, 10, (1, 3), padding=(0, 1))
        self.last = nn.Conv2d(10, 70, 1)
        nn.init.uniform_(self.norm.running_mean, -1, 1)

    def forward(self, images: Any) -> Any:
        stem = nn.functional.relu6(self.norm(self.stem(nn.functional.pad(images, (0, 1, 0, 1)))))
        wide = nn.functional.hardswish(self.wide(nn.functional.max_pool2d(stem, 3, 2, 1)))
        narrow = self.narrow(nn.functional.silu(self.depthwise(wide)))
        summed = narrow + self.across(narrow)
        return nn.functional.relu(self.last(summed)).clamp(max=3).mean((2, 3))


def smooth(count: int, side: int, seed: int = 0) -> np.ndarray:
    """Images that differ in more than noise: a few soft spots of color in each."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(one).resize((side, side), Image.Resampling.BICUBIC)) for one in coarse])


def page_of(folder: Path, images: np.ndarray, encoder: Any, *, given: bool = True, **settings: Any) -> tuple[Path, Any]:
    """A page with a search, and the features that it searches."""
    source = ArraySource(images, ids=[f"set/{position:04d}.png" for position in range(COUNT)], name="made")
    features = extract_features(encoder, source, preprocessing=encoder.preprocessing).values.copy()
    features[BAD] = np.nan
    rank = np.zeros(COUNT, dtype=np.int64)
    rank[RANKED] = np.arange(1, COUNT)
    rarity = np.where(rank > 0, 1 - rank / COUNT, np.nan).astype(np.float32)
    entries = GalleryEntries(
        ids=source.ids,
        columns={},
        rarity=rarity,
        rank=rank,
        percentile=100 * rarity,
        kinds=np.where(rank > 0, 0, -1),
        groups=[KindGroup(kind=0, size=COUNT - 1, separation=1.0, medoid=0, rare=False)],
        odd=np.array([], dtype=np.int64),
        bad={source.ids[BAD]: "truncated"},
        score="distance",
    )
    known = {"features": features, "encoder": encoder} if given else {}
    return write_gallery(folder / "rare & odd.html", entries, source, title="Made", **known, **settings), features


@pytest.fixture(scope="module")
def encoder() -> Any:
    torch.manual_seed(0)
    return wrap_encoder(Small().eval(), image_size=37, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25))


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return smooth(COUNT, 40)


@pytest.fixture(scope="module")
def made(images: np.ndarray, encoder: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    return page_of(tmp_path_factory.mktemp("search"), images, encoder)


@pytest.fixture(scope="module")
def page_file(made: tuple[Path, Any]) -> Path:
    """What the fixture `page` opens."""
    return made[0]


def shown(page: Any) -> list[str]:
    return page.evaluate("[...tiles].sort((a, b) => a[0] - b[0]).map(([, tile]) => tile.title)")


def png(image: np.ndarray, kind: str = "PNG", **settings: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, **settings)
    return file.getvalue()


def choose(page: Any, data: bytes, name: str = "query.png") -> None:
    page.set_input_files("#like-file", {"name": name, "mimeType": "image/png", "buffer": data})


def wait_for_like(page: Any, name: str) -> None:
    page.wait_for_selector(f"#like-chip[title='{name}']")


# An event with a file, as a drop or a paste gives it.
SEND = """([kind, place, data]) => {
  const files = new DataTransfer();
  files.items.add(new File([Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0))], "sent.png"));
  const settings = { dataTransfer: files, bubbles: true, cancelable: true };
  const event = kind === "paste" ? new ClipboardEvent("paste", settings) : new DragEvent(kind, settings);
  if (kind === "paste") Object.defineProperty(event, "clipboardData", { value: files }); // Firefox takes none of ours
  return document.querySelector(place).dispatchEvent(event);
}"""


def test_more_like_this_orders_the_list_as_numpy_does(page: Any, made: tuple[Path, Any]) -> None:
    index = make_index(made[1], RANKED)
    page.click("#tile-4")
    page.click("#detail >> text=More like this")
    name = f"set/{RANKED[4]:04d}.png"
    wait_for_like(page, name)
    similarities = index.similarities(index.row(np.array([4])))[0]
    order = page.evaluate("[...shown]")
    assert order[0] == 4
    assert sorted(order) == list(range(COUNT - 1))
    assert (np.diff(similarities[order[1:]]) <= 1e-6).all()
    np.testing.assert_allclose(page.evaluate("[...state.like.found]"), similarities, atol=1e-5)
    assert shown(page)[0] == name
    assert page.inner_text("#tile-1 .caption span") == f"{similarities[order[1]]:.3f}"
    assert page.inner_text("#shown-title") == "Most similar first"


def test_the_key_the_address_and_the_way_back(page: Any) -> None:
    page.focus("#grid")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("m")
    wait_for_like(page, f"set/{RANKED[1]:04d}.png")
    order = page.evaluate("[...shown]")
    page.wait_for_url("**#like=2", wait_until="commit")
    address = page.url
    page.focus("#like-chip button")
    page.keyboard.press("Enter")
    assert page.evaluate("[...shown]") == list(range(COUNT - 1))
    assert not page.is_visible("#like-chip")
    page.goto("about:blank")
    page.goto(address)
    wait_for_like(page, f"set/{RANKED[1]:04d}.png")
    assert page.evaluate("[...shown]") == order
    page.fill("#search", "set/00")  # filters still work, and keep the order
    kept = [row for row in order if page.evaluate(f"rows.ids[{row}]").startswith("set/00")]
    assert page.evaluate("[...shown]") == kept
    page.click("#reset")
    assert page.evaluate("[...shown]") == list(range(COUNT - 1))
    page.select_option("#sort", index=0)


@pytest.mark.parametrize("way", ["choose", "drop", "paste"])
def test_an_image_of_the_collection_finds_itself(page: Any, images: np.ndarray, way: str) -> None:
    data = png(images[RANKED[120]])
    if way == "choose":
        choose(page, data, "sent.png")
    else:
        place = "#like-field" if way == "drop" else "#grid"
        if way == "drop":
            assert not page.evaluate(SEND, ["dragover", place, base64.b64encode(data).decode()])  # taken over
            assert page.evaluate("$('like-field').classList.contains('over')")
        page.evaluate(SEND, [way, place, base64.b64encode(data).decode()])
    wait_for_like(page, "sent.png")
    assert page.evaluate("shown[0]") == 120
    assert float(page.inner_text("#tile-0 .caption span")) > 0.995
    assert page.inner_text("#like-status") == ""
    assert page.evaluate("!$('like-field').classList.contains('over')")


def test_features_are_those_of_torch(page: Any, made: tuple[Path, Any], encoder: Any) -> None:
    """An image of another size, so that it is cut; over white, and upright, as Python reads it."""
    index = make_index(made[1], RANKED)
    size = encoder.preprocessing
    picture = np.dstack([smooth(1, 300, seed=5)[0][:, :220], np.full((300, 220), 130, np.uint8)])
    turned = Image.Exif()
    turned[274] = 6
    files = {"clear.png": png(picture), "turned.jpg": png(picture[..., :3], "JPEG", quality=95, exif=turned)}
    for name, data in files.items():
        view = evaluation_view(decode_image(data, image_id=name), size)
        with torch.no_grad():
            features = encoder(torch.tensor(view).permute(2, 0, 1)[None]).numpy()
        expected = index.similarities(index.query(features))[0]
        choose(page, data, name)
        wait_for_like(page, name)
        np.testing.assert_allclose(page.evaluate("[...state.like.found]"), expected, atol=0.01)


def test_what_is_no_image_is_told_in_a_line(page: Any) -> None:
    choose(page, b"a,b\n1,2\n", "table.csv")
    page.wait_for_selector("#like-status.problem")
    assert page.inner_text("#like-status") == "This browser cannot read table.csv as an image."
    assert not page.is_visible("#like-chip")


@pytest.mark.parametrize(
    ("shape", "settings"),
    [
        ((60, 41), {}),
        ((340, 190), {"crop_pct": 0.875}),
        ((131, 343), {"crop_pct": 1.0, "interpolation": "bilinear"}),
        ((100, 97), {"crop_pct": 0.9, "interpolation": "lanczos"}),
        ((240, 170), {"crop_mode": "squash", "crop_pct": 0.95}),
    ],
)
def test_the_view_is_that_of_python(page: Any, shape: tuple[int, int], settings: dict[str, Any]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)  # noise shows every error
    preprocessing = Preprocessing(image_size=64, **settings)
    view = {
        "size": 64,
        "resized": preprocessing.resized_side,
        "squash": preprocessing.crop_mode == "squash",
        "small": 96,
        "filter": preprocessing.interpolation,
    }
    found = page.evaluate(
        """async ([view, data]) => {
          encoder.known = { view };
          const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
          return Array.from(await evaluationView(await pixelsOf(new File([bytes], "a.png"), "a.png")));
        }""",
        [view, base64.b64encode(png(image)).decode()],
    )
    difference = np.abs(np.array(found).reshape(64, 64, 3) - evaluation_view(image, preprocessing).astype(int))
    assert difference.max() <= 1
    assert difference.mean() < 0.01


@pytest.fixture
def opened(browser: Any) -> Iterator[Any]:
    """A window in which a test opens a page of its own."""
    context = browser.new_context(viewport={"width": 1300, "height": 800})
    yield context.new_page()
    context.close()


def test_without_features_there_is_no_search(opened: Any, images: np.ndarray, encoder: Any, tmp_path: Path) -> None:
    opened.goto(page_of(tmp_path, images, encoder, given=False)[0].as_uri())
    opened.click("#tile-1")
    assert opened.locator("#like-field").count() == 0
    assert "More like this" not in opened.inner_text("#detail")
    opened.keyboard.press("m")
    assert opened.evaluate("state.like") is None


def test_beyond_the_limit_the_page_names_the_command(
    opened: Any, images: np.ndarray, encoder: Any, tmp_path: Path
) -> None:
    file, _ = page_of(tmp_path, images, encoder, search_limit=1000)
    opened.goto(file.as_uri())
    opened.click("#tile-1")
    assert "sdclr neighbors" in opened.inner_text("#like-field")
    assert not opened.is_visible("#like-choose")
    assert "More like this" not in opened.inner_text("#detail")
    assert not list(tmp_path.rglob("search-*.js"))


def test_a_lost_script_is_told(opened: Any, images: np.ndarray, encoder: Any, tmp_path: Path) -> None:
    file, _ = page_of(tmp_path, images, encoder)
    for script in tmp_path.rglob("search-*.js"):
        script.unlink()
    opened.goto(file.as_uri())
    opened.click("#tile-1")
    opened.click("#detail >> text=More like this")
    opened.wait_for_selector("#like-status.problem")
    assert opened.inner_text("#like-status").startswith("The search could not be loaded")


def test_the_default_encoder_in_the_browser(opened: Any, images: np.ndarray, tmp_path: Path) -> None:
    encoder = load_encoder(image_size=64)
    file, features = page_of(tmp_path, images, encoder)
    opened.goto(file.as_uri())
    choose(opened, png(images[RANKED[33]]))
    wait_for_like(opened, "query.png")
    index = make_index(features, RANKED)
    expected = index.similarities(index.query(features[RANKED[33:34]]))[0]
    found = np.array(opened.evaluate("[...state.like.found]"))
    assert found.argmax() == 33
    np.testing.assert_allclose(found, expected, atol=0.02)
