"""Intensities that become black and white in images of more than 8 bits, with one range for a whole collection."""

import math
from dataclasses import dataclass, fields
from typing import Final, TypeAlias

from sdclr.errors import InputError

Range: TypeAlias = tuple[float, float]
"""The intensity that becomes 0, and the one that becomes 255."""

_NAMES: Final = {"deep": "16-bit", "integer": "32-bit", "real": "float"}


@dataclass(frozen=True, kw_only=True)
class Intensities:
    """The range of each type of image with more than 8 bits; None for types that are not known.

    Raises:
        InputError: If a range is empty or not finite.
    """

    deep: Range | None = None
    """Range of images of unsigned 16-bit integers."""
    integer: Range | None = None
    """Range of images of other integers."""
    real: Range | None = None
    """Range of images of floating-point numbers."""

    def __post_init__(self) -> None:
        for name in _NAMES:
            found = getattr(self, name)
            if found is not None and not (all(map(math.isfinite, found)) and found[0] < found[1]):
                raise InputError(f"intensities are {found[0]:g},{found[1]:g}: give LOW,HIGH with LOW below HIGH")

    @classmethod
    def parse(cls, text: str) -> "Intensities":
        """Parse one range for all types, such as "0,4095".

        Raises:
            InputError: If the text is not a range.
        """
        try:
            low, high = (float(part) for part in text.split(","))
        except ValueError as error:
            raise InputError(f"intensities are {text!r}: give LOW,HIGH, as in intensities=0,4095") from error
        return cls(**dict.fromkeys(_NAMES, (low, high)))

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) is not None for field in fields(self))

    def over(self, other: "Intensities | None") -> "Intensities":
        """These ranges, with those of `other` for types without a range."""
        return Intensities(**{name: getattr(self, name) or getattr(other, name, None) for name in _NAMES})

    @property
    def sentence(self) -> str:
        """The ranges in words: "16-bit images: intensities 12 to 4,095 become 0 to 255"."""
        known = {title: found for name, title in _NAMES.items() if (found := getattr(self, name)) is not None}
        if len(known) == len(_NAMES) and len(set(known.values())) == 1:
            known = {"images of more than 8 bits": self.deep or (0.0, 0.0)}
        return "; ".join(
            f"{title}{' images' if title in _NAMES.values() else ''}: intensities {_plain(low)} to {_plain(high)} "
            "become 0 to 255"
            for title, (low, high) in known.items()
        )


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) else f"{value:.4g}"
