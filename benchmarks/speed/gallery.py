"""Speed of the page of rare images with many images, in Chromium; and pictures of a page.

    python benchmarks/speed/gallery.py --data $SDCLR_DATA/data/cifar10 --folder /tmp/gallery --images 50000
    python benchmarks/speed/gallery.py --page runs/NAME/mine/rarest.html --picture docs/images/gallery.png

The first command shows CIFAR-10's images, repeated, with random scores, kinds, places on the map, near-duplicates and
images to label next. It times: writing the page; opening it until the first paint, and until the kinds and the first
pictures are drawn; drawing the map; a loop around half of the map; filters; scrolling by rank, a third of a screen per
frame; long jumps; and scrolling in another order, in which all visible pictures are on different sheets. It prints
JSON. Times are in milliseconds, except writing, which is in seconds.

The second command saves the first screen of a page, 1400 x 900 or `--size` pixels, in light colors or with `--dark` in
dark colors.
"""

import argparse
import json
import os
import platform
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from playwright.sync_api import Browser, Page, Playwright, ViewportSize, sync_playwright

from sdclr.data.sources import ArraySource, open_source
from sdclr.reporting.gallery import GalleryEntries, KindGroup, write_gallery

ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
KINDS = 300
ODD = 40
VIEWPORT = ViewportSize(width=1400, height=900)

SCROLL = """async ([frames, share]) => {
  document.getElementById("explorer").scrollIntoView();
  const times = [];
  let before = await new Promise(requestAnimationFrame);
  for (let frame = 0; frame < frames; frame += 1) {
    scrollBy(0, innerHeight * share);
    const now = await new Promise(requestAnimationFrame);
    times.push(now - before);
    before = now;
  }
  return times;
}"""

FIRST_PICTURE = """async () => {
  while (!document.querySelector(".kind .picture")) await new Promise(requestAnimationFrame);
  const sheet = new Image();
  sheet.src = /"(.*)"/.exec(document.querySelector(".kind .picture").style.backgroundImage)[1];
  await sheet.decode();
  await new Promise(requestAnimationFrame);
  await new Promise(requestAnimationFrame);
  return performance.now();  // since the page began to open
}"""

LOOP = """
  const loop = Array.from({ length: 60 }, (_, place) => [Math.cos(place / 9.6), Math.sin(place / 9.6)]);
  state.area = inside(loop.map(([x, y]) => [WIDE / 2 + (WIDE / 4) * x, WIDE / 2 + (WIDE / 4) * y]));
  update();
"""

DOTS = "for (let at = 0; at < 1000; at += 1) dotAt([(at * 37) % mapSide(), (at * 91) % mapSide()])"

TAKES = """async (act) => {
  const begin = performance.now();
  new Function(act)();
  await new Promise(requestAnimationFrame);
  await new Promise(requestAnimationFrame);
  return performance.now() - begin;
}"""


def entries(source: ArraySource) -> GalleryEntries:
    count = len(source)
    rng = np.random.default_rng(0)
    rarity = rng.gamma(4, 0.01, count).astype(np.float32)
    rank = np.empty(count, dtype=np.int64)
    rank[np.argsort(-rarity)] = np.arange(1, count + 1)
    kinds = np.minimum(rng.geometric(1 / 60, count) - 1, KINDS - 1)
    _, kinds, sizes = np.unique(kinds, return_inverse=True, return_counts=True)
    order = np.argsort(-sizes, kind="stable")
    kinds, sizes = np.argsort(order)[kinds], sizes[order]
    medoids = np.unique(kinds, return_index=True)[1]
    loss, forgetting = rng.normal(5, 1, count), rng.gamma(2, 0.1, count)
    columns = {"distance_10": rarity, "forgetting_0.5": forgetting, "loss": loss, "kind_size": sizes[kinds]}
    return GalleryEntries(
        ids=list(source.ids),
        columns={name: values.astype(np.float32) for name, values in columns.items()},
        rarity=rarity,
        rank=rank,
        percentile=(100 * (count - rank) / (count - 1)).astype(np.float32),
        kinds=kinds,
        groups=[
            KindGroup(kind=kind, size=int(size), separation=0.98, medoid=int(medoid), rare=size < count / 1000)
            for kind, (size, medoid) in enumerate(zip(sizes, medoids, strict=True))
        ],
        odd=np.argsort(rank)[:ODD],
        bad={},
        score="distance",
        projection=places(kinds, rng),
        duplicates=[tuple(group) for group in rng.permutation(count)[: 3 * (count // 100)].reshape(-1, 3).tolist()],
        label_next=rng.permutation(count)[:100],
    )


def places(kinds: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.float32]:
    """Random positions on the map, with one cluster per kind."""
    centers = rng.normal(size=(kinds.max() + 1, 2))
    return (centers[kinds] + 0.1 * rng.normal(size=(len(kinds), 2))).astype(np.float32)


def measured(page: Page, address: str) -> dict[str, Any]:
    page.goto(address)
    found: dict[str, Any] = {"first picture": page.evaluate(FIRST_PICTURE)}
    found["first paint"] = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    page.wait_for_timeout(1000)
    found["tiles on the page"] = page.locator(".tile").count()
    for name, share in (("scroll", 1 / 3), ("jump", 40.0)):
        found[name] = quantiles(page.evaluate(SCROLL, [120, share]))
        page.evaluate("scrollTo(0, 0)")
        page.wait_for_timeout(500)
    found["order by loss"] = page.evaluate(TAKES, "state.sort = 2; update()")
    found["order by loss again"] = page.evaluate(TAKES, "state.sort = 0; update(); state.sort = 2; update()")
    page.wait_for_timeout(2000)
    found["scroll, ordered by loss"] = quantiles(page.evaluate(SCROLL, [120, 1 / 3]))
    found["find in ids"] = page.evaluate(TAKES, "state.text = '77'; update()")
    found["clear"] = page.evaluate(TAKES, "Object.assign(state, UNFILTERED); update()")
    found["draw the map"] = page.evaluate(TAKES, "drawMap()")
    found["color the map by loss"] = page.evaluate(TAKES, "colorBy = '2'; drawMap()")
    found["loop around half of the map"] = page.evaluate(TAKES, LOOP)
    found["1,000 dots under the pointer"] = page.evaluate(TAKES, DOTS)
    found["show near-duplicates"] = page.evaluate(TAKES, "showKind(COPIES)")
    found["mark all copies"] = page.evaluate(TAKES, "$('drop-copies').click()")
    found["show a kind"] = page.evaluate(TAKES, "showKind(7)")
    found["select all"] = page.evaluate(TAKES, "Object.assign(state, UNFILTERED); update(); select(shown, true)")
    found["list all kinds"] = page.evaluate(TAKES, "listKinds(kinds.length)")
    heap = page.context.new_cdp_session(page)
    heap.send("Performance.enable")
    metrics = {entry["name"]: entry["value"] for entry in heap.send("Performance.getMetrics")["metrics"]}
    found["script heap, MiB"] = metrics["JSHeapUsedSize"] / 2**20
    return rounded(found)


def quantiles(times: list[float]) -> dict[str, float]:
    return {name: float(np.quantile(times, share)) for name, share in (("median", 0.5), ("p95", 0.95), ("max", 1))}


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    return round(value, 1) if isinstance(value, float) else value


def browser_of(playwright: Playwright) -> Browser:
    path = os.environ.get("SDCLR_CHROMIUM") or shutil.which("chromium")
    return playwright.chromium.launch(executable_path=path, args=ARGUMENTS)


def take_picture(page_file: Path, picture: Path, *, size: ViewportSize, dark: bool) -> None:
    with sync_playwright() as playwright:
        browser = browser_of(playwright)
        page = browser.new_page(viewport=size, color_scheme="dark" if dark else "light")
        page.goto(page_file.resolve().as_uri())
        page.wait_for_selector(".kind .picture, .tile .picture")
        page.wait_for_load_state("networkidle")
        page.screenshot(path=picture)
        browser.close()


def measure(chosen: argparse.Namespace) -> dict[str, Any]:
    train = open_source(chosen.data, split="train")
    pictures = np.stack([train.image(index) for index in range(min(chosen.images, 10_000))])
    source = ArraySource(pictures[np.arange(chosen.images) % len(pictures)], name="cifar10-repeated")
    begin = time.perf_counter()
    page_file = write_gallery(
        chosen.folder / "rare.html", entries(source), source, title="Rare images", workers=chosen.workers
    )
    files = list(page_file.with_name("rare_files").iterdir())
    result: dict[str, Any] = {
        "images": chosen.images,
        "written in, s": round(time.perf_counter() - begin, 1),
        "files": len(files),
        "MiB": round(sum(file.stat().st_size for file in files) / 2**20, 1),
        "bytes per image": round((sum(f.stat().st_size for f in files) + page_file.stat().st_size) / chosen.images),
        "of them for scores and names": round(
            sum(file.stat().st_size for file in files if file.suffix == ".js") / chosen.images
        ),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
    }
    with sync_playwright() as playwright:
        browser = browser_of(playwright)
        result["browser"] = browser.version
        result |= measured(browser.new_page(viewport=VIEWPORT), page_file.resolve().as_uri())
        browser.close()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10 as parquet files")
    parser.add_argument("--folder", type=Path, help="where the page goes")
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--page", type=Path, help="a page that exists, of which to take a picture")
    parser.add_argument("--picture", type=Path, help="the picture, a PNG file")
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--size", type=int, nargs=2, default=(VIEWPORT["width"], VIEWPORT["height"]))
    chosen = parser.parse_args()
    if chosen.page and chosen.picture:
        width, height = chosen.size
        take_picture(chosen.page, chosen.picture, size=ViewportSize(width=width, height=height), dark=chosen.dark)
    elif chosen.data and chosen.folder:
        print(json.dumps(measure(chosen), indent=1))
    else:
        parser.error("give --data and --folder to measure, or --page and --picture to take a picture")


if __name__ == "__main__":
    main()
