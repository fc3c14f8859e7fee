"""Configuration as frozen dataclasses: to JSON and back, unchanged."""

import dataclasses
import difflib
import hashlib
import json
import types
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from sdclr.errors import InputError

Config = TypeVar("Config")


def to_json(config: Any) -> dict[str, Any]:
    """A dataclass, nested ones included, as plain dictionaries and lists."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain


def from_json(cls: type[Config], values: dict[str, Any]) -> Config:
    """The inverse of `to_json`; fields that are absent keep their defaults.

    Raises:
        InputError: If a key is no field of the dataclass, or a value is not accepted by it.
    """
    hints = get_type_hints(cls)
    for key in values:
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(hints)}"
            raise InputError(f"{cls.__name__} has no field {key!r}: {hint}")
    return cls(**{key: _restored(hints[key], value, key) for key, value in values.items()})


def digest(config: Any) -> str:
    """Eight hexadecimal digits that change with any value of the configuration."""
    return hashlib.sha256(json.dumps(to_json(config), sort_keys=True).encode()).hexdigest()[:8]


def differences(old: Any, new: Any) -> list[str]:
    """The fields in which two configurations differ, as `field: old → new`."""
    before, after = _flat(to_json(old)), _flat(to_json(new))
    return [f"{key}: {before.get(key)} → {after.get(key)}" for key in after if before.get(key) != after.get(key)]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _restored(hint: Any, value: Any, key: str) -> Any:
    if value is not None and get_origin(hint) in (Union, types.UnionType):
        hint = next(option for option in get_args(hint) if option is not types.NoneType)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise InputError(
                f"{key!r} must be an object with the fields of {getattr(hint, '__name__', hint)}, not {value!r}"
            )
        return from_json(hint, value)  # type: ignore[arg-type]  # `is_dataclass` narrows to instances too
    return tuple(value) if isinstance(value, list) else value
