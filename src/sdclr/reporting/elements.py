"""Elements of a page: figures as inline SVG, pictures as data URIs, both optionally also as files."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup
from PIL import Image

from sdclr.errors import InputError
from sdclr.files import write_atomically
from sdclr.reporting.figures import inline_svg, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def template(name: str) -> Template:
    """A template of this package. Values are escaped, and undefined ones raise an error."""
    environment = Environment(
        loader=PackageLoader("sdclr.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


@dataclass(frozen=True)
class Plot:
    """A figure on the page."""

    svg: Markup
    caption: str
    label: str
    """Text for screen readers."""


@dataclass(frozen=True)
class Sheet:
    """Pictures on the page."""

    uri: str
    width: int
    height: int
    label: str


class Elements:
    """Creates the elements of one page.

    Args:
        folder: Folder for figures and pictures as files; none by default.

    Raises:
        InputError: The folder is a file.
    """

    def __init__(self, folder: Path | None = None) -> None:
        if folder is not None and folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file: give the figures a folder")
        self._folder = folder
        self._names: set[str] = set()

    def plot(self, figure: Figure, name: str, caption: str, label: str) -> Plot:
        """Return a figure for the page, and save it as NAME.svg and NAME.png in the folder."""
        unique = self._unique(name)
        if self._folder is not None:
            save_figure(figure, self._folder / unique)
        # The markup is ours, and the names in it are already escaped.
        return Plot(Markup(inline_svg(figure, unique)), caption, label)  # noqa: S704

    def sheet(self, image: Image.Image, label: str) -> Sheet:
        """Return pictures for the page."""
        encoded = base64.b64encode(_png(image)).decode()
        return Sheet(f"data:image/png;base64,{encoded}", image.width, image.height, label)

    def save(self, image: Image.Image, name: str) -> None:
        """Save pictures as NAME.png in the folder, if there is one."""
        if self._folder is not None:
            write_atomically(self._folder / f"{self._unique(name)}.png", _png(image))

    def _unique(self, name: str) -> str:
        """A unique name that is valid as a file name and as an HTML id."""
        plain = re.sub(r"[^A-Za-z0-9.-]+", "-", name).strip("-.") or "plot"
        number, unique = 1, plain
        while unique.lower() in self._names:
            number += 1
            unique = f"{plain}-{number}"
        self._names.add(unique.lower())
        return unique


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
