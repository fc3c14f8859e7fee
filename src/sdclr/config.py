"""Configuration as frozen dataclasses: to JSON and back, unchanged."""

import contextlib
import dataclasses
import difflib
import hashlib
import json
import types
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from sdclr.errors import InputError

Config = TypeVar("Config")

_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def to_json(config: Any) -> dict[str, Any]:
    """A dataclass, nested ones included, as plain dictionaries and lists."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain


def from_json(cls: type[Config], values: dict[str, Any]) -> Config:
    """The inverse of `to_json`; fields that are absent keep their defaults.

    Raises:
        InputError: If a key is no field of the dataclass, a field that has no default is absent, or a value has
            another type than the field or is not accepted by it.
    """
    hints = get_type_hints(cls)
    for key in values:
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(hints)}"
            raise InputError(f"{cls.__name__} has no field {key!r}: {hint}")
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]  # `Config` stands for dataclasses only
        if field.name not in values and field.default is field.default_factory is dataclasses.MISSING:
            raise InputError(f"{cls.__name__} lacks the field {field.name!r}: give it a value")
    return cls(**{key: _restored(hints[key], value, key) for key, value in values.items()})


def digest(config: Any) -> str:
    """Eight hexadecimal digits, equal for equal configurations, that change with any value.

    Only what differs from the defaults counts, so that they stay when a version adds a field.
    """
    exact = from_json(type(config), to_json(config))  # a whole number given for a float is that float
    usual = _flat(_defaults(type(config)))
    values = {key: value for key, value in _flat(to_json(exact)).items() if key not in usual or usual[key] != value}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]


def _defaults(cls: type[Any]) -> dict[str, Any]:
    """The fields of a dataclass that have one, as plain JSON."""
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


def _restored(hint: Any, value: Any, key: str) -> Any:
    """A JSON value as the type that a field asks for."""
    origin, options = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _first_accepted(options, value, key)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise InputError(
                f"{key!r} must be an object with the fields of {getattr(hint, '__name__', hint)}, not {value!r}"
            )
        return from_json(hint, value)  # type: ignore[arg-type]  # `is_dataclass` narrows to instances too
    if origin is Literal:
        if not any(value == option and type(value) is type(option) for option in options):
            raise InputError(f"{key!r} must be one of {', '.join(map(repr, options))}, not {value!r}")
        return value
    if origin is tuple:
        return _restored_tuple(options, value, key)
    if hint is float and type(value) is int:
        return float(value)
    if isinstance(hint, type) and type(value) is not hint:  # exactly: a bool is no int
        raise InputError(f"{key!r} must be {_NAMES.get(hint, hint.__name__)}, not {value!r}")
    return value


def _first_accepted(options: tuple[Any, ...], value: Any, key: str) -> Any:
    if value is None and types.NoneType in options:
        return None
    *others, last = [option for option in options if option is not types.NoneType]
    for option in others:
        with contextlib.suppress(InputError):
            return _restored(option, value, key)
    return _restored(last, value, key)


def _restored_tuple(options: tuple[Any, ...], value: Any, key: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise InputError(f"{key!r} must be a list, not {value!r}")
    if options[-1] is Ellipsis:
        options = options[:1] * len(value)
    if len(value) != len(options):
        raise InputError(f"{key!r} must be a list of {len(options)} values, not {value!r}")
    return tuple(_restored(option, item, key) for option, item in zip(options, value, strict=True))
