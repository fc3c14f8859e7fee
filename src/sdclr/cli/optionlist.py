"""The options of a command (names, values, defaults, help), read from its dataclass like tyro does."""

import ast
import dataclasses
import inspect
import textwrap
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import tyro

_NAMES: Final = {int: "INT", float: "FLOAT", str: "STR", Path: "PATH"}


class Option(NamedTuple):
    """One option or positional argument."""

    name: str
    """Name on the command line: `--damage.ratio`; `--page` for the flags `--page` and `--no-page`; the metavar of a
    positional argument, such as `IMAGES`."""
    metavar: str
    """Placeholder of the value, such as `FLOAT` or `{a,b}`; empty for a flag and a positional argument."""
    choices: tuple[str, ...]
    """The possible values, if they are fixed; otherwise empty."""
    help: str
    """The docstring of its field."""
    default: str | None
    """The default as on the command line, or `on` and `off`; None if there is nothing to show."""
    required: bool
    """Whether the option is required."""
    flag: bool
    """Whether it has no value."""
    section: str
    """The nested configuration that it belongs to, such as `damage`; empty for the command's own options."""

    @property
    def positional(self) -> bool:
        """Whether it is a positional argument."""
        return not self.name.startswith("--")


def options_of(kind: Any, prefix: str = "", value: Any = None) -> Iterator[Option]:
    """All options of a dataclass. Those of nested configurations come last.

    Args:
        kind: The dataclass.
        prefix: Prefix of the names, such as `damage.`.
        value: An instance with the defaults; by default those of the fields.
    """
    hints, texts = get_type_hints(kind, include_extras=True), _docstrings(kind)
    nested: list[tuple[Any, str, Any]] = []
    for field in dataclasses.fields(kind):
        base, notes = _without_notes(hints[field.name])
        told = next((note for note in notes if hasattr(note, "metavar")), None)
        default = _default(field) if value is None else getattr(value, field.name)
        name = prefix + field.name.replace("_", "-")
        if dataclasses.is_dataclass(base):
            nested.append((base, prefix if told is not None and told.name == "" else f"{name}.", default))
            continue
        positional = tyro.conf.Positional in notes
        metavar = (told.metavar if told is not None else None) or _metavar(base)
        yield Option(
            name=metavar if positional else f"--{name}",
            metavar="" if positional or base is bool else metavar,
            choices=tuple(_choices(base)),
            help=" ".join(((told.help if told is not None else None) or texts.get(field.name, "")).split()),
            default=_typed(default),
            required=default is dataclasses.MISSING,
            flag=base is bool,
            section=prefix.removesuffix("."),
        )
    for base, start, default in nested:
        yield from options_of(base, start, default)


def _without_notes(hint: Any) -> tuple[Any, Sequence[Any]]:
    if get_origin(hint) is Annotated:
        base, *notes = get_args(hint)
        return base, notes
    return hint, ()


def _default(field: Any) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _metavar(hint: Any) -> str:
    base, _ = _without_notes(hint)
    origin, parts = get_origin(base), get_args(base)
    if origin is Literal:
        return "{" + ",".join(map(str, parts)) + "}"
    if origin in {Union, types.UnionType}:
        several = [part for part in parts if part is not types.NoneType]
        names = [_metavar(part) for part in several]
        return names[0] if len(names) == 1 else "|".join(name.strip("{}") for name in names)
    if origin is tuple:
        first = _metavar(parts[0])
        return f"{first} ..." if parts[-1] is Ellipsis else " ".join(map(_metavar, parts))
    return "{true,false}" if base is bool else _NAMES.get(base, str(base))


def _choices(hint: Any) -> Iterator[str]:
    base, _ = _without_notes(hint)
    if get_origin(base) is Literal:
        yield from map(str, get_args(base))
    else:
        for part in get_args(base):
            yield from _choices(part)


def _typed(value: Any) -> str | None:
    if value is dataclasses.MISSING or value is None or value == ():
        return None
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:g}"
    return " ".join(filter(None, map(_typed, value))) if isinstance(value, tuple) else str(value)


def _docstrings(kind: Any) -> dict[str, str]:
    """The docstring below each field of a dataclass, by the field's name."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(tree, ast.ClassDef)  # noqa: S101  # for mypy
    found = {}
    for field, below in zip(tree.body, tree.body[1:], strict=False):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=text)):
                found[name] = str(text)
    return found
