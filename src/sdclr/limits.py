"""Limits on the size of input. Each limit has a default above normal collections, and a variable that changes it.

A limit is read from the environment at each check:

    SDCLR_MAX_ROWS=50M sdclr embed images.parquet --out embeddings.parquet
"""

import os
import re
from dataclasses import dataclass
from typing import Final

from sdclr.errors import InputError

_FACTORS: Final = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}
_NUMBER: Final = re.compile(r"(\d{1,18})([KMG]?)", flags=re.ASCII | re.IGNORECASE)


@dataclass(frozen=True)
class Limit:
    """Maximum of a size that depends on input."""

    variable: str
    """Environment variable that sets the limit: a whole number, optionally with K, M or G (1024, 1024², 1024³)."""
    default: int
    least: int
    """Minimum value of the variable."""

    @property
    def value(self) -> int:
        """The current limit.

        Raises:
            InputError: If the variable has an invalid value.
        """
        text = os.environ.get(self.variable, "").strip()
        if not text:
            return self.default
        number = _NUMBER.fullmatch(text)
        value = int(number[1]) * _FACTORS[number[2].upper()] if number else -1
        if not self.least <= value < 2**63:
            raise InputError(
                f"the environment variable {self.variable} is {text[:40]!r}: give a whole number of {self.least:,} or "
                f"more, as in {self.variable}={self.default}, or unset it"
            )
        return value

    def check(self, value: int, what: str) -> None:
        """Raise an error if a value is above the limit.

        Args:
            value: The size.
            what: Start of the error message, with `{}` for the value: "a.parquet has {} rows".

        Raises:
            InputError: If the value is above the limit. The message gives the limit and the variable.
        """
        limit = self.value
        if value > limit:
            raise InputError(
                f"{what.replace('{}', f'{value:,}', 1)}, more than the limit of {limit:,}: if that is right, set the "
                f"environment variable {self.variable}={value}"
            )


ROWS: Final = Limit("SDCLR_MAX_ROWS", 10_000_000, 1)
"""Rows of a table: a Parquet, CSV or text file, or several Parquet files that form one table."""

COLUMNS: Final = Limit("SDCLR_MAX_COLUMNS", 10_000, 1)
"""Columns of a table."""

TEXT: Final = Limit("SDCLR_MAX_TEXT", 2**16, 1)
"""Bytes of one text in a table: a path, an id, a label."""

LIST: Final = Limit("SDCLR_MAX_LIST", 2**16, 1)
"""Numbers of one vector, or members of one list, in a table."""

TABLE: Final = Limit("SDCLR_MAX_TABLE", 8 * 2**30, 2**20)
"""Uncompressed bytes of table columns that are read as a whole."""

ROW_GROUP: Final = Limit("SDCLR_MAX_ROW_GROUP", 2**30, 2**20)
"""Uncompressed bytes of encoded images in memory at once: a row group, or some rows of a larger one."""

PIXELS: Final = Limit("SDCLR_MAX_PIXELS", 178_956_970, 1)
"""Width times height of an image. Larger images count as unreadable."""

PAGES: Final = Limit("SDCLR_MAX_PAGES", 10_000, 1)
"""Pages of a TIFF file."""

DECODING: Final = Limit("SDCLR_DECODING_MEMORY", 512 * 2**20, 2**20)
"""Bytes of decoded pixels in all worker processes together while they decode large images. A single larger image is
decoded while no other large image is."""

LIMITS: Final = (ROWS, COLUMNS, TEXT, LIST, TABLE, ROW_GROUP, PIXELS, PAGES, DECODING)
