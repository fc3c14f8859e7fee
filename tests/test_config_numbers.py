"""No setting takes a number that no calculation can use: tried for every field of every group of settings."""

import dataclasses
import math
from typing import Any, get_args, get_origin, get_type_hints

import pytest

from sdclr.config import check_numbers, from_json, to_json
from sdclr.downstream.config import FinetuneConfig
from sdclr.errors import InputError
from sdclr.evaluation.config import AttributeConfig, EvaluateConfig, ProbeConfig
from sdclr.longtail.config import SubsetConfig
from sdclr.method.predictor import Predictor
from sdclr.method.rebalancing import HarmonizationConfig
from sdclr.mining.config import DiagnoseConfig, MineConfig
from sdclr.training.config import PretrainConfig
from sdclr.training.runtime import Runtime

GROUPS = [
    PretrainConfig,
    Runtime,
    SubsetConfig,
    FinetuneConfig,
    EvaluateConfig,
    AttributeConfig,
    ProbeConfig,
    MineConfig,
    DiagnoseConfig,
]
MAY_BE_NEGATIVE = {"encoder.mean"}


def numbers(cls: type[Any], place: str = "") -> list[tuple[str, type, int]]:
    """Each numeric field: its name in full, its type, and how many numbers it holds (0: any; -1: not a tuple)."""
    found = []
    for name, hint in get_type_hints(cls).items():
        if dataclasses.is_dataclass(hint):
            found += numbers(hint, f"{place}{name}.")
            continue
        for option in (hint, *get_args(hint)):
            if option in {int, float} and get_origin(hint) is not tuple:
                found.append((place + name, option, -1))
            elif get_origin(option) is tuple and get_args(option)[0] in {int, float}:
                inner = get_args(option)
                found.append((place + name, inner[0], 0 if inner[-1] is Ellipsis else len(inner)))
    return list(dict.fromkeys(found))


FIELDS = [(cls, *field) for cls in GROUPS for field in numbers(cls)]


def changed(cls: type[Any], name: str, value: Any, count: int) -> Any:
    """The defaults of a group with one number replaced, made as Python code would make it."""
    *groups, last = name.split(".")
    whole: Any = cls()
    inner = [whole]
    for group in groups:
        inner.append(getattr(inner[-1], group))
    made: Any = value if count < 0 else (value,) * max(1, count)
    for config, field in zip(reversed(inner), reversed([*groups, last]), strict=True):
        made = dataclasses.replace(config, **{field: made})
    return made


def test_the_fields_are_found() -> None:
    names = {name for cls, name, *_ in FIELDS if cls is PretrainConfig}
    assert names >= {"optim.lr", "damage.ratio", "encoder.std", "vicreg.scale", "density.cap", "seed"}
    assert len(FIELDS) > 120


@pytest.mark.parametrize(("cls", "name", "kind", "count"), FIELDS, ids=[f"{f[0].__name__}-{f[1]}" for f in FIELDS])
def test_no_field_takes_a_number_that_is_none(cls: type[Any], name: str, kind: type, count: int) -> None:
    for value in (math.nan, math.inf, -math.inf) if kind is float else (2**70,):
        with pytest.raises((InputError, ValueError)) as caught:
            changed(cls, name, value, count)
        assert "\n" not in str(caught.value)
    if name not in MAY_BE_NEGATIVE:
        with pytest.raises((InputError, ValueError)) as caught:
            changed(cls, name, -1, count)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cls", GROUPS)
def test_defaults_are_accepted(cls: type[Any]) -> None:
    check_numbers(cls())
    assert from_json(cls, to_json(cls())) == cls()


def test_what_is_too_small_is_named() -> None:
    @dataclasses.dataclass(frozen=True)
    class Inner:
        share: float = 0.5

    @dataclasses.dataclass(frozen=True)
    class Outer:
        count: int = 3
        maybe: int | None = None
        inner: Inner = dataclasses.field(default_factory=Inner)

    check_numbers(Outer(), count=3, maybe=1)
    for config, message in (
        (Outer(count=0), "count is 0: give 1 or more"),
        (Outer(maybe=-1), "maybe is -1: give 0 or more"),
        (Outer(inner=Inner(share=math.nan)), "inner.share is nan: give a finite number"),
        (Outer(count=2**64), "count is 18446744073709551616: give a whole number of at most 64 bits"),
    ):
        with pytest.raises(InputError) as caught:
            check_numbers(config, count=1, maybe=0)
        assert str(caught.value) == message


MAY_BE_HUGE = {
    "seed",
    "steps",
    "refresh_steps",
    "every",
    "snapshot_epochs",
    "log_steps",
    "max_count",
    "holdout",
    "patience",
    "shuffle_buffer",
}
"""Whole numbers that neither memory nor the time of a step grows with."""


@pytest.mark.parametrize(("cls", "name", "kind", "count"), FIELDS, ids=[f"{f[0].__name__}-{f[1]}" for f in FIELDS])
def test_no_field_takes_an_absurd_size(cls: type[Any], name: str, kind: type, count: int) -> None:
    """Zero and huge numbers are accepted, or refused in one line; sizes of arrays and loops are never huge."""
    for value in (0, 10**6 + 1, 2**62) if kind is int else (0.0, 1e-300, 1e300):
        said = None
        try:
            changed(cls, name, value, count)
        except (InputError, ValueError) as error:
            said = str(error)
        if said is None:
            assert kind is float or value < 2**62 or name.rsplit(".", maxsplit=1)[-1] in MAY_BE_HUGE, (name, value)
        else:
            assert "\n" not in said
            assert len(said) < 400


def test_clusters_whose_table_would_take_40_gb() -> None:
    with pytest.raises(InputError, match=r"harmonization.clusters is 100000: give 10,000 or less"):
        PretrainConfig(harmonization=HarmonizationConfig(clusters=100_000))


def test_unknown_choices_and_single_values_are_named() -> None:
    for wrong, message in (
        ({"score": "foo"}, "score is 'foo': choose from kinds, distance, lof, forgetting, loss"),
        ({"score": "distanc"}, "did you mean 'distance'?"),
        ({"k": 10}, r"k is 10: give a tuple, as in \(10,\)"),
        ({"ratios": 0.9}, r"ratios is 0.9: give a tuple, as in \(0.9,\)"),
    ):
        with pytest.raises(InputError, match=message):
            MineConfig(**wrong)


def test_a_predictor_has_a_width() -> None:
    for dim, hidden in ((8, 0), (0, 8)):
        with pytest.raises(ValueError, match=f"1 or more, not of {dim} and {hidden}"):
            Predictor(dim, hidden)
