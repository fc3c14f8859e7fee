"""Benchmarks: combinations of frameworks, damage and rebalancers, trained on the same splits.

A cell is written `framework+damage[+rebalancer…][+oracle][@key=value…]`, such as `byol+prune+temperature@epochs=80`. A
key is the dotted name of a field of `PretrainConfig`.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import product
from typing import Any, Final, get_args

from sdclr.config import from_json, to_json
from sdclr.encoders import EncoderConfig
from sdclr.errors import InputError
from sdclr.longtail.config import DatasetName
from sdclr.paper.config import Ratio
from sdclr.paper.experiments import Setting, as_task, pretraining
from sdclr.paper.numbers import Subset
from sdclr.paper.tasks import ORACLE, Task
from sdclr.recipes import with_framework
from sdclr.training.config import DamageConfig, DamageKind, FrameworkName, PretrainConfig, RebalancerName

_ORACLE: Final = "oracle"
_SET_ELSEWHERE: Final[Mapping[str, str]] = {
    "framework": "the first part of the cell",
    "damage.kind": "the second part of the cell",
    "rebalance": "a further part of the cell",
    "seed": "the number of the split",
}
_FORM: Final = "a cell is framework+damage[+rebalancer…][+oracle][@key=value…], such as simclr+prune@damage.ratio=0.5"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A method of the bench, as requested."""

    framework: FrameworkName
    damage: DamageKind
    rebalance: tuple[RebalancerName, ...] = ()
    oracle: bool = False
    """Sample images by their labels, every class equally often."""
    values: tuple[tuple[str, Any], ...] = ()
    """Further settings: dotted names of fields of `PretrainConfig`, and their JSON values."""

    def __str__(self) -> str:
        parts = (self.framework, self.damage, *self.rebalance, *([_ORACLE] if self.oracle else []))
        return "+".join(parts) + "".join(f"@{key}={_spelled(value)}" for key, value in self.values)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A row of the leaderboard."""

    cell: Cell
    label: str
    """Unique name of the row."""
    tasks: tuple[Task, ...]
    """One task per split."""

    @property
    def config(self) -> PretrainConfig:
        """Configuration of its runs. Only the seed differs between splits."""
        return self.tasks[0].config


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """The methods that a bench compares."""

    entries: tuple[Entry, ...]
    left_out: Mapping[str, str]
    """Cells that are not trained, with the reason."""

    @property
    def tasks(self) -> list[Task]:
        """All runs, the first split of every method first, so that an interrupted bench has complete splits."""
        return [task for of_split in zip(*(entry.tasks for entry in self.entries), strict=True) for task in of_split]

    def find(self, text: str) -> Entry:
        """The first row with this label, or with all parts and values of this cell.

        Raises:
            InputError: There is no such row.
        """
        for entry in self.entries:
            if text == entry.label:
                return entry
        wanted = parse_cell(text)
        for entry in self.entries:
            if replace(entry.cell, values=wanted.values) == wanted and set(wanted.values) <= set(entry.cell.values):
                return entry
        known = ", ".join(str(entry.cell) for entry in self.entries)
        raise InputError(f"{text} is not a row of this bench, so it cannot be the baseline: choose one of {known}")


def parse_cell(text: str) -> Cell:
    """Parse a cell.

    Raises:
        InputError: The text is not a cell. `matrix` checks whether its parts and values are valid together.

    Example:
        >>> parse_cell("moco+prune+temperature@epochs=80").values
        (('epochs', 80),)
    """
    head, *settings = text.split("@")
    framework, *parts = head.split("+")
    if not parts:
        raise InputError(f"{text!r} names no damage: {_FORM}")
    names = tuple(name for name in get_args(RebalancerName) if name != "outside")  # a bench has no outside images
    known = (*names, _ORACLE)
    added = [_named(text, part, known, "rebalancer") for part in parts[1:]]
    return Cell(
        framework=_named(text, framework, get_args(FrameworkName), "framework"),
        damage=_named(text, parts[0], get_args(DamageKind), "damage"),
        # Sorted, so that each method has one name. Repeated names stay, and the configuration raises an error.
        rebalance=tuple(sorted((name for name in added if name != _ORACLE), key=names.index)),
        oracle=_ORACLE in added,
        values=tuple(_setting(text, setting) for setting in settings),
    )


def crossed(frameworks: Sequence[str], damages: Sequence[str], rebalances: Sequence[str]) -> list[Cell]:
    """The Cartesian product of three axes.

    Args:
        frameworks: Names of frameworks.
        damages: Kinds of damage.
        rebalances: Comma-separated rebalancers, which may include "oracle", or "none".

    Raises:
        InputError: A name is unknown.
    """
    added = ["" if names == "none" else "+" + names.replace(",", "+") for names in rebalances]
    return [parse_cell(f"{a}+{b}{c}") for a, b, c in product(frameworks, damages, added)]


def widened(cells: Sequence[Cell], widths: Sequence[int]) -> list[Cell]:
    """Each cell with encoders of several widths, unless it sets a width.

    Raises:
        InputError: A width is not positive.
    """
    made = []
    for cell, width in product(cells, widths):
        EncoderConfig(width=width)  # checks the width
        own = "encoder.width" in dict(cell.values)
        made.append(cell if own else replace(cell, values=(*cell.values, ("encoder.width", width))))
    return list(dict.fromkeys(made)) if widths else list(cells)


def matrix(
    cells: Sequence[Cell],
    dataset: DatasetName,
    setting: Setting,
    *,
    ratio: Ratio | None = None,
    lenient: bool = False,
) -> Matrix:
    """The runs of a bench.

    Args:
        cells: The methods to compare, in this order.
        dataset: The dataset.
        setting: Scale and splits.
        ratio: The pruning ratio of every cell with damage that does not set it; by default the scale's.
        lenient: List invalid cells in `left_out` instead of raising an error.

    Raises:
        InputError: A cell or the ratio is invalid, or no cell is left.
    """
    if ratio is not None:
        from_json(DamageConfig, {"ratio": ratio})  # checks the ratio
    configs: dict[Cell, PretrainConfig] = {}
    left_out: dict[str, str] = {}
    for cell in cells:
        try:
            config = configure(cell, dataset, setting, ratio)
        except InputError as error:
            if not lenient:
                raise InputError(f"{cell}: {error}") from error
            left_out[str(cell)] = str(error)
            continue
        same = next((one for one, other in configs.items() if (other, one.oracle) == (config, cell.oracle)), None)
        if same is None:
            configs[cell] = config
        elif same != cell:
            left_out[str(cell)] = f"is the same as {same}"
    if not configs:
        raise InputError(
            f"no cell is left: {'; '.join(f'{cell}: {why}' for cell, why in left_out.items()) or 'none given'}"
        )
    labels = _labels(configs)
    entries = [
        Entry(cell=cell, label=labels[cell], tasks=tuple(_tasks(cell, config, dataset, setting)))
        for cell, config in configs.items()
    ]
    return Matrix(entries=tuple(entries), left_out=left_out)


def configure(cell: Cell, dataset: DatasetName, setting: Setting, ratio: Ratio | None = None) -> PretrainConfig:
    """Configuration of a cell's runs: the recipe, then the framework's settings, then the values of the cell.

    Args:
        cell: The cell.
        dataset: The dataset.
        setting: Scale and splits.
        ratio: The pruning ratio, if the cell does not set it.

    Raises:
        InputError: Settings contradict each other, or a value is invalid for its field.
    """
    values = dict(cell.values)
    if cell.damage == "none" and any(key.startswith("damage.") for key in values):
        raise InputError("a cell without damage cannot set values for it: leave out @damage.…, or name a damage")
    if cell.damage != "none" and ratio is not None:
        values = {"damage.ratio": ratio} | values
    if "epochs" in values:  # as --epochs: the warm-up shrinks with them
        setting = replace(setting, epochs=from_json(Setting, {"epochs": values.pop("epochs")}).epochs)
    base = pretraining(dataset, _subset(dataset), "sdclr" if cell.damage == "prune" else "simclr", setting, 1)
    base = replace(base, damage=replace(base.damage, kind=cell.damage))
    # The framework's heads and learning rate depend on these fields, so set them first. The final values override all.
    shape = {key: value for key, value in values.items() if key.split(".")[0] in {"encoder", "views", "batch_size"}}
    framed = with_framework(_with_values(base, shape), cell.framework)
    return _with_values(framed, values | {"rebalance": list(cell.rebalance)})


def _tasks(cell: Cell, config: PretrainConfig, dataset: DatasetName, setting: Setting) -> Iterable[Task]:
    for split in setting.numbers(dataset):
        task = as_task(dataset, _subset(dataset), replace(config, seed=split), setting, split)
        yield replace(task, oracle=True, snapshot_epochs=0) if cell.oracle else task


def _subset(dataset: DatasetName) -> Subset:
    return "full" if dataset in {"cifar10", "cifar100"} else "long_tail"


def _labels(configs: Mapping[Cell, PretrainConfig]) -> dict[Cell, str]:
    """Labels of the cells: the method, and the values that differ from other cells."""
    names = {cell: config.method + (f" + {ORACLE}" if cell.oracle else "") for cell, config in configs.items()}
    labels = {}
    for cell, name in names.items():
        alike = [other for other, its in names.items() if its == name]
        own = [key for key in dict(cell.values) if key != "damage.ratio" and _differs(key, configs.values())]
        theirs = [key for other in alike for key in dict(other.values) if _differs(key, [configs[it] for it in alike])]
        told = [f"{key} {_spelled(_value(configs[cell], key))}" for key in dict.fromkeys([*own, *theirs])]
        labels[cell] = f"{name} ({', '.join(told)})" if told else name
    return labels


def _differs(key: str, configs: Iterable[PretrainConfig]) -> bool:
    first, *others = [_value(config, key) for config in configs]
    return any(other != first for other in others)


def _value(config: PretrainConfig, key: str) -> Any:
    return reduce(getattr, key.split("."), config)


def _spelled(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _setting(text: str, setting: str) -> tuple[str, Any]:
    """Parse a dotted name and its value, which is JSON or otherwise text."""
    key, separator, value = setting.partition("=")
    if not separator or not key:
        raise InputError(f"{text!r}: {setting!r} sets nothing: {_FORM}")
    if key in _SET_ELSEWHERE:
        raise InputError(f"{text!r}: {key} is set by {_SET_ELSEWHERE[key]}: leave out @{setting}")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value


def _with_values(config: PretrainConfig, values: Mapping[str, Any]) -> PretrainConfig:
    """A configuration with some fields replaced, by their dotted names."""
    plain = to_json(config)
    for key, value in values.items():
        *groups, name = key.split(".")
        place = plain
        for group in groups:
            inner = place.setdefault(group, {})
            if not isinstance(inner, dict):
                raise InputError(f"{group!r} in {key!r} has no fields: set it as {group}=…")
            place = inner
        place[name] = value
    return from_json(PretrainConfig, plain)


def _named(text: str, name: str, known: Sequence[Any], what: str) -> Any:
    if name not in known:
        raise InputError(f"{text!r}: {name!r} is not a known {what}: choose from {', '.join(known)}; {_FORM}")
    return name
