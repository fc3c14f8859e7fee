"""Options that several commands share, each with one help text."""

from typing import Annotated

import tyro

from sdclr.encoders import DEFAULT
from sdclr.encoders.config import GRAMMAR

_GRAMMAR = GRAMMAR[0].upper() + GRAMMAR[1:]
_IMAGES_HELP = (
    "A folder of images, a .csv, .tsv or .parquet manifest, a folder or file of Parquet images, digits, cifar10:FOLDER "
    "or cifar100:FOLDER; tar shards, wds:FOLDER or wds:FOLDER/a-{000..009}.tar; a folder of Hugging Face datasets, "
    "hf:FOLDER, with options as in hf:FOLDER,image=photo,label=kind. A suffix :test or :train names a split. "
    "Annotated boxes, each an item: coco:FILE.json, yolo:FOLDER or voc:FOLDER, with options as in "
    "coco:FILE.json,images=FOLDER,margin=0.2. Other options: LIST.csv,root=FOLDER for the paths of a manifest; "
    "FOLDER,intensities=0,4095 for 16-bit images."
)
Images = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="IMAGES", help=_IMAGES_HELP)]
MinedImages = Annotated[
    str,
    tyro.conf.Positional,
    tyro.conf.arg(metavar="IMAGES", help=f"{_IMAGES_HELP} Or embeddings of images: a .parquet or .npy file."),
]
LabeledImages = Annotated[str, tyro.conf.arg(metavar="IMAGES")]
EncoderName = Annotated[
    str | None,
    tyro.conf.arg(metavar="ENCODER", help=f"{_GRAMMAR}. By default {DEFAULT}."),
]
MinedEncoderName = Annotated[
    str | None,
    tyro.conf.arg(
        metavar="ENCODER",
        help=f"{_GRAMMAR}; or embeddings of the images, a .parquet or .npy file. By default a small pretrained "
        f"encoder, {DEFAULT}.",
    ),
]
Device = Annotated[str, tyro.conf.arg(metavar="DEVICE", help="cpu, cuda, …; auto uses a GPU if there is one.")]
Workers = Annotated[
    int | None,
    tyro.conf.arg(help="Processes that decode images; by default one for each core but one, at most 8."),
]
