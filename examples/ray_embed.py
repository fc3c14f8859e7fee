"""Embed a collection with Ray Data, on as many machines as the cluster has, then find its rare kinds.

    pip install 'ray[data]'
    python examples/ray_embed.py ./images embeddings/ --workers 8
    sdclr mine ./images --encoder embeddings/

With `RAY_ADDRESS` the script joins that cluster; else it starts workers on this machine. All machines must see the
images and the output folder. Each worker opens the collection and the encoder once; Ray sends
it positions of images, and writes what comes back as Parquet. Unreadable images are left out and listed.
"""

import argparse
import os
import sys
from pathlib import Path

import pyarrow as pa
import ray

import sdclr
from sdclr.data.sources import SubsetSource
from sdclr.encoders.digest import network_digest
from sdclr.features.extract import extract_features


class Embed:
    """One worker: positions of images in, embeddings out."""

    def __init__(self, images: str, encoder: str | None) -> None:
        self.source = sdclr.open_source(images)
        self.encoder = sdclr.load_encoder(encoder)

    def __call__(self, batch: pa.Table) -> pa.Table:
        positions = batch["id"].to_numpy()
        some = SubsetSource(self.source, positions)
        try:
            found = extract_features(self.encoder, some, preprocessing=self.encoder.preprocessing, batch_size=64)
        except sdclr.InputError as error:  # no image of this batch can be decoded
            print(error, file=sys.stderr)
            return pa.table({"id": [], "embedding": []}, schema=self.schema())
        for bad in found.bad:
            print(f"left out: {bad.id}: {bad.reason}", file=sys.stderr)
        ids = [some.ids[row] for row in found.kept]
        vectors = pa.FixedSizeListArray.from_arrays(found.values.ravel(), self.encoder.num_features)
        return pa.table({"id": ids, "embedding": vectors}, schema=self.schema())

    def schema(self) -> pa.Schema:
        about = {"encoder": network_digest(self.encoder)}
        vectors = pa.list_(pa.float32(), self.encoder.num_features)
        return pa.schema({"id": pa.string(), "embedding": vectors}, metadata={"made by": str(about)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", help="whatever sdclr opens: a folder, a manifest, Parquet")
    parser.add_argument("out", type=Path, help="a new folder for Parquet files")
    parser.add_argument("--encoder", help="a run, an export or timm:NAME; by default the pretrained encoder")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=256, help="images that are sent to a worker at once")
    options = parser.parse_args()
    images = str(Path(options.images).resolve()) if Path(options.images).exists() else options.images
    total = len(sdclr.open_source(images))
    if "RAY_ADDRESS" in os.environ:  # a cluster
        ray.init(logging_level="warning")
    else:  # this machine: a slot for each worker, and one for reading and writing
        ray.init(num_cpus=options.workers + 1, logging_level="warning", include_dashboard=False)
    embedded = ray.data.range(total, override_num_blocks=max(options.workers, total // 10_000)).map_batches(
        Embed,
        fn_constructor_args=(images, options.encoder),
        compute=ray.data.ActorPoolStrategy(size=options.workers),
        batch_size=options.batch_size,
        batch_format="pyarrow",
    )
    embedded.write_parquet(str(options.out))
    print(f"embeddings of {total} images in {options.out}; next: sdclr mine {options.images} --encoder {options.out}")


if __name__ == "__main__":
    main()
