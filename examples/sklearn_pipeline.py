"""A scikit-learn pipeline on embeddings: train a classifier on labeled images, judged by balanced accuracy.

    python examples/sklearn_pipeline.py ./labeled/train ./labeled/test                       # class folders
    python examples/sklearn_pipeline.py ./labeled/train ./labeled/test --encoder runs/mine

Without arguments it takes scikit-learn's digits. The default encoder needs `pip install 'sdclr[weights]'`, or a
connection to the Hugging Face hub.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import sdclr


def embedded(images: str, encoder: str | None, scratch: Path) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings `(N, D)` and class ids `(N,)` of the labeled images that can be read."""
    file = scratch / "embeddings.parquet"
    sdclr.embed(images, file, encoder=encoder)
    table = pq.read_table(file)
    labels = table["label"].to_numpy()
    return np.stack(table["embedding"].to_numpy()), labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train", nargs="?", default="digits:train", help="labeled images")
    parser.add_argument("test", nargs="?", default="digits:test", help="labeled images of the same classes")
    parser.add_argument("--encoder", help="a run, an exported folder or timm:NAME; by default a small pretrained one")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as train, tempfile.TemporaryDirectory() as test:
        features, labels = embedded(options.train, options.encoder, Path(train))
        unseen, truth = embedded(options.test, options.encoder, Path(test))
    # `balanced` weights classes inversely to their size, so that rare classes count as much as frequent ones.
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, class_weight="balanced", max_iter=1000))
    classifier.fit(features, labels)
    accuracy = balanced_accuracy_score(truth, classifier.predict(unseen))
    print(f"balanced accuracy: {accuracy:.3f} ({len(labels)} training and {len(truth)} test images)")


if __name__ == "__main__":
    main()
