"""A value of megabytes is not echoed, whichever option it is given to."""

import pytest

import sdclr
from sdclr.cli import main
from sdclr.errors import BadImageError, InputError

HUGE = "x" * 5_000_000


@pytest.mark.parametrize(
    "arguments",
    [
        [HUGE],
        ["mine", HUGE],
        ["mine", "digits", "--encoder", HUGE],
        ["mine", "digits", "--score", HUGE],
        ["mine", "digits", "--k", HUGE],
        ["mine", "digits", "--" + HUGE],
        ["embed", "digits", "--out", HUGE],
        ["pretrain", "digits", "--settings", HUGE],
        ["pretrain", "digits", "--encoder.name", HUGE],
        ["pretrain", "digits", "--epochs", "9" * 5_000_000],
        ["evaluate", "--encoder", HUGE, "--train", "digits"],
        ["select", "digits", "--budget", HUGE],
        ["help", HUGE],
        ["--completion", HUGE],
    ],
    ids=lambda arguments: " ".join(word[:12] for word in arguments),
)
def test_of_the_command_line(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    said = capsys.readouterr()
    assert ended.value.code == 2
    assert len(said.err) + len(said.out) < 3000
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    "call",
    [
        lambda: sdclr.open_source(HUGE),
        lambda: sdclr.load_encoder(HUGE),
        lambda: sdclr.load_encoder("timm:" + HUGE),
        lambda: sdclr.mine("digits", encoder=HUGE),
        lambda: sdclr.open_source("digits:" + HUGE),
        lambda: sdclr.read_settings(HUGE + ".toml", sdclr.PretrainConfig),
        lambda: sdclr.read_marks(HUGE),
        lambda: sdclr.report(HUGE),
    ],
)
def test_of_functions(call):
    with pytest.raises(InputError) as caught:
        call()
    assert len(str(caught.value)) < 3000


def test_both_ends_of_a_long_message_stay():
    message = str(InputError("a.toml: " + HUGE + ": give a number"))
    assert message.startswith("a.toml: xxx")
    assert message.endswith("xxx: give a number")
    assert "x…x" in message
    assert len(str(BadImageError(HUGE, "truncated"))) < 2100
