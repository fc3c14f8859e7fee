"""Options of `sdclr recipe`."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from sdclr.recipes import HeadKind, Method
from sdclr.settings import SettingsFormat


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Print a recipe of the paper as a settings file, JSON or TOML, for `sdclr pretrain --settings`.

    For example:
        sdclr recipe cifar_lt --format toml > sdclr.toml
        sdclr recipe cifar_lt --method simclr > simclr.json
        sdclr pretrain cifar100:./data --settings simclr.json --subset.kind long-tail
    """

    name: Annotated[Literal["cifar_lt", "imagenet100_lt", "imagenet_lt"], tyro.conf.Positional]
    """The data set of the recipe."""
    method: Method = "sdclr"
    """Self-damaging or plain, a control of the damage, or another baseline."""
    head: HeadKind = "matched"
    """Projection heads: equal for all methods, or those of the paper's reference implementation."""
    format: SettingsFormat = "json"
    """TOML is easier to edit. It has no null, so it leaves out settings without a value."""
