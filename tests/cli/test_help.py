"""Help: what it shows, how it fits a terminal, and that it says what tyro parses."""

import dataclasses
import re
from importlib import import_module

import pytest
import tyro

from sdclr.cli import main
from sdclr.cli.catalog import CATALOG, GROUPS
from sdclr.cli.completion import command_options
from sdclr.cli.help import command_help, overview
from sdclr.cli.optionlist import options_of


@pytest.fixture(autouse=True)
def _wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def test_the_list_has_each_command_once_under_its_group():
    # The summary of a long name begins on the next line.
    lines = re.sub(r"\n {8,}", " ", overview()).splitlines()
    places = [lines.index(f"{group}:") for group in GROUPS]
    assert GROUPS == ("find", "train", "judge", "research")
    assert places == sorted(places)
    for entry in CATALOG.values():
        assert sum(line.split(maxsplit=1) == [entry.name, entry.summary] for line in lines) == 1
    for code in ("0", "1", "2", "130", "143"):
        assert re.search(rf"\b{code}\b", overview().partition("exit codes:")[2])


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_help_fits_the_terminal(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    texts = [overview(), *(command_help(name, everything=every) for name in CATALOG for every in (True, False))]
    for line in "\n".join(texts).splitlines():
        words = line.split()
        assert len(line) <= columns or len(words) == 1 or len(max(words, key=len)) > columns - 12, line


def _options_in(text):
    return {option.rstrip(".") for option in re.findall(r"(?<![\w-])--[a-z][\w.-]*", text)}


def _negative(options):
    return {"--" + re.sub(r"([\w-]+)$", r"no-\1", one.name[2:]) for one in options if one.flag}


@pytest.mark.parametrize("name", CATALOG)
def test_all_options_of_tyro_are_shown(name, capsys):
    kind = getattr(import_module(f"sdclr.cli.commands.{CATALOG[name].module}"), CATALOG[name].kind)
    with pytest.raises(SystemExit):
        tyro.cli(kind, args=["--help"], prog="x")
    known = _options_in(capsys.readouterr().out) - {"--help"}
    options = command_options(name)
    shown = {one.name for one in options}
    mentioned = _options_in(" ".join([kind.__doc__, *(one.help for one in options)]))
    assert {one.name for one in options if not one.positional} <= known
    assert known - mentioned <= shown | _negative(options)
    text = command_help(name, everything=True)
    for option in shown:
        assert option.removeprefix("--") in text


@pytest.mark.parametrize("name", list(CATALOG))
def test_every_option_has_help(name):
    for option in command_options(name):
        assert option.help, option.name


@pytest.mark.parametrize(
    "name", [name for name in CATALOG if hasattr(import_module(f"sdclr.cli.commands.{CATALOG[name].module}"), "SHORT")]
)
def test_short_help_shows_options_that_exist_and_where_the_rest_is(name):
    module = import_module(f"sdclr.cli.commands.{CATALOG[name].module}")
    options = {one.name: one for one in command_options(name)}
    listed = [option for names in module.SHORT.values() for option in names]
    assert len(listed) == len(set(listed))
    assert set(listed) <= options.keys()
    assert {one.name for one in options.values() if one.required} <= set(listed)
    text = command_help(name, everything=False)
    assert f"{len(options) - len(listed)} more options: sdclr {name} --help-all" in text
    assert len(text.splitlines()) <= 100  # two screens
    assert set(getattr(module, "FITTED", ())) <= set(listed)


def test_pretraining_shows_how_to_begin():
    text = command_help("pretrain", everything=False)
    assert "# Automatic settings.\n  sdclr pretrain ./images\n" in text
    assert "--start timm:tf_efficientnet_lite0" in text
    assert 15 <= len(re.findall(r"^  -", text, re.MULTILINE)) <= 25
    assert "(default: 500)" not in text  # epochs follow from the images


def test_defaults_are_those_of_the_dataclass():
    @dataclasses.dataclass(frozen=True)
    class Inner:
        """Settings."""

        rate: float = 0.25
        """How fast."""

    @dataclasses.dataclass(frozen=True)
    class Outer:
        """A command."""

        many: tuple[int, ...] = (3, 4)
        """Some numbers. And more of it."""
        inner: Inner = dataclasses.field(default_factory=lambda: Inner(rate=0.5))
        plain: bool = False
        """A flag."""

    many, plain, rate = options_of(Outer)
    assert (many.name, many.metavar, many.default) == ("--many", "INT ...", "3 4")
    assert (plain.name, plain.flag, plain.default) == ("--plain", True, "off")
    assert (rate.name, rate.default, rate.section, rate.help) == ("--inner.rate", "0.5", "inner", "How fast.")


def test_headings_are_bold_only_where_a_terminal_wants_it(monkeypatch, capsys):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert "\033[1m" in overview()
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert "\033" not in overview()
            main(["--help"])
            assert "\033" not in capsys.readouterr().out


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb"), ("COLUMNS", "40")])
def test_usage_errors_respect_the_terminal(name, value, monkeypatch, capsys):
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(f"sys.{stream}.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as stop:
        main(["mine", "x", "--scor", "kinds"])
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert "--score" in re.sub("\033.*?m", "", said)
    assert ("\033" in said) == (name == "COLUMNS")
    assert max(map(len, re.sub("\033.*?m", "", said).splitlines())) == (40 if name == "COLUMNS" else 80)


def test_words_for_help_and_hidden_options(capsys):
    main([])
    assert capsys.readouterr().out.startswith("usage: sdclr COMMAND")
    main(["mine", "x", "-h"])
    assert "--references" not in capsys.readouterr().out
    main(["mine", "--help-all"])
    assert "--references" in capsys.readouterr().out
    # Hidden options are suggested all the same.
    with pytest.raises(SystemExit) as stop:
        main(["mine", "x", "--referenses", "3"])
    assert stop.value.code == 2
    assert "--references" in capsys.readouterr().err


def test_an_unknown_command_is_one_line_with_a_suggestion(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["mien", "x"])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "'mien': did you mean 'mine'?" in said


def test_help_is_a_command_too(capsys):
    main(["help"])
    overview = capsys.readouterr().out
    main(["--help"])
    assert capsys.readouterr().out == overview
    main(["help", "mine"])
    assert capsys.readouterr().out.startswith("usage: sdclr mine")
