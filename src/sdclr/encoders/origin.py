"""Where an encoder's weights came from, and under which license."""

from dataclasses import dataclass
from typing import Final

_WITHOUT_LABELS: Final = (
    "dino",
    "lvd",
    "mae",
    "ijepa",
    "simclr",
    "moco",
    "swav",
    "fcmae",
    "aimv2",
    "data2vec",
    "ssl",
    "mim_",
)
"""Parts of timm's tags and names that mark self-supervised weights."""
_CAPTIONS: Final = ("clip", "openai", "laion", "webli", "datacomp", "dfn", "metaclip", "siglip")
"""Parts of timm's tags and names that mark weights trained on images with captions."""
_FINE_TUNED: Final = "ft_in"
"""Part of timm's tags that marks fine-tuning on ImageNet's labels, whatever came before."""
_LABELED: Final = ("in1k", "in12k", "in21k", "in22k", "inat21")
"""Parts of timm's tags that name data sets with labels."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where an encoder's weights came from."""

    spec: str
    """What the user can name to load it again, such as "timm:tf_efficientnet_lite0.in1k"."""
    source: str
    """The file, package or hub repository that the weights were read from."""
    license: str | None = None
    """As timm states it; None where it is not stated."""
    sha256: str | None = None
    """Of the file of weights, in hexadecimal; None where there is no such file."""
    labels: bool | None = None
    """Whether class labels trained the weights; None where that is unknown."""

    @property
    def sentence(self) -> str:
        """One sentence for people: weights, license, place and labels."""
        trained = {True: "trained with labels", False: "trained without labels", None: "training labels unknown"}
        return f"{self.spec} (license: {self.license or 'not stated'}; {trained[self.labels]}; from {self.source})"


def trained_with_labels(name: str) -> bool | None:
    """Whether class labels trained timm's weights, judged by name and tag.

    Args:
        name: timm's name with the tag of the weights: "vit_small_patch14_dinov2.lvd142m".

    Returns:
        True for ImageNet classification, also after self-supervised training; False for self-supervised weights and
        for captions; None where neither the name nor the tag says it.
    """
    model, _, tag = name.lower().partition(".")
    if _FINE_TUNED in tag:
        return True
    if any(part in f"{model} {tag}" for part in (*_WITHOUT_LABELS, *_CAPTIONS)):
        return False
    return True if any(part in tag for part in _LABELED) else None
