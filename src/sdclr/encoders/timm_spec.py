"""Names of timm's weights, with pinning: `timm:NAME[@REVISION][@sha256:DIGEST][=FILE]`."""

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
    """timm's name of the model, with or without the tag of its weights."""
    revision: str | None = None
    """Commit, tag or branch of the hub repository; None for its main branch."""
    sha256: str | None = None
    """Required SHA-256 of the file of weights, in lower case; None if any is accepted."""
    file: str | None = None
    """A file of weights instead of the hub's."""

    @property
    def pins(self) -> str:
        """Revision and digest, as in the name."""
        revision = "" if self.revision is None else f"@{self.revision}"
        return revision + ("" if self.sha256 is None else f"@{_DIGEST}{self.sha256}")

    def check(self, path: Path, digest: str | None = None) -> str:
        """The SHA-256 of the file of weights, after a check against the required one.

        Args:
            path: The file.
            digest: Its SHA-256, if known.

        Raises:
            InputError: If the file has another SHA-256.
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
        InputError: If a revision or digest is invalid or given twice, or a revision is given for a file.

    Examples:
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
            raise InputError(f"{spec}: {digest!r} is not an SHA-256: give its 64 hexadecimal digits")
    for revision in revisions:
        if _REVISION.fullmatch(revision) is None or ".." in revision:
            raise InputError(f"{spec}: {revision!r} is not a revision of a hub repository: {form}")
    if equals and revisions:
        raise InputError(f"{spec}: a file has no revision; leave out @{revisions[0]}")
    return TimmSpec(name, next(iter(revisions), None), next(iter(digests), None), file if equals else None)
