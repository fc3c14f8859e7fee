"""Explain the rank of an image in a sentence."""

import numpy as np
from numpy.typing import NDArray

from sdclr.errors import InputError
from sdclr.mining.scores import Scores


def explain(scores: Scores, index: int) -> str:
    """Explain an image's rank in one sentence: the score that ranks it, then other notable scores.

    Args:
        scores: The collection's scores.
        index: The image's position.

    Returns:
        The sentence.

    Raises:
        InputError: There is no such image.

    Example:
        >>> scores = sdclr.mine("images", encoder="runs/digits")
        >>> rarest = int(scores.order()[0])
        >>> sdclr.explain(scores, rarest)
        '... farther from its 10 nearest neighbors than 98.3 % of the collection...'
    """
    if not 0 <= index < len(scores):
        raise InputError(f"there is no image {index}: the scores have {len(scores)}, counted from 0")
    image_id = scores.ids[index]
    if image_id in scores.bad:
        return f"It could not be used: {scores.bad[image_id]}."
    usable = int((scores.rank > 0).sum())
    ranked_by = str(scores.about.get("ranked_by", ""))
    first = [ranked_by] if ranked_by in scores.columns else []
    distance = next((name for name in scores.columns if name.startswith("distance_")), None)
    names = dict.fromkeys([*first, *([distance] if distance else []), "kind_size"])
    if len(scores.groups) < 2:
        names.pop("kind_size", None)  # with one kind, its size is equal for all images
    parts = [_said(scores, name, index, usable) for name in names if name in scores.columns]
    sentence = (
        "; ".join(parts) or f"its {scores.score} is higher than {_above(scores, scores.rarity, index)} of the images"
    )
    return f"{sentence[0].upper()}{sentence[1:]}."


def _said(scores: Scores, name: str, index: int, usable: int) -> str:
    values = scores.columns[name]
    kind, _, setting = name.rpartition("_")
    above = f"{_above(scores, values, index)} of the collection"
    if name == "kind_size":
        return f"its kind has {int(values[index]):,} of {usable:,} images"
    if name == "loss":
        return f"its contrastive loss is higher than that of {above}"
    said = {
        "against": f"it is farther from its {setting} nearest old images than {above}",
        "distance": f"it is farther from its {setting} nearest neighbors than {above}",
        "lof": f"its local outlier factor ({setting} neighbors) is higher than that of {above}",
        "forgetting": f"pruning {setting} of the weights changes it more than {above}",
        "forgetting_projection": f"pruning {setting} of the weights changes its projection more than {above}",
    }
    return said[kind]


def _above(scores: Scores, values: NDArray[np.float32], index: int) -> str:
    """The share of the usable images with a smaller value."""
    usable = values[scores.rank > 0]
    share = 100 * float((usable < values[index]).mean())
    return f"{min(share, 99.99):.2f} %" if share > 99 else f"{share:.1f} %"
