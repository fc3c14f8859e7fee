"""Configuration as frozen dataclasses, with exact conversion to JSON and back."""

import contextlib
import dataclasses
import difflib
import hashlib
import json
import math
import types
from collections.abc import Iterator
from typing import Any, Final, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from sdclr.errors import InputError, SettingError

Config = TypeVar("Config")

_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
_LARGEST: Final = 2**63 - 1
"""Integers have at most 64 bits, as in TOML. Larger ones are mistakes, and overflow as floats."""
_MOST: Final = {
    **dict.fromkeys(("width", "hidden", "dim", "k", "shots", "neighbors"), 2**16),
    **dict.fromkeys(("references", "images", "part"), 2**30),
    **dict.fromkeys(("draws", "iterations", "max_iterations"), 10**6),
    **dict.fromkeys(("epochs", "second_epochs", "milestones"), 10**12),  # placeholder of a time budget: 10^9
    **dict.fromkeys(("patch", "experts", "views", "checkpoints", "operations", "workers", "threads", "jobs"), 2**10),
    "batch_size": 2**20,
    "image_size": 2**12,
    "clusters": 10_000,
    "queue": 2**22,
    "exact": 2**30,
    "accumulate": 2**16,
}
"""Maximum values of settings that increase memory or time. Larger values are mistakes."""
_RENAMED: Final = {"grey": "gray", "neighbours": "neighbors"}
"""Names of settings in files of earlier versions, and their present names."""
_RENAMED_FROM: Final = {new: old for old, new in _RENAMED.items()}
_REMOVED: Final[dict[tuple[str, str], Any]] = {
    ("DamageConfig", "also"): [],
    ("DamageConfig", "schedule"): "constant",
    ("DamageConfig", "cycles"): 5.0,
    ("DensityConfig", "full"): None,
    ("DensityConfig", "weigh"): "sampling",
}
"""Removed settings, by dataclass, that files of earlier versions hold, and the only value that is still read."""
_SHOWN: Final = 60
"""Maximum length of a value in a message."""

_Key = tuple[str, ...]


def to_json(config: Any) -> dict[str, Any]:
    """A dataclass, including nested ones, as plain dictionaries and lists."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain


def from_json(cls: type[Config], values: dict[str, Any], *, base: Config | None = None) -> Config:
    """The inverse of `to_json`.

    Args:
        cls: The dataclass.
        values: Values of some or all fields, with a dictionary for each nested dataclass.
        base: Instance with the values of absent fields; by default these have the defaults of the dataclass.

    Raises:
        SettingError: If a key is not a field of the dataclass, a field without default is absent, or a value has the
            wrong type or is invalid. The message has full keys (`optim.lr`).

    Examples:
        >>> from sdclr.training.config import PretrainConfig
        >>> from_json(PretrainConfig, {"optim": {"lr": 0.1}}).optim.lr
        0.1
    """
    try:
        return _built(cls, values, base, ())
    except SettingError:
        raise
    except InputError as error:  # an invalid value, from the dataclass itself
        message = str(error)
        keys = [key for key in _leaves(values) if _decides(key, message, cls, values, base)]
        named = " and ".join(f"{'.'.join(key)} = {shown(_at(values, key))}" for key in keys[:3])
        raise SettingError(f"{named}: {message}" if named else message, keys) from error


def shown(value: Any) -> str:
    """A value as in settings files, on one line, and shortened if it is long.

    Examples:
        >>> shown(None), shown("a" * 1000)[-7:]
        ('null', 'aaaaaa…')
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return "{…}" if value else "{}"
    if isinstance(value, list | tuple):
        few = ", ".join(shown(item) if not isinstance(item, list | tuple) else "[…]" for item in value[:_SHOWN])
        return _cut(f"[{few}]")
    if isinstance(value, int | float | str):
        value = value[: 2 * _SHOWN] if isinstance(value, str) else value
        try:
            return _cut(repr(value))
        except ValueError:  # Python does not convert integers of more than 4,300 digits
            return "a whole number of thousands of digits"
    return _cut(str(value))  # dates and times of TOML


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def check_numbers(config: Any, *, place: str = "", **least: float) -> None:
    """Raise an error for invalid numbers (NaN, infinite, more than 64 bits, absurd sizes) and unknown choices.

    Args:
        config: A dataclass, which is checked with its nested dataclasses.
        place: Prefix of names in errors.
        least: Minimum values of some of its own numbers. None is accepted.

    Raises:
        InputError: If there is such a number, or one is too small or too large.

    Examples:
        >>> from sdclr.training.runtime import Runtime
        >>> check_numbers(Runtime(), log_steps=1)
    """
    hints = get_type_hints(type(config))
    for field in dataclasses.fields(config):
        name, value = place + field.name, getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            check_numbers(value, place=f"{name}.")
            continue
        _check_kind(hints[field.name], value, name)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise InputError(f"{name} is {number}: give a finite number")
            if isinstance(number, int) and abs(number) > _LARGEST:
                raise InputError(f"{name} is {shown(number)}: give a whole number of at most 64 bits")
            if isinstance(number, int | float) and number > _MOST.get(field.name, math.inf):
                raise InputError(f"{name} is {shown(number)}: give {_MOST[field.name]:,} or less")
            if isinstance(number, int | float) and number < least.get(field.name, -math.inf):
                raise InputError(f"{name} is {number}: give {least[field.name]:g} or more")


def _check_kind(hint: Any, value: Any, name: str) -> None:
    """Raise an error for a text that is not a choice of the field, and for one value in place of a tuple."""
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    choices = [choice for option in options if get_origin(option) is Literal for choice in get_args(option)]
    if isinstance(value, str) and choices and value not in choices and str not in options:
        near = difflib.get_close_matches(value[:_SHOWN], map(str, choices), n=1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(f"{name} is {shown(value)}: choose from {', '.join(map(str, choices))}{meant}")
    tuples = any(get_origin(option) is tuple for option in options)
    if isinstance(value, int | float) and tuples and not {int, float} & set(options):
        raise InputError(f"{name} is {shown(value)}: give a tuple, as in ({shown(value)},)")


def digest(config: Any) -> str:
    """Eight hexadecimal digits that are equal for equal configurations, and change with any value.

    Only values that differ from the defaults count, so that the digest stays when a version adds a field.
    """
    exact = from_json(type(config), to_json(config))  # converts integers in float fields
    usual = _flat(_defaults(type(config)))
    values = {key: value for key, value in _flat(to_json(exact)).items() if key not in usual or usual[key] != value}
    values = {_first_name(key): value for key, value in values.items()}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]


def _first_name(key: str) -> str:
    """A full key with the setting's name in the first version, so that digests stay when a setting is renamed."""
    place, dot, name = key.rpartition(".")
    return place + dot + _RENAMED_FROM.get(name, name)


def _defaults(cls: type[Any]) -> dict[str, Any]:
    """The defaults of a dataclass's fields, as plain JSON."""
    made = {}
    for field in dataclasses.fields(cls):
        value = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        if value is not dataclasses.MISSING:
            made[field.name] = to_json(value) if dataclasses.is_dataclass(value) else json.loads(json.dumps(value))
    return made


def differences(old: Any, new: Any) -> list[str]:
    """The fields in which two configurations differ, as `field: old → new`."""
    before, after = _flat(to_json(old)), _flat(to_json(new))
    keys = dict.fromkeys([*before, *after])
    return [f"{key}: {before.get(key)} → {after.get(key)}" for key in keys if before.get(key) != after.get(key)]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


class _AbsentError(SettingError):
    """A field that has no default has no value."""


def _built(cls: type[Config], values: dict[str, Any], base: Config | None, place: _Key) -> Config:
    """Create a dataclass from plain values.

    Raises:
        SettingError: If a key or the type of a value is wrong; the message has the full key.
        InputError: Errors of the dataclass itself.
    """
    hints = get_type_hints(cls)
    fields: dict[str, Any] = {}
    for given, value in values.items():
        if (cls.__name__, given) in _REMOVED:
            _check_removed(value, _REMOVED[cls.__name__, given], (*place, given))
            continue
        key = given if given in hints else _RENAMED.get(given, given)
        if key not in hints:
            raise SettingError(f"unknown key {shown(_dotted(place, key))}: {_hint(cls, key, place)}", [(*place, key)])
        fields[key] = _restored(hints[key], value, (*place, key), getattr(base, key, None))
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]  # `Config` stands for dataclasses only
        if field.name in fields:
            continue
        if base is not None:
            fields[field.name] = getattr(base, field.name)
        elif field.default is field.default_factory is dataclasses.MISSING:
            raise _AbsentError(f"the key {_dotted(place, field.name)!r} is missing: give it a value")
    try:
        return cls(**fields)
    except (ValueError, ArithmeticError) as error:  # raised by settings in `sdclr.method`
        raise InputError(str(error)) from error


def _check_removed(value: Any, usual: Any, key: _Key) -> None:
    if value != usual:
        name = ".".join(key)
        raise SettingError(f"{name!r} was removed, and is read only as {shown(usual)}, not {shown(value)}", [key])


def _dotted(place: _Key, key: str) -> str:
    return ".".join((*place, key))


def _hint(cls: type[Any], key: str, place: _Key) -> str:
    """Suggestion for an unknown key."""
    names = list(get_type_hints(cls))
    deeper = [known for known in _leaves(_defaults(cls)) if known[-1] == key]
    if deeper:
        return f"did you mean {' or '.join(repr(_dotted(place, '.'.join(known))) for known in deeper[:3])}?"
    near = difflib.get_close_matches(key[:_SHOWN], names, n=1)
    return f"did you mean {_dotted(place, near[0])!r}?" if near else f"known are {', '.join(names)}"


def _leaves(values: dict[str, Any], place: _Key = ()) -> Iterator[_Key]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*place, key))
        else:
            yield (*place, key)


def _at(values: dict[str, Any], key: _Key) -> Any:
    for part in key:
        values = values[part]
    return values


def _without(values: dict[str, Any], key: _Key) -> dict[str, Any]:
    first, *rest = key
    if not rest:
        return {name: value for name, value in values.items() if name != first}
    return values | {first: _without(values[first], tuple(rest))}


def _decides(key: _Key, message: str, cls: type[Any], values: dict[str, Any], base: Any) -> bool:
    """Whether an error disappears without one of the values."""
    try:
        _built(cls, _without(values, key), base, ())
    except _AbsentError:
        return False
    except InputError as error:
        return str(error) != message
    return True


def _restored(hint: Any, value: Any, key: _Key, base: Any = None) -> Any:
    """A JSON value converted to the type of a field."""
    origin, options, name = get_origin(hint), get_args(hint), ".".join(key)
    if origin in (Union, types.UnionType):
        return _first_accepted(options, value, key, base)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            known = ", ".join(field.name for field in dataclasses.fields(hint))
            raise SettingError(f"{name!r} must be a table with keys of {known}, not {shown(value)}", [key])
        return _built(hint, value, base, key)  # type: ignore[arg-type]  # `is_dataclass` narrows to instances too
    if origin is Literal:
        return _one_of(options, value, key)
    if origin is tuple:
        return _restored_tuple(options, value, key)
    if hint is float and type(value) is int and abs(value) <= _LARGEST:
        return float(value)
    if isinstance(hint, type) and type(value) is not hint:  # exactly: a bool is no int
        number = isinstance(value, str) and value.removeprefix("-").replace(".", "", 1).isdecimal()
        quoted = ": leave out the quotation marks" if number and hint in {int, float} else ""
        raise SettingError(f"{name!r} must be {_NAMES.get(hint, hint.__name__)}, not {shown(value)}{quoted}", [key])
    return _bounded(value, key)


def _bounded(value: Any, key: _Key) -> Any:
    """The value, after a check that numbers are finite and have at most 64 bits."""
    if isinstance(value, int) and abs(value) > _LARGEST:
        raise SettingError(f"{'.'.join(key)!r} must be a whole number of at most 64 bits, not {shown(value)}", [key])
    if isinstance(value, float) and not math.isfinite(value):
        raise SettingError(f"{'.'.join(key)!r} must be a finite number, not {value}", [key])
    return value


def _one_of(options: tuple[Any, ...], value: Any, key: _Key) -> Any:
    if any(value == option and type(value) is type(option) for option in options):
        return value
    near = difflib.get_close_matches(value[:_SHOWN], map(str, options), n=1) if isinstance(value, str) else []
    meant = f": did you mean {near[0]!r}?" if near else ""
    known = ", ".join(map(shown, options))
    raise SettingError(f"{'.'.join(key)!r} must be one of {known}, not {shown(value)}{meant}", [key])


def _first_accepted(options: tuple[Any, ...], value: Any, key: _Key, base: Any) -> Any:
    if value is None and types.NoneType in options:
        return None
    *others, last = [option for option in options if option is not types.NoneType]
    for option in others:
        with contextlib.suppress(SettingError):
            return _restored(option, value, key, base)
    try:
        return _restored(last, value, key, base)
    except SettingError as error:
        if others:
            raise SettingError(
                f"{'.'.join(key)!r} must be {_either((*others, last))}, not {shown(value)}", [key]
            ) from error
        raise


def _either(options: tuple[Any, ...]) -> str:
    """The possible values of several types in words: "a number or 'adaptive'"."""
    words = []
    for option in options:
        literal = get_origin(option) is Literal
        words += [shown(one) for one in get_args(option)] if literal else [_NAMES.get(option, str(option))]
    return " or ".join(words)


def _restored_tuple(options: tuple[Any, ...], value: Any, key: _Key) -> tuple[Any, ...]:
    name = ".".join(key)
    if not isinstance(value, list | tuple):
        raise SettingError(f"{name!r} must be a list, not {shown(value)}", [key])
    if options[-1] is Ellipsis:
        options = options[:1] * len(value)
    if len(value) != len(options):
        raise SettingError(f"{name!r} must be a list of {len(options)} values, not {shown(value)}", [key])
    return tuple(_restored(option, item, key) for option, item in zip(options, value, strict=True))
