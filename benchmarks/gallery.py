"""How quick the page of rare images is with 100,000 of them, in Chromium.

    python benchmarks/gallery.py --data $SDCLR_DATA/data/cifar10 --folder /tmp/gallery

The images are CIFAR-10's, repeated, with random scores. Timed are: the writing; from opening to the first picture
drawn; scrolling, a third of a screen a frame, in the order of the rank; long jumps, and another order, where every
picture in sight lies on a sheet of its own. Prints JSON, times in milliseconds but for the writing's seconds.
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
from playwright.sync_api import Page, sync_playwright

from sdclr.data.sources import ArraySource, open_source
from sdclr.reporting.gallery import GalleryEntries, write_gallery

ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
CLUSTERS = 300

SCROLL = """async ([frames, share]) => {
  const grid = document.getElementById("grid");
  const times = [];
  let before = await new Promise(requestAnimationFrame);
  for (let frame = 0; frame < frames; frame += 1) {
    grid.scrollTop += grid.clientHeight * share;
    const now = await new Promise(requestAnimationFrame);
    times.push(now - before);
    before = now;
  }
  return times;
}"""

FIRST_PICTURE = """async () => {
  while (!document.querySelector("#tile-0")) await new Promise(requestAnimationFrame);
  const sheet = new Image();
  sheet.src = meta.sheets[0];
  await sheet.decode();
  await new Promise(requestAnimationFrame);
  await new Promise(requestAnimationFrame);
  return performance.now();  // since the page began to open
}"""

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
    clusters = np.minimum(rng.geometric(1 / 60, count) - 1, CLUSTERS - 1)
    sizes = np.bincount(clusters, minlength=CLUSTERS)
    loss, forgetting = rng.normal(5, 1, count), rng.gamma(2, 0.1, count)
    columns = {"distance_10": rarity, "forgetting_0.5": forgetting, "loss": loss, "cluster_size": sizes[clusters]}
    return GalleryEntries(
        ids=list(source.ids),
        columns={name: values.astype(np.float32) for name, values in columns.items()},
        rarity=rarity,
        rank=rank,
        percentile=(100 * (count - rank) / (count - 1)).astype(np.float32),
        clusters=clusters,
        bad={},
        score="distance",
    )


def measured(page: Page, address: str) -> dict[str, Any]:
    page.goto(address)
    found: dict[str, Any] = {"first picture": page.evaluate(FIRST_PICTURE)}
    page.wait_for_timeout(1000)
    found["tiles on the page"] = page.locator(".tile").count()
    for name, share in (("scroll", 1 / 3), ("jump", 40.0)):
        found[name] = quantiles(page.evaluate(SCROLL, [120, share]))
        page.evaluate("document.getElementById('grid').scrollTop = 0")
        page.wait_for_timeout(500)
    found["order by loss"] = page.evaluate(TAKES, "state.sort = 2; update()")
    found["order by loss again"] = page.evaluate(TAKES, "state.sort = 0; update(); state.sort = 2; update()")
    page.wait_for_timeout(2000)
    found["scroll, ordered by loss"] = quantiles(page.evaluate(SCROLL, [120, 1 / 3]))
    found["find in ids"] = page.evaluate(TAKES, "state.text = '77'; update()")
    found["filter by cluster"] = page.evaluate(TAKES, "state.text = ''; state.cluster = 7; update()")
    found["select all"] = page.evaluate(TAKES, "state.cluster = null; update(); select(shown, true)")
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of CIFAR-10 as parquet files")
    parser.add_argument("--folder", type=Path, required=True, help="where the page goes")
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2)
    chosen = parser.parse_args()
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
        "cores": os.cpu_count(),
        "machine": platform.machine(),
    }
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("SDCLR_CHROMIUM") or shutil.which("chromium"), args=ARGUMENTS
        )
        result["browser"] = browser.version
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        result |= measured(page, page_file.resolve().as_uri())
        browser.close()
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
