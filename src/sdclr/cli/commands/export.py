"""Options of `sdclr export`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from sdclr.choices import Format
from sdclr.encoders.config import GRAMMAR


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write an encoder for other tools, with a model card. Each file is read back and compared.

    For example:
        sdclr export runs/a exported/
        sdclr export runs/a exported/ --formats onnx
        sdclr export timm:tf_efficientnet_lite0 exported/
    """

    encoder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ENCODER", help=f"The encoder: {GRAMMAR}.")]
    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER", help="A new folder.")]
    formats: tuple[Format, ...] | None = None
    """Formats to write; by default every format that can hold this encoder."""
