"""Emoji of Google's Noto as a long-tailed collection: 55 classes, 2 to 249 images of 64 px each for training.

    npm pack emoji-datasource-google@16.0.0
    mkdir DIR/emoji && tar xzf emoji-datasource-google-16.0.0.tgz -C DIR/emoji

Classes are the subcategories of Unicode with 12 images or more. Skin tones are left out.
"""

import json
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from budget import Collection
from sdclr.data.drawing import train_validation_split
from sdclr.data.sources import ArraySource, Source, SubsetSource

LEAST: Final = 12
"""Images of the smallest class."""


def emoji(data: Path, seed: int) -> Collection:
    """A third of the images, 9 or 10 of each class, for the test; the rest for training and for the probe."""
    every = read(data / "emoji" / "package")
    labels = np.asarray(every.labels)
    train, test = train_validation_split(labels, validation=len(labels) // 3, seed=0)
    kept, held = train_validation_split(labels[train], validation=len(train) // 6, seed=seed)
    return Collection(
        SubsetSource(every, train, name="emoji"),
        SubsetSource(every, train[kept]),
        SubsetSource(every, train[held]),
        SubsetSource(every, test),
    )


def read(folder: Path) -> Source:
    """All images of the classes, on white."""
    listed = [one for one in json.loads((folder / "emoji.json").read_text()) if one["has_img_google"]]
    names, counts = np.unique([one["subcategory"] for one in listed], return_counts=True)
    classes = names[counts >= LEAST].tolist()
    listed = [one for one in listed if one["subcategory"] in classes]
    return ArraySource(
        np.stack([on_white(folder / "img/google/64" / one["image"]) for one in listed]),
        labels=[classes.index(one["subcategory"]) for one in listed],
        ids=[one["image"] for one in listed],
        name="emoji",
        classes=classes,
    )


def on_white(path: Path) -> np.ndarray:
    image = Image.open(path).convert("RGBA")
    return np.asarray(Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB"))
