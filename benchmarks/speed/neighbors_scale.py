"""Neighbors, kinds and maps of 10^5 and 10^6 vectors: time, peak memory, recall. Each command prints one row.

    python benchmarks/speed/neighbors_scale.py features --data DIR --out features.npz
    python benchmarks/speed/neighbors_scale.py vectors --features features.npz --count 1000000 --out vectors.npy
    python benchmarks/speed/neighbors_scale.py row --vectors vectors.npy --count 100000 --method exact
    python benchmarks/speed/neighbors_scale.py row --vectors vectors.npy --count 1000000 --method sdclr
    python benchmarks/speed/neighbors_scale.py row --vectors vectors.npy --count 100000 --method usearch \
        --precision f16 --links 16 --built 64 --searched 64 --peers DIR
    python benchmarks/speed/neighbors_scale.py row --vectors vectors.npy --count 100000 --method faiss --probes 64

`features` encodes CIFAR-10's training images (Parquet files in DIR) with the pretrained encoder at 96 px. `vectors`
keeps 384 principal components of their directions and draws vectors around them, each from the covariance of an image's
15 nearest neighbors, scaled so that the intrinsic dimension is that of the images. The first 50,000 vectors are the
images. `row` prints a line of JSON. Other load increases the wall time; `cpu` is the CPU time of all threads. Recall is
that of the 15 nearest neighbors, of 1,000 queries compared with an exact search. `--peers DIR` is a folder of libraries
that are not dependencies (`pip install --target DIR usearch`). Linux only.
"""

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from sdclr.data.sources import ParquetSource
from sdclr.encoders import load_encoder
from sdclr.features import approximate
from sdclr.features.approximate import find_neighbors, sample_recall
from sdclr.features.extract import extract_features
from sdclr.features.nearest import nearest
from sdclr.features.projection import project
from sdclr.mining.kinds import find_kinds

Search = Callable[[NDArray[np.float32]], NDArray[np.int64]]

K = 15
WIDTH = 384
QUERIES = 1000
CHUNK = 20_000
NEAR, FAR, PAIRS = 0.7, 0.7, 3
"""Noise of drawn vectors: from differences to neighbors, from differences of random pairs, and number of pairs."""


def encode(data: Path, out: Path) -> None:
    encoder = load_encoder(image_size=96)
    source = ParquetSource(data, split="train")
    found = extract_features(encoder, source, preprocessing=encoder.preprocessing, amp="auto")
    np.savez(out, features=found.values, labels=source.labels[found.kept])


def principal(features: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """(N, width) principal components of directions, scaled to length 1."""
    rows = features / np.linalg.norm(features, axis=1, keepdims=True)
    rows -= rows.mean(axis=0)
    _, vectors = np.linalg.eigh((rows.T @ rows).astype(np.float64))
    parts = rows @ vectors[:, ::-1][:, :width].astype(np.float32)
    return parts / np.linalg.norm(parts, axis=1, keepdims=True)


def intrinsic_dimension(distances: NDArray[np.float32]) -> float:
    """Levina and Bickel's estimate from distances to neighbors, with MacKay's mean of inverses."""
    logs = np.log(np.maximum(distances, 1e-9))
    return float(1 / (logs[:, -1:] - logs[:, :-1]).mean())


def make_vectors(features: Path, count: int, out: Path) -> None:
    base = principal(np.load(features)["features"], WIDTH)
    cached = out.with_suffix(".neighbors.npy")
    if not cached.exists():
        np.save(cached, nearest(base, K).indices.numpy())
    indices = np.load(cached)
    rng = np.random.default_rng(0)
    vectors = np.lib.format.open_memmap(out, "w+", np.float32, (count, WIDTH))
    known = min(count, len(base))
    vectors[:known] = base[rng.permutation(len(base))[:known]]
    for begin in range(known, count, CHUNK):
        owner = rng.integers(len(base), size=min(CHUNK, count - begin))
        drawn = base[owner]
        for column in range(K):
            weight = rng.normal(scale=NEAR / np.sqrt(K), size=(len(owner), 1)).astype(np.float32)
            drawn += weight * (base[indices[owner, column]] - base[owner])
        for _ in range(PAIRS):
            pair = rng.integers(len(base), size=(2, len(owner)))
            weight = rng.normal(scale=FAR / np.sqrt(2 * PAIRS), size=(len(owner), 1)).astype(np.float32)
            drawn += weight * (base[pair[0]] - base[pair[1]])
        vectors[begin : begin + len(owner)] = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    vectors.flush()
    for name, begin in (("images", 0), ("drawn", known)):
        size = min(known, count - begin)
        if size > QUERIES:
            print(f"intrinsic dimension of {size:,} {name}: {difficulty(vectors, begin, size):.1f}")


def difficulty(vectors: NDArray[np.float32], begin: int, size: int) -> float:
    """Intrinsic dimension of some of the vectors, estimated from 500 of them."""
    rows = np.ascontiguousarray(vectors[begin : begin + size])
    near = nearest(rows, K + 1, queries=rows[:500])
    return intrinsic_dimension(np.sqrt(2 * near.distances.numpy()[:, 1:]))


class Measured:
    """Wall time, CPU time and peak memory of code blocks."""

    def __init__(self) -> None:
        self.row: dict[str, object] = {"load_before": round(os.getloadavg()[0], 1)}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.row |= {
            f"{name}_s": round(time.perf_counter() - wall, 1),
            f"{name}_cpu_s": round(time.process_time() - cpu, 1),
            f"{name}_peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        }
        print(json.dumps(self.row), file=sys.stderr, flush=True)  # a row of a million vectors takes long


def recall(found: NDArray[np.int64], true: NDArray[np.int64]) -> float:
    """Share of true neighbors that were found, as a mean over rows."""
    return float(np.mean([np.isin(row, others).mean() for row, others in zip(true, found, strict=True)]))


def search_usearch(options: argparse.Namespace, vectors: NDArray[np.float32], measured: Measured) -> Search:
    from usearch.index import Index  # noqa: PLC0415  # a peer, found through --peers

    index = Index(
        ndim=vectors.shape[1],
        metric="cos",
        dtype=options.precision,
        connectivity=options.links,
        expansion_add=options.built,
        expansion_search=options.searched,
    )
    with measured("build"):
        index.add(np.arange(len(vectors)), vectors, threads=options.threads)
    return lambda queries: index.search(queries, K + 1, threads=options.threads).keys.astype(np.int64)


def search_faiss(options: argparse.Namespace, vectors: NDArray[np.float32], measured: Measured) -> Search:
    import faiss  # noqa: PLC0415  # as in the package

    faiss.omp_set_num_threads(options.threads)
    with measured("build"):
        index = approximate._index(faiss, torch.from_numpy(vectors), "cosine")  # noqa: SLF001
    index.nprobe = options.probes
    return lambda queries: index.search(queries, K + 1)[1]


def search_row(options: argparse.Namespace) -> dict[str, object]:
    """Build an index, and search the neighbors of 1,000 of its vectors."""
    vectors = load(options)
    asked = np.random.default_rng(1).permutation(len(vectors))[:QUERIES]
    queries = vectors[asked]
    measured = Measured()
    search = {"usearch": search_usearch, "faiss": search_faiss}[options.method](options, vectors, measured)
    with measured("queries"):
        found = search(queries)
    true = nearest(vectors, K + 1, queries=queries).indices[:, 1:].numpy()
    return measured.row | {"recall": round(recall(found, true), 4), "queries": QUERIES}


def mining_row(options: argparse.Namespace) -> dict[str, object]:
    """The steps of `sdclr mine` on features: neighbors, their recall, kinds, the map."""
    vectors = torch.from_numpy(load(options))
    measured = Measured()
    approximate.PROBES = options.probes
    exact = {"exact": False, "approximate": True}.get(options.method)
    with measured("neighbors"):
        near = find_neighbors(vectors, K, approximate=exact)
    with measured("recall"):
        measured.row["recall"] = round(sample_recall(vectors, near), 4)
    with measured("kinds"):
        measured.row["kinds"] = len(find_kinds(vectors, neighbors=near))
    with measured("map"):
        project(near)
    return measured.row


def load(options: argparse.Namespace) -> NDArray[np.float32]:
    """The first vectors, in memory."""
    return np.array(np.load(options.vectors, mmap_mode="r")[: options.count])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("features", "vectors", "row"))
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10 as parquet files")
    parser.add_argument("--features", type=Path, help="what `features` wrote")
    parser.add_argument("--vectors", type=Path, help="what `vectors` wrote")
    parser.add_argument("--out", type=Path, help="file to write")
    parser.add_argument("--count", type=int, default=100_000, help="vectors")
    parser.add_argument("--method", choices=("sdclr", "exact", "approximate", "usearch", "faiss"), default="sdclr")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--precision", default="f16", help="of usearch's vectors: f32, f16 or i8")
    parser.add_argument("--links", type=int, default=16, help="usearch: links of a node")
    parser.add_argument("--built", type=int, default=64, help="usearch: candidates when a vector is added")
    parser.add_argument("--searched", type=int, default=64, help="usearch: candidates of a query")
    parser.add_argument(
        "--probes", type=int, default=approximate.PROBES, help="lists that a query reads, where faiss searches"
    )
    parser.add_argument("--peers", type=Path, help="folder of libraries that are no dependencies")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    if options.peers is not None:
        sys.path.append(str(options.peers))
    if options.what == "features":
        encode(options.data, options.out)
    elif options.what == "vectors":
        make_vectors(options.features, options.count, options.out)
    else:
        row = (search_row if options.method in ("usearch", "faiss") else mining_row)(options)
        print(json.dumps({"method": options.method, "count": options.count, "threads": options.threads} | row))


if __name__ == "__main__":
    main()
