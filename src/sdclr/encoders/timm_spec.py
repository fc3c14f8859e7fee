"""How weights of timm are named, and pinned: `timm:NAME[@REVISION][@sha256:DIGEST][=FILE]`."""

import re
from pathlib import Path
from typing import Final, NamedTuple

from sdclr.encoders.config import PREFIX
from sdclr.encoders.weights import file_digest
from sdclr.errors import InputError

_DIGEST: Final = "sha256:"
_REVISION: Final = re.compile(r"[A-Za-z0-9][\w./-]*", flags=re.ASCII)


class TimmSpec(NamedTuple):
    """The parts of a name."""

    name: str
    """Timm's name of the model, with the tag of its weights or without."""
    revision: str | None = None
    """Commit, tag or branch of the hub repository; None for its main branch."""
    sha256: str | None = None
    """What the file of weights must have, in lower case."""
    file: str | None = None
    """A file of weights instead of the hub's."""

    @property
    def pins(self) -> str:
        """Revision and digest as they are written behind the name."""
        revision = "" if self.revision is None else f"@{self.revision}"
        return revision + ("" if self.sha256 is None else f"@{_DIGEST}{self.sha256}")

    def check(self, path: Path, digest: str | None = None) -> str:
        """The SHA-256 of the file of weights, which must be the one that was named.

        Args:
            path: The file.
            digest: Its SHA-256 where it is known.

        Raises:
            InputError: The file has another one.
        """
        found = digest or file_digest(path)
        if self.sha256 not in {None, found}:
            raise InputError(
                f"{path} has the SHA-256 {found}, not {self.sha256}: take the file that was meant, or correct the "
                f"digest in {PREFIX}{self.name}{self.pins}"
            )
        return found


def parse_timm(spec: str) -> TimmSpec:
    """The parts of `timm:NAME[@REVISION][@sha256:DIGEST][=FILE]`.

    Raises:
        InputError: A revision or digest is none, is named twice, or a revision is named for a file.

    Example:
        >>> parse_timm("timm:resnet50.a1_in1k@v1.2").revision
        'v1.2'
    """
    named, equals, file = spec.removeprefix(PREFIX).partition("=")
    name, *pins = named.split("@")
    digests = [pin.removeprefix(_DIGEST).lower() for pin in pins if pin.startswith(_DIGEST)]
    revisions = [pin for pin in pins if not pin.startswith(_DIGEST)]
    form = f"write {PREFIX}NAME@REVISION, {PREFIX}NAME@{_DIGEST}DIGEST, or both in this order"
    if len(digests) > 1 or len(revisions) > 1 or (pins and revisions and pins[0] != revisions[0]):
        raise InputError(f"{spec}: names a revision or a digest twice, or the digest first: {form}")
    for digest in digests:
        if re.fullmatch(r"[0-9a-f]{64}", digest) is None:
            raise InputError(f"{spec}: {digest!r} is no SHA-256: give its 64 hexadecimal digits")
    for revision in revisions:
        if _REVISION.fullmatch(revision) is None or ".." in revision:
            raise InputError(f"{spec}: {revision!r} is no revision of a hub repository: {form}")
    if equals and revisions:
        raise InputError(f"{spec}: a file has no revision; leave out @{revisions[0]}")
    return TimmSpec(name, next(iter(revisions), None), next(iter(digests), None), file if equals else None)
