"""Origin of an encoder's weights: source, license and use of labels."""

import re
from dataclasses import dataclass
from typing import Final

# Meaning of the parts of timm's tags, such as `augreg_in21k_ft_in1k`, in the order of the tests.
_FINE_TUNED: Final = re.compile(r"(^|_)(ft|lc)_in\d+k")
"""Fine-tuned, or with a linear classifier trained, on a part of ImageNet."""
_CAPTIONS: Final = re.compile(
    r"(^|_)(openai|laion|clip|datacomp|metaclip|webli|dfn|mclip|tinyclip|yfcc15m|cc12m|merged2b)"
)
"""Image and text encoders that were trained together."""
_NO_LABELS: Final = re.compile(r"(^|_)(dino|lvd|mae|fcmae|ijepa|mim|seer|sat493m)")
"""Self-supervised."""
_CLASSES: Final = re.compile(r"(^|_)(in|inw)\d+k(_|$)")
"""A part of ImageNet, and none of the above."""

UNKNOWN_TEACHER: Final = "it is not known whether labels trained them"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Origin of an encoder's weights."""

    spec: str
    """Name that loads the encoder again, such as "timm:tf_efficientnet_lite0.in1k"."""
    source: str
    """The file, package or hub repository that the weights were read from."""
    license: str | None = None
    """License according to timm; None if unknown."""
    sha256: str | None = None
    """SHA-256 of the file of weights, in hexadecimal; None if there is no such file."""
    labels: bool | None = None
    """Whether the weights were trained with class labels; None if unknown."""
    teacher: str = UNKNOWN_TEACHER
    """The same in words."""

    @property
    def words(self) -> str:
        """Name, license and use of labels, such as "timm:resnet18 (license apache-2.0, trained with labels)"."""
        return f"{self.spec} ({f'license {self.license}' if self.license else 'license not known'}, {self.teacher})"

    @property
    def sentence(self) -> str:
        """`words` with the source of the weights."""
        return f"{self.words} from {self.source}"


def taught_by(name: str) -> tuple[bool | None, str]:
    """Whether timm's weights were trained with class labels, and the same in words.

    This is a heuristic: timm does not record it, so the result depends on the tag of the weights, such as `in1k` or
    `dinov3_lvd1689m`.

    Args:
        name: Name of a model with its tag, or without a tag for timm's default weights.
    """
    import timm

    config = timm.get_pretrained_cfg(name)
    tag = (config.tag if config is not None else "") or ""
    if _FINE_TUNED.search(tag):
        return True, "trained with labels"
    if _CAPTIONS.search(tag):
        return False, "trained on captions"
    if _NO_LABELS.search(tag):
        return False, "trained without labels"
    if _CLASSES.search(tag):
        return True, "trained with labels"
    return None, "perhaps trained with labels" if tag else UNKNOWN_TEACHER
