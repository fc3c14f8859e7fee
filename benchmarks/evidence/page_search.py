"""Accuracy and speed of the page's search, printed as JSON.

The features are those that mining stores:

    sdclr mine $SDCLR_DATA/data/clothing/train --out clothing
    sdclr mine $SDCLR_DATA/data/cifar10/train-00000-of-00001.parquet --image-size 64 --out cifar10
    python benchmarks/evidence/page_search.py --features clothing=clothing/reading/features.npy \
        cifar10=cifar10/reading/features.npy --photos $SDCLR_DATA/data/clothing/train

Times depend on other load, which is printed with them.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from playwright.sync_api import Page, sync_playwright
from torch.nn import functional as F

from sdclr.data.sources import ArraySource, open_source
from sdclr.decoding.decode import decode_image
from sdclr.encoders import load_encoder
from sdclr.features.nearest import nearest
from sdclr.features.view import evaluation_view
from sdclr.reporting.browser_encoder import browser_encoder
from sdclr.reporting.encoder_graph import Layer, read_layers, run_layers
from sdclr.reporting.gallery import GalleryEntries, KindGroup, write_gallery
from sdclr.reporting.search_index import SearchIndex, make_index, normalized

DIMENSIONS = (32, 64, 96, 128, 192, 256, 384, 512)
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Mean share of the entries of a row that are also in the same row of the other table."""
    pairs = zip(one.tolist(), other.tolist(), strict=True)
    return round(float(np.mean([len(set(a) & set(b)) / len(a) for a, b in pairs])), 4)


def best(similarities: np.ndarray, asked: np.ndarray, k: int = 10) -> np.ndarray:
    similarities[np.arange(len(asked)), asked] = -np.inf
    return np.argsort(-similarities, axis=1)[:, :k]


def recall(features: np.ndarray) -> list[dict[str, Any]]:
    """Share of the ten exact neighbors found by each index, and by two simpler similarities."""
    rows = np.arange(len(features))
    asked = np.sort(np.random.default_rng(0).choice(len(features), 500, replace=False))
    whole = normalized(features)
    exact = best(whole[asked] @ whole.T, asked)
    found = []
    for dimensions in DIMENSIONS:
        index = make_index(features, rows, limit=2**40, dimensions=(dimensions,))
        if index is None:
            continue
        kept = index.row(rows)
        lengths = np.sqrt((kept**2).sum(axis=1) + index.rest)
        products = kept[asked] @ kept.T + index.rest
        found.append(
            {
                "dimensions": dimensions,
                "MiB": round(index.bytes / 2**20, 2),
                "recall@10": overlap(exact, best(index.similarities(index.row(asked)), asked)),
                "recall@10 of the plain product": overlap(exact, best(products.copy(), asked)),
                "recall@10 of the cosine": overlap(exact, best(products / lengths, asked)),
                "recall@10 without rounding": overlap(exact, best(unrounded(index, features, asked), asked)),
            }
        )
    return found


def unrounded(index: SearchIndex, features: np.ndarray, asked: np.ndarray) -> np.ndarray:
    kept = index.query(features)
    lengths = np.sqrt((kept**2).sum(axis=1) + index.rest)
    return (kept[asked] @ kept.T + index.rest) / np.sqrt(lengths)


def entries_of(source: Any) -> GalleryEntries:
    count = len(source.ids)
    return GalleryEntries(
        ids=source.ids,
        columns={},
        rarity=np.linspace(1, 0, count).astype(np.float32),
        rank=np.arange(1, count + 1),
        percentile=np.linspace(100, 0, count).astype(np.float32),
        kinds=np.zeros(count, dtype=np.int64),
        groups=[KindGroup(kind=0, size=count, separation=1.0, medoid=0, rare=False)],
        odd=np.array([], dtype=np.int64),
        bad={},
        score="distance",
    )


def wait(page: Page, condition: str) -> None:
    """Poll a condition. Playwright's own waiting evaluates text, which the page forbids."""
    end = time.monotonic() + 120
    while not page.evaluate(f"Boolean({condition})"):
        if time.monotonic() > end:
            raise TimeoutError(page.inner_text("#like-status"))
        time.sleep(0.02)


def search_times(page: Page, folder: Path, features: np.ndarray, count: int) -> dict[str, Any]:
    """Milliseconds of a search among `count` images; features are repeated if there are too few."""
    chosen = features[np.arange(count) % len(features)]
    source = ArraySource(np.zeros((count, 1, 1, 3), dtype=np.uint8), name="made")
    start = time.perf_counter()
    file = write_gallery(folder / f"{count}.html", entries_of(source), source, title="x", features=chosen, thumbnails=0)
    written = time.perf_counter() - start
    page.goto(file.as_uri())
    page.wait_for_selector(".tile")
    timed = "async (row) => { const from = performance.now(); await askRow(row); return performance.now() - from; }"
    first, *times = [page.evaluate(timed, row) for row in range(3, 24)]
    return {
        "images": count,
        "dimensions": page.evaluate("index.known.dimensions"),
        "written with the page in s": round(written, 1),
        "first search with loading in ms": round(first),
        "search in ms, median": round(float(np.median(times)), 1),
        "search in ms, slowest of 20": round(max(times), 1),
    }


def rounding(photos: list[Path]) -> dict[str, Any]:
    """Cosine similarity between the default encoder's features and those with rounded weights."""
    encoder = load_encoder()
    views = np.stack([evaluation_view(decode_image(photo, image_id="x"), encoder.preprocessing) for photo in photos])
    images = torch.tensor(views).permute(0, 3, 1, 2)
    layers = read_layers(encoder.backbone, encoder.image_size)
    with torch.no_grad():
        own = encoder(images)
    inputs = (images / 255 - encoder.mean) / encoder.std

    def alike(rounded: list[Layer]) -> dict[str, float]:
        cosines = F.cosine_similarity(own, run_layers(rounded, inputs))
        return {"lowest": round(float(cosines.min()), 4), "mean": round(float(cosines.mean()), 4)}

    return {
        "one byte a weight": alike([one_byte(layer) for layer in layers]),
        "two bytes where a layer is small or depthwise": alike(browser_encoder(encoder).restored()),
    }


def one_byte(layer: Layer) -> Layer:
    if layer.weight is None:
        return layer
    step = layer.weight.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12) / 127
    return Layer(**{**vars(layer), "weight": (layer.weight / step).round() * step})


def photo_times(page: Page, folder: Path, features: np.ndarray, collection: Path, count: int = 50) -> dict[str, Any]:
    """Search by photos of the collection as files chosen on the page: seconds, cosines, neighbors."""
    source, encoder = open_source(collection), load_encoder()
    file = write_gallery(
        folder / "photos.html", entries_of(source), source, title="x", features=features, encoder=encoder, thumbnails=0
    )
    page.goto(file.as_uri())
    page.wait_for_selector(".tile")
    page.evaluate(
        """() => {
          window.frozen = [];
          new PerformanceObserver((list) => frozen.push(...list.getEntries().map(({ duration }) => duration)))
            .observe({ type: "longtask" });
        }"""
    )
    rows = np.linspace(0, len(features) - 1, count).round().astype(int)
    exact = nearest(features, 6, queries=features[rows]).indices.numpy()
    index = make_index(features, np.arange(len(features)))
    if index is None:
        raise ValueError(f"{len(features)} images have no index")
    seconds, first, top, cosines, by_index = [], [], [], [], []
    for row, near in zip(rows.tolist(), exact, strict=True):
        photo = collection / source.ids[row]
        page.evaluate("state.like = null")
        start = time.perf_counter()
        page.set_input_files("#like-file", photo)
        wait(page, "state.like || document.querySelector('#like-status.problem')")
        seconds.append(time.perf_counter() - start)
        order, components = page.evaluate("[[...state.like.order.slice(0, 6)], [...state.like.components]]")
        own = index.query(features[row : row + 1])[0]
        cosines.append(float(own @ components / np.linalg.norm(own) / np.linalg.norm(components)))
        first.append(order[0] == row)
        top.append(len(set(order[1:6]) & set(near[1:6].tolist())) / 5)
        expected = np.argsort(-index.similarities(own[None])[0])[:6]
        by_index.append(len(set(order) & set(expected.tolist())) / 6)
    return {
        "photos": count,
        "view": encoder.image_size,
        "encoder in MiB": round(page.evaluate("meta.search.encoder.bytes") / 2**20, 2),
        "seconds, first with loading": round(seconds[0], 2),
        "seconds, median": round(float(np.median(seconds)), 2),
        "seconds, slowest": round(max(seconds), 2),
        "longest freeze in ms": round(max(page.evaluate("frozen"), default=0)),
        "cosine to torch in the index, lowest": round(min(cosines), 4),
        "cosine to torch in the index, mean": round(float(np.mean(cosines)), 4),
        "find themselves first": round(float(np.mean(first)), 3),
        "first 6 equal to those of the index with torch's features": round(float(np.mean(by_index)), 3),
        "next 5 equal to those by whole features of torch": round(float(np.mean(top)), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", nargs="+", required=True, metavar="NAME=FILE")
    parser.add_argument("--photos", type=Path, help="the folder that the first features are of")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {"recall": {}}
    tables = {}
    for entry in options.features:
        name, _, file = entry.partition("=")
        read = np.load(file)
        tables[name] = np.asarray(read["features"] if file.endswith(".npz") else read, dtype=np.float32)
        found["recall"][name] = {"images": len(tables[name]), "by dimensions": recall(tables[name])}
    largest = max(tables.values(), key=len)
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        chromium = os.environ.get("SDCLR_CHROMIUM") or shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        page = browser.new_page()
        found["browser"] = f"Chromium {browser.version}"
        found["search"] = [search_times(page, Path(folder), largest, count) for count in (5_000, 50_000)]
        if options.photos is not None:
            first = next(iter(tables.values()))
            source = open_source(options.photos)
            chosen = np.linspace(0, len(first) - 1, 50).round().astype(int)
            found["rounding"] = rounding([options.photos / source.ids[row] for row in chosen])
            found["photos"] = photo_times(page, Path(folder), first, options.photos)
        browser.close()
    found["load"] = os.getloadavg()[0]
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
