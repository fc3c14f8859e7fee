"""Settings files: TOML or JSON with some or all settings of a run.

People write these files, so every error gives the file, the line if known, the key, the value and a remedy.
"""

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import tomli_w

from sdclr.config import from_json, shown, to_json
from sdclr.errors import InputError, SettingError
from sdclr.files import read_regular, write_atomically
from sdclr.settings_lines import json_line, toml_line
from sdclr.visible import visible

Config = TypeVar("Config")
SettingsFormat = Literal["json", "toml"]

LARGEST: Final = 2**20
"""Maximum file size in bytes. Settings have a few thousand."""
_PARTS: Final = 100
"""Maximum number of parts of a dotted TOML key, because the parser takes cubic time for them."""
_DOTTED: Final = re.compile(rf"""(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){{{_PARTS}}}""")
_PLACE: Final = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_LONGEST: Final = 500
"""Maximum length of a message."""


@dataclass(frozen=True, kw_only=True)
class SettingsFile:
    """The contents of a settings file. Keys and values are not checked yet."""

    path: Path
    format: SettingsFormat
    text: str
    values: Mapping[str, Any]

    def config(self, cls: type[Config], *, base: Config | None = None, apart: tuple[str, ...] = ()) -> Config:
        """The settings as a dataclass.

        Args:
            cls: The dataclass.
            base: The settings that the file changes; by default the defaults of the dataclass.
            apart: Top-level keys that are not settings of the dataclass; see `word`.

        Raises:
            InputError: If a key is unknown, or a value has the wrong type or is out of range.
        """
        values = {key: value for key, value in self.values.items() if key not in apart}
        try:
            return from_json(cls, values, base=base)
        except SettingError as error:
            raise self.refusal(str(error), error.keys) from error

    def word(self, key: str, known: tuple[str, ...]) -> str | None:
        """The text under a top-level key, which must be one of the known ones; None if the key is absent.

        Raises:
            InputError: If the value is not a known one.
        """
        if key not in self.values:
            return None
        value = self.values[key]
        if not isinstance(value, str) or value not in known:
            spelled = ", ".join(map(shown, known))
            raise self.refusal(f"{key!r} must be one of {spelled}, not {shown(value)}", ((key,),))
        return value

    def refusal(self, message: str, keys: tuple[tuple[str, ...], ...]) -> InputError:
        """An error about keys of this file, with the line of the first key that is found."""
        find = toml_line if self.format == "toml" else json_line
        line = next((found for key in keys if (found := find(self.text, key)) is not None), None)
        return _refusal(self.path, message, line)


def read_settings_file(path: str | Path) -> SettingsFile:
    """Read a `.toml` or `.json` file.

    Raises:
        InputError: If the file is missing, too large, not text, or not valid TOML or JSON.
    """
    path = Path(path).expanduser()
    suffix = path.suffix.lower().removeprefix(".")
    if suffix not in {"json", "toml"}:
        raise InputError(f"{path} has no name of a settings file: give a file that ends in .toml or .json")
    data = read_regular(path, limit=LARGEST, remedy="settings have a few thousand; name another file")
    if not data.strip():
        raise InputError(f"{path} is empty: write settings into it, or leave it out")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _refusal(
            path, f"byte 0x{data[error.start]:02x} is not UTF-8 text: save the file as UTF-8", line
        ) from error
    if suffix == "toml":
        return SettingsFile(path=path, format="toml", text=text, values=_toml(path, text))
    return SettingsFile(path=path, format="json", text=text, values=_json(path, text))


def read_settings(path: str | Path, cls: type[Config], *, base: Config | None = None) -> Config:
    """Read settings from a `.toml` or `.json` file. The file may be partial.

    Args:
        path: The file.
        cls: The dataclass of the settings, for example `PretrainConfig`.
        base: Instance with the values of missing settings; by default the defaults of the dataclass.

    Returns:
        An instance of `cls`.

    Raises:
        InputError: If the file cannot be read, a key is unknown, or a value has the wrong type or is out of range. The
            message gives the file, the line if known, the full key (`optim.lr`), the value and a remedy.

    Examples:
        >>> sdclr.write_settings("mine.toml", sdclr.PretrainConfig(epochs=400, optim=sdclr.OptimConfig(lr=0.25)))
        >>> config = sdclr.read_settings("mine.toml", sdclr.PretrainConfig)
        >>> config.epochs, config.optim.lr
        (400, 0.25)
    """
    return read_settings_file(path).config(cls, base=base)


def settings_text(config: Any, form: SettingsFormat, *, first: Mapping[str, Any] | None = None) -> str:
    """All settings of a dataclass as JSON or TOML. TOML has no null: values that are None are left out.

    Args:
        config: The dataclass.
        form: The format.
        first: Keys and values to put first.
    """
    values = {**(first or {}), **to_json(config)}
    if form == "json":
        return json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    return tomli_w.dumps(_without_none(values))


def write_settings(path: str | Path, config: Any) -> None:
    """Write settings to a `.toml` or `.json` file, whole or not at all. See `settings_text`.

    Args:
        path: The file.
        config: A dataclass of settings.

    Raises:
        InputError: If the file name has another suffix, or a text in the settings is not valid Unicode.

    Examples:
        >>> sdclr.write_settings("views.json", sdclr.ViewConfig(image_size=64))
        >>> sdclr.read_settings("views.json", sdclr.ViewConfig).image_size
        64
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in {".json", ".toml"}:
        raise InputError(f"{path} has no name of a settings file: give a name that ends in .toml or .json")
    text = settings_text(config, "toml" if suffix == ".toml" else "json")
    try:
        write_atomically(path, text.encode())
    except UnicodeEncodeError as error:
        raise InputError(f"{path}: {error.object[error.start]!r} is not a character: change this text") from error


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, dict) else value
        for key, value in values.items()
        if value is not None
    }


def _toml(path: Path, text: str) -> dict[str, Any]:
    if (found := _DOTTED.search(text)) is not None:
        line = text.count("\n", 0, found.start()) + 1
        raise _refusal(path, f"a key of more than {_PARTS} parts: settings have two, as in optim.lr", line)
    try:
        return tomllib.loads(text.replace("\r\n", "\n"))
    except RecursionError as error:
        raise _refusal(path, "values are nested too deeply: settings have two levels", None) from error
    except ValueError as error:
        message = str(error)
        place = _PLACE.search(message)
        said = f"invalid TOML: {message[: place.start()] if place else message}"
        if place and place[1]:
            raise _refusal(path, said, int(place[1]), int(place[2])) from error
        raise _refusal(path, f"{said} at its end" if place else said, None) from error


def _json(path: Path, text: str) -> dict[str, Any]:
    try:
        values = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError as error:
        raise _refusal(path, "values are nested too deeply: settings have two levels", None) from error
    except json.JSONDecodeError as error:
        raise _refusal(path, f"invalid JSON: {error.msg}", error.lineno, error.colno) from error
    except _TwiceError as error:
        again = json_line(text, (error.key,), times=2)
        raise _refusal(path, f"has the key {error.key[:60]!r} twice: leave one out", again) from error
    except ValueError as error:
        raise _refusal(path, f"invalid JSON: {error}", None) from error
    if not isinstance(values, dict):
        kind = {list: "a list", str: "a text", type(None): "null"}.get(type(values), "a single value")
        raise _refusal(path, f'holds {kind}: settings are a JSON object, as in {{"epochs": 50}}', None)
    return values


class _TwiceError(ValueError):
    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in pairs:
        if key in made:
            raise _TwiceError(key)
        made[key] = value
    return made


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number: give a finite one")


def _refusal(path: Path, message: str, line: int | None, column: int | None = None) -> InputError:
    """An error about a file, on one line with limited length."""
    place = "" if line is None else f", line {line}"
    place += "" if column is None else f", column {column}"
    words = visible(" ".join(message.split()))
    return InputError(f"{path}{place}: {words if len(words) <= _LONGEST else words[: _LONGEST - 1] + '…'}")
