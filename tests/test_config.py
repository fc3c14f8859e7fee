"""Configuration to JSON and back."""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdclr.config import differences, digest, from_json, to_json
from sdclr.encoders import EncoderConfig, HeadConfig
from sdclr.errors import InputError, SettingError
from sdclr.training.config import DamageConfig, PretrainConfig
from sdclr.training.optim import OptimConfig
from sdclr.views.parameters import ViewConfig


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


sixty_four_bits = st.integers(1 - 2**63, 2**63 - 1)
finite = st.floats(allow_nan=False, allow_infinity=False)
inners = st.builds(
    Inner,
    number=sixty_four_bits,
    share=finite,
    flag=st.booleans(),
    kind=st.sampled_from("ab"),
    layers=st.sampled_from([2, 3]),
)
outers = st.builds(
    Outer,
    name=st.text(),
    maybe=st.none() | sixty_four_bits,
    pair=st.tuples(finite, finite),
    many=st.lists(sixty_four_bits).map(tuple),
    either=sixty_four_bits | st.text(),
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


def test_settings_of_earlier_versions_are_read() -> None:
    old = {"views": {"grey": 0.5}, "density": {"neighbours": 7}}
    config = from_json(PretrainConfig, old)
    assert (config.views.gray, config.density.neighbors) == (0.5, 7)
    assert digest(config) == "23569c79"  # as when the settings had these names


@pytest.mark.parametrize(("group", "name", "usual", "other"), [
    ("damage", "also", [], [0.5]),
    ("damage", "schedule", "constant", "ramp"),
    ("damage", "cycles", 5.0, 2.0),
    ("density", "full", None, 1.0),
    ("density", "weigh", "sampling", "loss"),
])  # fmt: skip
def test_removed_settings_are_read_with_their_usual_value_alone(group: str, name: str, usual: Any, other: Any) -> None:
    usual_run = from_json(PretrainConfig, {group: {name: usual}})
    assert usual_run == PretrainConfig()
    assert digest(usual_run) == digest(PretrainConfig())
    with pytest.raises(SettingError, match=rf"^'{group}.{name}' was removed, and is read only as [^\n]*$") as caught:
        from_json(PretrainConfig, {group: {name: other}})
    assert caught.value.keys == ((group, name),)


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
        ({"name": "x", "nmae": "y"}, "unknown key 'nmae': did you mean 'name'"),
        ({"name": "x", "zzzzz": 1}, "unknown key 'zzzzz': known are name, maybe"),
        ({}, "the key 'name' is missing: give it a value"),
        ({"name": 3}, "'name' must be a text, not 3"),
        ({"name": "x", "inner": 3}, "'inner' must be a table with keys of number, share, flag, kind, layers, not 3"),
        ({"name": "x", "inner": {"numbr": 3}}, "unknown key 'inner.numbr': did you mean 'inner.number'?"),
        ({"name": "x", "number": 3}, "unknown key 'number': did you mean 'inner.number'?"),
        ({"name": "x", "inner": {"number": True}}, "'inner.number' must be a whole number, not true"),
        ({"name": "x", "inner": {"number": 1.5}}, "'inner.number' must be a whole number, not 1.5"),
        (
            {"name": "x", "inner": {"share": "0.5"}},
            "'inner.share' must be a number, not '0.5': leave out the quotation marks",
        ),
        ({"name": "x", "inner": {"share": None}}, "'inner.share' must be a number, not null"),
        ({"name": "x", "inner": {"flag": 1}}, "'inner.flag' must be true or false, not 1"),
        ({"name": "x", "inner": {"kind": "prnue"}}, "'inner.kind' must be one of 'a', 'b', not 'prnue'"),
        ({"name": "x", "inner": {"layers": 2.0}}, "'inner.layers' must be one of 2, 3, not 2.0"),
        ({"name": "x", "maybe": "one"}, "'maybe' must be a whole number, not 'one'"),
        ({"name": "x", "pair": [1]}, "'pair' must be a list of 2 values"),
        ({"name": "x", "pair": 1}, "'pair' must be a list, not 1"),
        ({"name": "x", "pair": [1, "2"]}, "'pair' must be a number, not '2'"),
        ({"name": "x", "many": [1, None]}, "'many' must be a whole number, not null"),
        ({"name": "x", "inner": {"number": 2**63}}, "'inner.number' must be a whole number of at most 64 bits"),
        ({"name": "x", "inner": {"number": 16**99999}}, "not a whole number of thousands of digits"),
        ({"name": "x", "inner": {"share": 10**400}}, "'inner.share' must be a number, not 1000000000"),
        ({"name": "x", "inner": {"share": float("nan")}}, "'inner.share' must be a finite number, not nan"),
        (
            {"name": "x", "inner": {"kind": "a" * 9999}},
            "not 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa…",
        ),
        ({"name": "x", "either": 1.5}, "'either' must be a whole number or a text, not 1.5"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_mend(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=r"^[^\n]*$") as caught:
        from_json(Outer, values)
    assert message in str(caught.value)


def test_a_value_that_the_configuration_itself_refuses_stays_refused() -> None:
    with pytest.raises(SettingError, match=r"^damage.ratio = 1.5: a pruning ratio must be in") as caught:
        from_json(PretrainConfig, {"epochs": 100, "damage": {"ratio": 1.5, "gain": -1.0}})
    assert caught.value.keys == (("damage", "ratio"),)


def test_settings_that_contradict_each_other_are_all_named() -> None:
    with pytest.raises(
        SettingError, match=r"^damage.kind = 'random' and damage.ratio = 'adaptive': only pruning"
    ) as caught:
        from_json(PretrainConfig, {"damage": {"kind": "random", "ratio": "adaptive", "gain": 1.0}})
    assert caught.value.keys == (("damage", "kind"), ("damage", "ratio"))


def test_absent_fields_come_from_the_base() -> None:
    base = Outer(name="x", maybe=3, inner=Inner(number=4, share=0.25), perhaps=Inner(kind="b"))
    changed = from_json(Outer, {"inner": {"share": 1}, "perhaps": {"number": 7}}, base=base)
    expected = dataclasses.replace(base, inner=Inner(number=4, share=1.0), perhaps=Inner(kind="b", number=7))
    assert changed == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "1 or more epochs"),
        ({"batch_size": 1}, "2 or more images"),
        ({"epochs": 10, "optim": OptimConfig(warmup_epochs=11)}, "a warm-up of 11 epochs is longer than the run of 10"),
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


def test_the_length_of_a_run_in_words():
    assert PretrainConfig(epochs=200).length == "200 epochs"
    assert PretrainConfig(epochs=1).length == "1 epoch"
    assert PretrainConfig(epochs=3, steps=18).length == "18 steps"
