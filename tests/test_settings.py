"""Settings files: round trips, errors that say where, and files made to do harm."""

import json
import os
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdclr.encoders import EncoderConfig, HeadConfig
from sdclr.errors import InputError
from sdclr.recipes import RECIPES, Method, cifar_lt
from sdclr.settings import LARGEST, read_settings, read_settings_file, settings_text, write_settings
from sdclr.settings_lines import json_line, toml_line
from sdclr.training.config import DamageConfig, PretrainConfig
from sdclr.training.optim import OptimConfig
from sdclr.views.parameters import ViewConfig

FORMATS = ["json", "toml"]
finite = st.floats(allow_nan=False, allow_infinity=False)
runs = st.builds(
    PretrainConfig,
    encoder=st.builds(
        EncoderConfig, name=st.text(), width=st.none() | st.integers(1, 99), mean=st.tuples(finite, finite, finite)
    ),
    head=st.builds(HeadConfig, layers=st.sampled_from([2, 3]), dim=st.integers(1, 999)),
    views=st.builds(ViewConfig, image_size=st.integers(1, 999), blur=st.floats(0, 1)),
    damage=st.builds(DamageConfig, ratio=st.floats(0, 0.99)),
    optim=st.builds(OptimConfig, lr=st.floats(0.01, 1e300), warmup_epochs=st.just(0.0), joint=st.none()),
    start=st.none() | st.text(),
    rebalance=st.sampled_from([(), ("focal",), ("density", "temperature")]),
    seed=st.integers(0, 2**63 - 1),
)
many = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)


def write(folder: Path, name: str, data: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def refusal(path: Path, cls: type[Any] = PretrainConfig) -> str:
    """The one line that a file is refused with, without the folder."""
    with pytest.raises(InputError) as caught:
        read_settings(path, cls)
    message = str(caught.value)
    assert "\n" not in message
    assert message.isprintable()
    assert len(message) < 700
    return message.replace(f"{path.parent}/", "")


def result(path: Path) -> PretrainConfig | str:
    """The settings, or a printable message. Every other exception is a fault."""
    try:
        return read_settings(path, PretrainConfig)
    except InputError as error:
        return str(error) if str(error).isprintable() else ""


@pytest.mark.parametrize("form", FORMATS)
@given(config=runs)
@many
def test_settings_survive_a_file(tmp_path: Path, form: str, config: PretrainConfig) -> None:
    path = tmp_path / f"a.{form}"
    write_settings(path, config)
    assert read_settings(path, PretrainConfig) == config


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", RECIPES)
def test_recipes_survive_a_file(tmp_path: Path, form: str, name: str) -> None:
    write_settings(tmp_path / f"a.{form}", RECIPES[name]())
    assert read_settings(tmp_path / f"a.{form}", PretrainConfig) == RECIPES[name]()


@pytest.mark.parametrize("method", get_args(Method))
def test_toml_leaves_out_only_what_is_none(method: Method) -> None:
    text = settings_text(cifar_lt(method), "toml")
    assert settings_text(cifar_lt(method), "json").count("null") > 2
    assert "None" not in text
    assert tomllib.loads(text)["optim"]["lr"] == 0.5


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", '{"epochs": 50, "optim": {"lr": 0.25}}'),
        ("a.TOML", "\ufeffepochs = 50 # short\r\n[optim]\r\nlr = 0.25\r\n"),
        ("a.toml", "epochs = 50\noptim.lr = 0.25\n"),
    ],
)
def test_a_file_may_say_only_what_differs(tmp_path: Path, name: str, text: str) -> None:
    path = write(tmp_path, name, text)
    base = cifar_lt("simclr")
    changed = replace(base, epochs=50, optim=replace(base.optim, lr=0.25))
    assert read_settings(path, PretrainConfig, base=base) == changed
    assert read_settings(path, PretrainConfig).epochs == 50


def test_words_beside_the_settings(tmp_path: Path) -> None:
    file = read_settings_file(write(tmp_path, "a.toml", 'recipe = "cifar_lt"\nepochs = 50\n'))
    assert file.word("recipe", ("auto", "cifar_lt")) == "cifar_lt"
    assert file.word("method", ("sdclr",)) is None
    assert file.config(PretrainConfig, apart=("recipe",)).epochs == 50
    with pytest.raises(InputError, match=r"a.toml, line 1: 'recipe' must be one of 'auto', not 'cifar_lt'"):
        file.word("recipe", ("auto",))
    with pytest.raises(InputError, match=r"line 2: 'epochs' must be one of 'auto', not 50"):
        file.word("epochs", ("auto",))


TOML = """\
# A comment
epochs = 100
rebalance = [
  "focal",
  "densitty",
]

[optim]
lr = %s
"""


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.toml", TOML % "0.5", "a.toml, line 3: 'rebalance' must be one of 'density'"),
        ("a.toml", "epochs = 100\n\n[optim]\nlr = '0.5'\n", "'optim.lr' must be a number, not '0.5': leave out"),
        ("a.toml", "[optim]\nlr = nan\n", "a.toml, line 2: 'optim.lr' must be a finite number, not nan"),
        ("a.toml", "[optim]\nlr = -1\n", "a.toml, line 2: optim.lr = -1: the learning rate must be positive, not -1.0"),
        ("a.toml", "seed = 1979-05-27\n", "a.toml, line 1: 'seed' must be a whole number, not 1979-05-27"),
        ("a.toml", "[[optim]]\n", "a.toml, line 1: 'optim' must be a table with keys of name, lr,"),
        ("a.toml", "optim.lrr = 1\n", "a.toml, line 1: unknown key 'optim.lrr': did you mean 'optim.lr'?"),
        ("a.toml", "\n\nlr = 1\n", "a.toml, line 3: unknown key 'lr': did you mean 'optim.lr'?"),
        ("a.toml", "epochs = 1\nepochs = 2\n", "a.toml, line 2, column 11: invalid TOML: Cannot overwrite a value"),
        ("a.toml", "epochs = \n", "a.toml, line 1, column 10: invalid TOML: Invalid value"),
        ("a.toml", 'start = "a', "a.toml: invalid TOML: Unterminated string at its end"),
        ("a.toml", "epochs = 0\n", "a.toml, line 1: epochs = 0: a run needs 1 or more epochs"),
        ("a.json", '{"epochs": 100,\n "optim": {\n"lr": true}}', ", line 3: 'optim.lr' must be a number, not true"),
        ("a.json", '{"optim":\n {"lr": null}}', "a.json, line 2: 'optim.lr' must be a number, not null"),
        ("a.json", '{"views":\n{"flip": 1.5}}', "a.json, line 2: views.flip = 1.5: flip is 1.5: give a probability"),
        ("a.json", '{"epochs" 1}', "a.json, line 1, column 11: invalid JSON: Expecting ':' delimiter"),
        ("a.json", '{"optim": {"lr": 1,\n"lr": 2}}', "a.json, line 2: has the key 'lr' twice: leave one out"),
        ("a.json", '{"optim": {"lr": NaN}}', "a.json: invalid JSON: NaN is not a number: give a finite one"),
        ("a.json", '{"optim": {"lr": 1e999}}', "a.json, line 1: 'optim.lr' must be a finite number, not inf"),
        ("a.json", "[1]", "a.json: holds a list: settings are a JSON object"),
        ("a.json", '{"seed": ' + "9" * 5000 + "}", "a.json: invalid JSON: Exceeds the limit (4300 digits)"),
        ("a.json", '{"seed": ' + "9" * 4000 + "}", "'seed' must be a whole number of at most 64 bits, not 99999999"),
        ("a.json", '{"' + "x" * 9000 + '": 1}', "a.json, line 1: unknown key 'xxxxxxxx"),
        ("a.json", '{"start": ' + "[" * 100000 + "]" * 100000 + "}", "a.json: values are nested too deeply"),
        ("a.toml", "start = " + "[" * 100000 + "]" * 100000, "a.toml: values are nested too deeply"),
        ("a.toml", "epochs = 1\n" + "a." * 100000 + "a = 1", "a.toml, line 2: a key of more than 100 parts"),
        ("a.json", b'{"start":\n"caf\xe9"}', "a.json, line 2: byte 0xe9 is not UTF-8 text: save the file as UTF-8"),
        ("a.json", '{"epochs": 5}'.encode("utf-16"), "byte 0xff is not UTF-8 text"),
        ("a.json", '{"a\\u001b[31m": 1}', "unknown key 'a\\x1b[31m'"),
        ("a.json", " \n", "a.json is empty: write settings into it, or leave it out"),
        ("a.toml", b"", "a.toml is empty"),
        ("a.yaml", "epochs: 5", "a.yaml has no name of a settings file: give a file that ends in .toml or .json"),
        ("a.toml", b"#" * (LARGEST + 1), "a.toml has 1,048,577 bytes, more than 1,048,576: settings have a few"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_named_with_its_place(
    tmp_path: Path, name: str, text: str | bytes, message: str
) -> None:
    assert message in refusal(write(tmp_path, name, text))


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "folder.toml").mkdir()
    os.mkfifo(tmp_path / "pipe.toml")
    assert refusal(tmp_path / "folder.toml") == "folder.toml is a folder: name a file"
    assert "pipe.toml is no regular file but a pipe" in refusal(tmp_path / "pipe.toml")
    assert "there is no such file" in refusal(tmp_path / "absent.toml")
    assert "there is no such file" in refusal(write(tmp_path, "a", "") / "b.toml")
    with pytest.raises(InputError, match="cannot be read"):
        read_settings("a\0.toml", PretrainConfig)
    with pytest.raises(InputError, match="cannot be read"):
        read_settings("a" * 300 + ".toml", PretrainConfig)


def test_text_that_is_no_text_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a.toml: '\\ud812' is not a character"):
        write_settings(tmp_path / "a.toml", PretrainConfig(start="\ud812"))
    with pytest.raises(InputError, match=r"ends in .toml or .json"):
        write_settings(tmp_path / "a.yaml", PretrainConfig())


def _keys(values: dict[str, Any], place: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for key, value in values.items():
        found += _keys(value, (*place, key)) if isinstance(value, dict) else [(*place, key)]
    return found


@pytest.mark.parametrize("form", FORMATS)
def test_every_key_is_found_on_its_line(form: Any) -> None:
    config = cifar_lt("sdclr")
    text = settings_text(config, form)
    find = json_line if form == "json" else toml_line
    lines = text.splitlines()
    values = json.loads(text) if form == "json" else tomllib.loads(text)
    for key in _keys(values)[::4]:
        line = find(text, key)
        assert line is not None
        assert lines[line - 1].strip().strip('"').startswith(key[-1])
    assert find(text, ("absent", "key")) is None


leaf = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["adaptive", "prune", "none", "auto", -1, 0, 1e308, 2**63, 10**400])
)
anything = st.recursive(leaf, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)
sections = {
    key: sorted(value) if isinstance(value, dict) else []
    for key, value in json.loads(settings_text(PretrainConfig(), "json")).items()
}


@st.composite
def hostile(draw: st.DrawFn) -> dict[str, Any]:
    """Known keys with values of any kind."""
    made: dict[str, Any] = {}
    for key in draw(st.lists(st.sampled_from(sorted(sections)), max_size=4)):
        names = sections[key]
        made[key] = draw(
            st.dictionaries(st.sampled_from(names), anything, max_size=4) | anything if names else anything
        )
    return made


@given(values=hostile())
@settings(many, max_examples=100)
def test_known_keys_with_any_value_give_settings_or_an_input_error(tmp_path: Path, values: dict[str, Any]) -> None:
    path = write(tmp_path, "a.json", json.dumps(values))
    assert result(path)


@pytest.mark.parametrize("form", FORMATS)
@given(data=st.data())
@settings(many, max_examples=80)
def test_damaged_files_give_settings_or_an_input_error(tmp_path: Path, form: str, data: st.DataObject) -> None:
    """Parts of a good file are cut out, doubled, or replaced by bytes of any kind."""
    whole = settings_text(PretrainConfig(), form).encode()  # type: ignore[arg-type]  # one of the two
    first, second = sorted(data.draw(st.lists(st.integers(0, len(whole)), min_size=2, max_size=2)))
    inserted = data.draw(
        st.binary(max_size=20) | st.just(whole[first:second] * 2) | st.sampled_from([b"[", b"{", b'"'])
    )
    path = write(tmp_path, f"a.{form}", whole[:first] + inserted + whole[second:])
    assert result(path)
