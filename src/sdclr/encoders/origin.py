"""Where an encoder's weights came from, under which license, and what trained them."""

import re
from dataclasses import dataclass
from typing import Final

# What the parts of timm's tags say, such as `augreg_in21k_ft_in1k`, in the order in which they are tried.
_FINE_TUNED: Final = re.compile(r"(^|_)(ft|lc)_in\d+k")
"""Fine-tuned, or given a linear classifier, on a part of ImageNet."""
_CAPTIONS: Final = re.compile(
    r"(^|_)(openai|laion|clip|datacomp|metaclip|webli|dfn|mclip|tinyclip|yfcc15m|cc12m|merged2b)"
)
"""Image and text encoders that were trained together."""
_NO_LABELS: Final = re.compile(r"(^|_)(dino|lvd|mae|fcmae|ijepa|mim|seer|sat493m)")
"""Self-supervised."""
_CLASSES: Final = re.compile(r"(^|_)(in|inw)\d+k(_|$)")
"""A part of ImageNet, and nothing of the above."""

UNKNOWN_TEACHER: Final = "it is not known whether labels trained them"


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
    teacher: str = UNKNOWN_TEACHER
    """The same in words."""

    @property
    def words(self) -> str:
        """What is known in one phrase, such as "timm:resnet18 (license apache-2.0, trained with labels)"."""
        return f"{self.spec} ({f'license {self.license}' if self.license else 'license not known'}, {self.teacher})"

    @property
    def sentence(self) -> str:
        """`words` with the place that the weights were read from."""
        return f"{self.words} from {self.source}"


def taught_by(name: str) -> tuple[bool | None, str]:
    """Whether class labels trained timm's weights of a name, and the same in words.

    It goes by the tag that timm gives to each set of weights, such as `in1k` or `dinov3_lvd1689m`: a rule of thumb,
    since no model says so itself.

    Args:
        name: A model's name with its tag, or without a tag for timm's default weights.
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
