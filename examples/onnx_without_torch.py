"""Export an encoder to ONNX, and use it with onnxruntime in a process that never imports torch.

    python examples/onnx_without_torch.py ./images                        # exports the default encoder first
    python examples/onnx_without_torch.py ./images --encoder runs/mine
    python examples/onnx_without_torch.py ./images --exported exported    # a folder that `sdclr export` wrote

Without arguments it makes a few images of digits first. Needs `pip install 'sdclr[onnx,weights]'`; with an exported
folder, onnxruntime, NumPy and Pillow are enough.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


def prepared(file: Path, rules: dict) -> np.ndarray:
    """One image as the encoder takes it, uint8 `(3, S, S)`, by the rules of preprocessing.json."""
    image = ImageOps.exif_transpose(Image.open(file)).convert("RGB")
    side = rules["image_size"]
    interpolation = Image.Resampling[rules["other_images"]["interpolation"].split(",")[0].upper()]
    if max(image.size) <= rules["small_images"]["up_to_side"]:
        image = image.resize((side, side), interpolation)
    else:
        shorter = rules["other_images"]["resize_shorter_side"]
        scale = shorter / min(image.size)
        image = image.resize((int(image.width * scale), int(image.height * scale)), interpolation)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    return np.asarray(image).transpose(2, 0, 1)


def a_few_digits(folder: Path) -> Path:
    from sklearn.datasets import load_digits  # noqa: PLC0415  # needed by this function alone

    digits = load_digits()
    for index in range(20):
        Image.fromarray((digits.images[index] * 15).astype(np.uint8)).save(
            folder / f"{digits.target[index]}-{index}.png"
        )
    return folder


def main(images: Path, exported: Path, encoder: str | None) -> None:
    if not (exported / "encoder.onnx").exists():  # exporting needs torch, so that another process does it
        source = encoder or "timm:tf_efficientnet_lite0.in1k"
        subprocess.run([sys.executable, "-m", "sdclr", "export", source, exported, "--formats", "onnx"], check=True)
    rules = json.loads((exported / "preprocessing.json").read_text())
    session = onnxruntime.InferenceSession(exported / "encoder.onnx", providers=["CPUExecutionProvider"])
    files = sorted(file for file in images.rglob("*") if file.suffix.lower() in SUFFIXES)
    batch = np.stack([prepared(file, rules) for file in files])
    (features,) = session.run(None, {session.get_inputs()[0].name: batch})

    features = features / np.linalg.norm(features, axis=1, keepdims=True)
    similarity = features @ features.T
    np.fill_diagonal(similarity, -1)
    print(f"features of {len(files)} images: {features.shape}")
    for row in range(min(5, len(files))):
        print(f"{files[row].name} is most like {files[similarity[row].argmax()].name}")
    assert "torch" not in sys.modules  # noqa: S101  # what this example is about
    print("torch was not imported")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", nargs="?", type=Path, help="a folder of images")
    parser.add_argument("--encoder", help="what to export: a run, or timm:NAME")
    parser.add_argument("--exported", type=Path, help="where the export is, or goes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        place = options.images
        if place is None:
            place = Path(scratch) / "images"
            place.mkdir()
            a_few_digits(place)
        main(place, options.exported or Path(scratch) / "exported", options.encoder)
