"""Write features to disk for other tools."""

from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from sdclr.data.decode import BadImage
from sdclr.data.sources import ImageSource, open_source
from sdclr.evaluation.evaluate import branch_encoder
from sdclr.evaluation.features import extract_features
from sdclr.training.run import Run


def embed(
    run: Run | str | Path,
    source: ImageSource,
    out: str | Path,
    *,
    branch: Literal["dense", "sparse"] = "dense",
    batch_size: int = 512,
    device: str | torch.device = "cpu",
    workers: int = 0,
) -> tuple[int, list[BadImage]]:
    """Write a Parquet file with the columns `id`, `embedding` (list of D float32) and, where known, `label`.

    Args:
        run: A finished run, or its folder.
        source: The images; those that cannot be decoded are left out.
        out: The file; written aside and renamed.
        branch: The encoder, or its pruned twin.
        batch_size: Images a forward pass.
        device: Where the encoder runs.
        workers: Processes that decode.

    Returns:
        The number of rows, and the images left out.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    images, out = open_source(source), Path(out)
    features = extract_features(
        branch_encoder(run, branch),
        images,
        image_size=run.config.views.image_size,
        batch_size=batch_size,
        device=device,
        workers=workers,
    )
    rows, width = features.values.shape
    columns = {
        "id": pa.array([images.ids[index] for index in features.kept.tolist()]),
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(features.values.reshape(-1)), width),
    }
    if images.labels is not None:
        labels = images.labels[features.kept]
        columns["label"] = pa.array(np.where(labels >= 0, labels, 0), mask=labels < 0)
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(f".{out.name}.tmp")
    pq.write_table(pa.table(columns), aside)
    aside.replace(out)
    return rows, features.bad
