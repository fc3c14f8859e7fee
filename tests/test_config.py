"""Configuration to JSON and back."""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdclr.config import differences, digest, from_json, to_json
from sdclr.data.views import ViewConfig
from sdclr.encoders import EncoderConfig, HeadConfig
from sdclr.errors import InputError
from sdclr.training.config import DamageConfig, PretrainConfig
from sdclr.training.optim import OptimConfig


@dataclass(frozen=True, kw_only=True)
class Inner:
    number: int = 1
    share: float = 0.5
    flag: bool = False
    kind: Literal["a", "b"] = "a"
    layers: Literal[2, 3] = 2


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    maybe: int | None = None
    pair: tuple[float, float] = (0.0, 1.0)
    many: tuple[int, ...] = ()
    either: int | str = 1
    inner: Inner = field(default_factory=Inner)
    perhaps: Inner | None = None


finite = st.floats(allow_nan=False, allow_infinity=False)
inners = st.builds(
    Inner,
    number=st.integers(),
    share=finite,
    flag=st.booleans(),
    kind=st.sampled_from("ab"),
    layers=st.sampled_from([2, 3]),
)
outers = st.builds(
    Outer,
    name=st.text(),
    maybe=st.none() | st.integers(),
    pair=st.tuples(finite, finite),
    many=st.lists(st.integers()).map(tuple),
    either=st.integers() | st.text(),
    inner=inners,
    perhaps=st.none() | inners,
)
runs = st.builds(
    PretrainConfig,
    encoder=st.builds(EncoderConfig, name=st.text(), width=st.none() | st.integers(1, 99)),
    head=st.builds(HeadConfig, layers=st.sampled_from([2, 3]), dim=st.integers(1, 999)),
    views=st.builds(ViewConfig, image_size=st.integers(1, 999), blur=st.floats(0, 1)),
    damage=st.builds(DamageConfig, ratio=st.floats(0, 0.99), refresh_steps=st.none() | st.integers(1, 99)),
    optim=st.builds(OptimConfig, lr=st.floats(0.01, 9), warmup_epochs=st.just(0.0)),
    seed=st.integers(0, 2**63 - 1),
)


@given(outers | runs)
def test_a_configuration_survives_json(config: Any) -> None:
    text = json.dumps(to_json(config))
    back = from_json(type(config), json.loads(text))
    assert back == config
    assert differences(config, back) == []
    assert digest(config) == digest(back)


@given(outers, outers)
def test_differences_and_digest_tell_configurations_apart(old: Outer, new: Outer) -> None:
    assert (differences(old, new) == []) == (old == new)
    assert (digest(old) == digest(new)) == (old == new)


def test_the_digest_changes_with_every_field() -> None:
    changed = [
        PretrainConfig(),
        PretrainConfig(encoder=EncoderConfig(name="resnet34")),
        PretrainConfig(encoder=EncoderConfig(std=(1.0, 1.0, 1.0))),
        PretrainConfig(head=HeadConfig(layers=3)),
        PretrainConfig(views=ViewConfig(blur_sigma=(0.1, 1.0))),
        PretrainConfig(damage=DamageConfig(kind="none")),
        PretrainConfig(rebalance=("focal",)),
        PretrainConfig(optim=OptimConfig(final_lr=0)),
        PretrainConfig(temperature=0.3),
        PretrainConfig(accumulate=2),
        PretrainConfig(seed=1),
    ]
    assert len({digest(config) for config in changed}) == len(changed)


def test_the_digest_stays_when_a_field_is_added() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Grown(Outer):
        added: tuple[int, ...] = (1, 2)
        nested: Inner = field(default_factory=lambda: Inner(number=5))

    assert digest(Grown(name="x", inner=Inner(number=2))) == digest(Outer(name="x", inner=Inner(number=2)))
    assert digest(Grown(name="x", added=(1,))) != digest(Outer(name="x"))
    assert digest(Grown(name="x", nested=Inner())) != digest(Outer(name="x"))


def test_a_whole_number_given_for_a_float_is_that_float() -> None:
    assert digest(OptimConfig(lr=1)) == digest(OptimConfig(lr=1.0))
    restored = from_json(OptimConfig, {"lr": 1})
    assert isinstance(restored.lr, float)


def test_differences_name_the_nested_field_and_both_values() -> None:
    old, new = Outer(name="x"), Outer(name="x", inner=Inner(number=2), perhaps=Inner())
    assert "inner.number: 1 → 2" in differences(old, new)
    assert "perhaps.kind: None → a" in differences(old, new)
    assert "perhaps.kind: a → None" in differences(new, old)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "x", "nmae": "y"}, "no field 'nmae': did you mean 'name'"),
        ({"name": "x", "zzzzz": 1}, "no field 'zzzzz': known are name, maybe"),
        ({}, "lacks the field 'name'"),
        ({"name": 3}, "'name' must be a text, not 3"),
        ({"name": "x", "inner": 3}, "'inner' must be an object with the fields of Inner, not 3"),
        ({"name": "x", "inner": {"numbr": 3}}, "did you mean 'number'"),
        ({"name": "x", "inner": {"number": True}}, "'number' must be a whole number, not True"),
        ({"name": "x", "inner": {"number": 1.5}}, "'number' must be a whole number, not 1.5"),
        ({"name": "x", "inner": {"share": "0.5"}}, "'share' must be a number, not '0.5'"),
        ({"name": "x", "inner": {"share": None}}, "'share' must be a number, not None"),
        ({"name": "x", "inner": {"flag": 1}}, "'flag' must be true or false, not 1"),
        ({"name": "x", "inner": {"kind": "prnue"}}, "'kind' must be one of 'a', 'b', not 'prnue'"),
        ({"name": "x", "inner": {"layers": 2.0}}, "'layers' must be one of 2, 3, not 2.0"),
        ({"name": "x", "maybe": "one"}, "'maybe' must be a whole number, not 'one'"),
        ({"name": "x", "pair": [1]}, "'pair' must be a list of 2 values"),
        ({"name": "x", "pair": 1}, "'pair' must be a list, not 1"),
        ({"name": "x", "pair": [1, "2"]}, "'pair' must be a number, not '2'"),
        ({"name": "x", "many": [1, None]}, "'many' must be a whole number, not None"),
        ({"name": "x", "either": 1.5}, "'either' must be a text, not 1.5"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_mend(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=r"^[^\n]*$") as caught:
        from_json(Outer, values)
    assert message in str(caught.value)


def test_a_value_that_the_configuration_itself_refuses_stays_refused() -> None:
    with pytest.raises(InputError, match="pruning ratio"):
        from_json(PretrainConfig, {"damage": {"ratio": 1.5}})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "1 or more epochs"),
        ({"batch_size": 1}, "2 or more images"),
        ({"epochs": 10}, "warm-up of 10 epochs does not fit into 10"),
        ({"accumulate": 3}, "cannot be split into 3"),
        ({"accumulate": 512}, "cannot be split into 512"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
    ],
)
def test_nonsense_runs_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        dataclasses.replace(PretrainConfig(), **changes)
