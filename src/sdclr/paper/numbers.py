"""The paper's reported numbers: Jiang et al., *Self-Damaging Contrastive Learning* (ICML 2021).

In percent, as `mean±deviation` over five sub-samplings, or only the mean if no deviation is reported.
"""

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

Measure = Literal["many", "medium", "few", "std", "all", "std_classes"]
"""Column of a table: a field of `Balance`, or the deviation over classes of a balanced set (Table 6)."""

MEASURES: Final[Mapping[Measure, str]] = {
    "many": "Many",
    "medium": "Medium",
    "few": "Few",
    "std": "Std",
    "all": "All",
    "std_classes": "Std over classes",
}
"""Column names, in the order of the paper's tables."""

Probe = Literal["linear", "few_shot", "knn", "fine_tuned"]
Subset = Literal["long_tail", "balanced", "full"]


class Reported(NamedTuple):
    """A mean and its deviation, as the paper reports it."""

    mean: float
    """In percent."""
    std: float | None = None
    """Standard deviation over splits; None if unknown."""


class Key(NamedTuple):
    """Key of a row of numbers."""

    dataset: str
    subset: Subset
    method: str
    probe: Probe


def reported(dataset: str, subset: Subset, method: str, probe: Probe) -> Mapping[Measure, Reported]:
    """The paper's numbers for one method; empty if it reports none.

    Args:
        dataset: Such as "cifar10_lt".
        subset: The training set: D_i, D_b or a whole balanced set.
        method: Its name in tables.
        probe: The evaluation.
    """
    return PAPER.get(Key(dataset, subset, method, probe), {})


def _groups(text: str) -> Mapping[Measure, Reported]:
    """Many, Medium, Few, Std and All; unreported values are dashes."""
    return _row(("many", "medium", "few", "std", "all"), text)


def _row(measures: tuple[Measure, ...], text: str) -> Mapping[Measure, Reported]:
    cells = dict(zip(measures, text.split(), strict=True))
    return {measure: _number(cell) for measure, cell in cells.items() if cell != "-"}


def _number(cell: str) -> Reported:
    mean, _, deviation = cell.partition("±")
    return Reported(float(mean), float(deviation) if deviation else None)


_SIMCLR, _SDCLR = "SimCLR", "SDCLR"

_LONG_TAIL: Final[Mapping[Key, Mapping[Measure, Reported]]] = {  # Tables 4 and 5; their SimCLR is D_i of Tables 1-3
    Key("cifar10_lt", "long_tail", _SIMCLR, "linear"): _groups("78.18±4.18 76.23±5.33 71.37±7.07 5.13±3.66 75.55±0.66"),
    Key("cifar10_lt", "long_tail", _SDCLR, "linear"): _groups("86.44±3.12 81.84±4.78 76.23±6.29 5.06±3.91 82.00±0.68"),
    Key("cifar100_lt", "long_tail", _SIMCLR, "linear"): _groups(
        "50.10±1.70 47.78±1.46 43.36±1.64 3.09±0.85 47.11±0.34"
    ),
    Key("cifar100_lt", "long_tail", _SDCLR, "linear"): _groups("58.54±0.82 55.70±1.44 52.10±1.72 2.86±0.69 55.48±0.62"),
    Key("imagenet100_lt", "long_tail", _SIMCLR, "linear"): _groups("69.54 63.71 59.69 4.04 65.46"),
    Key("imagenet100_lt", "long_tail", _SDCLR, "linear"): _groups("70.10 65.04 60.92 3.75 66.48"),
    Key("cifar10_lt", "long_tail", _SIMCLR, "few_shot"): _groups(
        "76.07±3.88 67.97±5.84 54.21±10.24 9.80±5.45 67.08±2.15"
    ),
    Key("cifar10_lt", "long_tail", _SDCLR, "few_shot"): _groups(
        "76.57±4.90 70.01±7.88 62.79±7.37 6.99±5.20 70.47±1.38"
    ),
    Key("cifar100_lt", "long_tail", _SIMCLR, "few_shot"): _groups(
        "30.72±2.01 21.93±2.61 15.99±1.51 6.27±1.20 22.96±0.43"
    ),
    Key("cifar100_lt", "long_tail", _SDCLR, "few_shot"): _groups(
        "29.72±1.52 25.41±1.91 20.55±2.10 3.98±0.98 25.27±0.83"
    ),
    Key("imagenet100_lt", "long_tail", _SIMCLR, "few_shot"): _groups("48.36 39.00 35.23 5.52 42.16"),
    Key("imagenet100_lt", "long_tail", _SDCLR, "few_shot"): _groups("48.31 39.17 36.46 5.07 42.38"),
}

_BALANCED: Final[Mapping[Key, Mapping[Measure, Reported]]] = {  # Tables 1-3
    Key("cifar10_lt", "balanced", _SIMCLR, "linear"): _groups("82.93 81.53 77.49 - 80.88"),
    Key("cifar100_lt", "balanced", _SIMCLR, "linear"): _groups("46.83 46.92 46.32 - 46.69"),
    Key("cifar10_lt", "balanced", _SIMCLR, "few_shot"): _groups("77.14 74.25 71.47 - 74.57"),
    Key("cifar100_lt", "balanced", _SIMCLR, "few_shot"): _groups("25.48 25.16 24.01 - 24.89"),
    Key("imagenet_lt", "balanced", _SIMCLR, "linear"): _groups("58.03 56.02 56.71 - 56.89"),
    Key("imagenet_lt", "balanced", _SIMCLR, "few_shot"): _groups("29.26 26.97 27.82 - 27.97"),
    Key("imagenet_lt", "long_tail", _SIMCLR, "linear"): _groups("58.56 55.71 56.66 - 56.93"),
    Key("imagenet_lt", "long_tail", _SIMCLR, "few_shot"): _groups("31.36 26.21 27.21 - 28.33"),
    Key("imagenet_lt_exp", "balanced", _SIMCLR, "linear"): _groups("57.46 57.70 57.02 - 57.42"),
    Key("imagenet_lt_exp", "balanced", _SIMCLR, "few_shot"): _groups("32.31 32.91 32.17 - 32.45"),
    Key("imagenet_lt_exp", "long_tail", _SIMCLR, "linear"): _groups("58.37 56.97 56.27 - 57.43"),
    Key("imagenet_lt_exp", "long_tail", _SIMCLR, "few_shot"): _groups("35.98 29.56 28.02 - 32.12"),
    Key("imagenet100_lt", "balanced", _SIMCLR, "linear"): _groups("68.87 66.33 61.85 - 66.74"),
    Key("imagenet100_lt", "balanced", _SIMCLR, "few_shot"): _groups("48.82 44.71 41.08 - 45.84"),
}

_FULL: Final[Mapping[Key, Mapping[Measure, Reported]]] = {  # Table 6
    Key("cifar10", "full", _SIMCLR, "linear"): _row(("all", "std_classes"), "91.16 6.37"),
    Key("cifar10", "full", _SDCLR, "linear"): _row(("all", "std_classes"), "91.55 5.37"),
    Key("cifar100", "full", _SIMCLR, "linear"): _row(("all", "std_classes"), "62.84 14.94"),
    Key("cifar100", "full", _SDCLR, "linear"): _row(("all", "std_classes"), "66.32 14.82"),
}

_ABLATIONS: Final[Mapping[Key, Mapping[Measure, Reported]]] = {  # §4.8
    Key("cifar100_lt", "long_tail", "Dropout", "linear"): _row(("all",), "21.99±0.35"),
    Key("cifar100_lt", "long_tail", "Dropout", "few_shot"): _row(("all",), "15.48"),
    Key("cifar100_lt", "long_tail", "Focal γ=2", "linear"): _row(("all", "std"), "46.48±0.51 2.99"),
    Key("cifar100_lt", "long_tail", "MoCo v2", "linear"): _row(("all", "std"), "48.23±0.20 3.50"),
    Key("cifar100_lt", "long_tail", "MoCo v2", "few_shot"): _row(("all", "std"), "24.68±0.36 6.67"),
}

_RIDE: Final[Mapping[Key, Mapping[Measure, Reported]]] = {  # §4.5
    Key("cifar100_lt", "long_tail", "RIDE from scratch", "fine_tuned"): _row(("all",), "49.10"),
    Key("cifar100_lt", "long_tail", "RIDE from SimCLR", "fine_tuned"): _row(("all",), "50.01"),
    Key("cifar100_lt", "long_tail", "RIDE from SDCLR", "fine_tuned"): _row(("all",), "50.56"),
}

PAPER: Final[Mapping[Key, Mapping[Measure, Reported]]] = {**_LONG_TAIL, **_BALANCED, **_FULL, **_ABLATIONS, **_RIDE}
"""All numbers of the paper's Tables 1-6, §4.5 and §4.8."""

FOCAL_BESIDE: Final = "The paper compares its focal loss (γ = 2) with 47.33 ± 0.33 and a Std of 2.70."
"""In §4.8, the baseline of the focal loss differs from the value of SimCLR in Table 4."""
