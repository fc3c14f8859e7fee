"""How commands end: exit codes, one line, no traceback; and the scripts that complete options in shells."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sdclr.cli import main
from sdclr.cli.catalog import CATALOG
from sdclr.cli.completion import script
from sdclr.cli.endings import ERROR, INTERRUPTED, NO_READER, TERMINATED, USAGE
from sdclr.cli.stops import Terminated, stoppable
from sdclr.cli.traces import KEPT
from sdclr.errors import InputError
from sdclr.version import __version__

PROGRAM = [sys.executable, "-m", "sdclr"]


@pytest.fixture
def ended(monkeypatch, capsys):
    """The exit code and the text on standard error of a command whose parsing raises something."""

    def run(raised, command):
        def parse(_argv):
            raise raised

        monkeypatch.setattr("sdclr.cli.carry_out.parse", parse)
        with pytest.raises(SystemExit) as stop:
            main([command, "x"])
        return stop.value.code, capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    ("raised", "command", "code", "said"),
    [
        (InputError("x.csv: no such file"), "apply", USAGE, "error: x.csv: no such file\n"),
        (FloatingPointError("the loss is not finite"), "pretrain", ERROR, "error: the loss is not finite\n"),
        (OSError(28, "No space left on device", "m/x"), "mine", ERROR, "error: [Errno 28] No space left on device: "),
        (MemoryError("of 3 GB"), "mine", ERROR, "error: out of memory: give a smaller --batch-size"),
        (KeyError("kind"), "mine", ERROR, "error: unexpected KeyError"),
        (ValueError("two\nlines"), "mine", ERROR, ": two lines. This is a bug in sdclr: please report it"),
        (BrokenPipeError(32, "of a worker"), "mine", ERROR, "error: [Errno 32] of a worker"),
        (KeyboardInterrupt(), "mine", INTERRUPTED, "stopped by Ctrl-C; run the same command to resume\n"),
        (KeyboardInterrupt(), "evaluate", INTERRUPTED, "stopped by Ctrl-C\n"),
        (Terminated(), "evaluate", TERMINATED, "stopped by SIGTERM\n"),
    ],
)
def test_every_end_is_one_line_and_a_code(raised, command, code, said, ended):
    got, text = ended(raised, command)
    assert got == code
    assert said in text
    assert text.count("\n") == 1


def test_what_is_stored_is_said_after_an_interrupt(ended):
    stop = KeyboardInterrupt()
    stop.add_note("the features of 64 of 120 images are stored")
    expected = "stopped by Ctrl-C; the features of 64 of 120 images are stored; run the same command to resume\n"
    assert ended(stop, "mine") == (INTERRUPTED, expected)


def test_the_place_of_a_bug_is_named_and_debug_shows_all_of_it(monkeypatch, capsys):
    def broken(_options):
        raise RuntimeError("x" * 1000)

    monkeypatch.setattr("sdclr.cli.commands.pretrain._spelt_out", broken)
    with pytest.raises(SystemExit) as stop:
        main(["pretrain", "x"])
    assert stop.value.code == ERROR
    said = capsys.readouterr().err
    assert "unexpected RuntimeError in sdclr/cli/commands/pretrain.py, line" in said
    assert len(said) < 700
    with pytest.raises(RuntimeError, match="xxx"):
        main(["pretrain", "x", "--debug"])


@pytest.fixture
def buggy(monkeypatch, tmp_path, capsys):
    """A command with a bug: what it says, and the folder of saved tracebacks."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def broken(_options):
        raise RuntimeError("no access with token=hunter2 at https://me:pass@example.com/x")

    monkeypatch.setattr("sdclr.cli.commands.pretrain._spelt_out", broken)

    def run(*options):
        with pytest.raises(SystemExit) as stop:
            main(["pretrain", "x", *options])
        assert stop.value.code == ERROR
        return capsys.readouterr().err

    return run, tmp_path / "cache" / "sdclr" / "errors"


def test_the_traceback_of_a_bug_is_saved_without_secrets(buggy):
    run, folder = buggy
    said = run("--run", "hf_abcdefgh")
    (file,) = folder.iterdir()
    assert said.endswith(f"please report it with the file {file}\n")
    assert said.count("\n") == 1
    assert re.fullmatch(r"\d{4}-\d\d-\d\d-\d{6}-pretrain-\d+\.txt", file.name)
    text = file.read_text()
    for fact in (f"sdclr {__version__}\n", "command: sdclr pretrain x --run", "\nPython 3.", "torch 2.", "Traceback"):
        assert fact in text
    assert "in broken" in text
    for secret in ("hunter2", "me:pass", "hf_abcdefgh"):
        assert secret not in text
    assert "https://example.com/x" in text


def test_few_saved_tracebacks_are_kept(buggy):
    run, folder = buggy
    folder.mkdir(parents=True)
    for number in range(30):
        (folder / f"2020-01-01-0000{number:02d}-mine-7.txt").write_text("old")
    run()
    names = sorted(file.name for file in folder.iterdir())
    assert len(names) == KEPT
    assert names[0] == "2020-01-01-000011-mine-7.txt"
    assert "-pretrain-" in names[-1]


def test_a_traceback_that_cannot_be_saved_is_had_by_debug(buggy):
    run, folder = buggy
    folder.parent.parent.write_text("a file where the cache should be")
    assert "with the traceback, which the same command shows with --debug" in run()


def test_a_bug_after_the_clock_was_set_back_keeps_its_own_file(buggy):
    run, folder = buggy
    folder.mkdir(parents=True)
    for number in range(KEPT):
        (folder / f"2999-01-01-0000{number:02d}-mine-7.txt").write_text("from the future")
    said = run()
    assert Path(said.rpartition("the file ")[2].strip()).is_file()


def test_a_lost_worker_is_no_bug(ended):
    lost = RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
    code, said = ended(lost, "pretrain")
    assert code == ERROR
    assert "was killed (SIGKILL), as the system does when memory runs out" in said
    assert "bug" not in said


def test_sigterm_counts_more_than_what_it_breaks(monkeypatch, capsys):
    def parse(_argv):
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            raise RuntimeError("DataLoader worker is killed by signal: Terminated")

    monkeypatch.setattr("sdclr.cli.carry_out.parse", parse)
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", "x"])
    assert stop.value.code == TERMINATED
    assert capsys.readouterr().err == "stopped by SIGTERM\n"


def test_a_handler_that_is_there_already_stays():
    before = signal.getsignal(signal.SIGTERM)
    with stoppable():
        assert signal.getsignal(signal.SIGTERM) is not before
        with stoppable():
            pass
        with pytest.raises(Terminated):
            signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("line", ["--help", "pretrain --help-all", "recipe cifar_lt"])
def test_a_closed_pipe_ends_quietly(line):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([*PROGRAM, *line.split()], **pipes, text=True) as process:
        process.stdout.close()  # before anything is written, as by a `head` that has seen enough
        said = process.stderr.read()
    assert process.returncode == NO_READER
    assert said == ""


def test_lists_end_quietly_when_their_reader_has_enough():
    """`select` and `neighbors` write their lists by `write_lines`."""
    program = (
        "import sdclr.cli.actions.recipe as action\n"
        "from sdclr.cli import main\nfrom sdclr.cli.lines import write_lines\n"
        "action.run = lambda *_: write_lines(map(str, range(10**6)))\n"
        "main(['recipe', 'cifar_lt', '--quiet'])\n"
    )
    shell = ["bash", "-c", f'{sys.executable} -c "$0" | head -1; echo ${{PIPESTATUS[0]}}', program]
    done = subprocess.run(shell, capture_output=True, text=True, timeout=240, check=False)
    assert done.stdout.splitlines() == ["0", str(NO_READER)]
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("at", "signum", "code"),
    [
        ("torch", signal.SIGINT, INTERRUPTED),
        ("torch", signal.SIGTERM, TERMINATED),
        ("work", signal.SIGTERM, TERMINATED),
    ],
)
def test_signals_during_start_up_and_without_a_checkpoint(at, signum, code, tmp_path):
    """A command that has loaded half of what it needs, or computes, ends at once and in one line."""
    waits = {
        "torch": "import importlib.abc\n"
        "class Slow(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'torch': wait()\n"
        "sys.meta_path.insert(0, Slow())\n",
        "work": "import sdclr.cli.actions.recipe as slow\nslow.run = lambda *_: wait()\n",
    }[at]
    program = (
        "import sys, time\n"
        "def wait():\n    print('waiting', flush=True)\n    time.sleep(60)\n"
        f"{waits}"
        "from sdclr.cli import main\nmain(sys.argv[1:])\n"
    )
    asked_for = {"torch": ["evaluate", "--train", "A", "--test", "B"], "work": ["recipe", "cifar_lt"]}[at]
    command = [sys.executable, "-c", program, *asked_for, "--quiet"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "waiting\n"
    asked = time.monotonic()
    process.send_signal(signum)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert said.splitlines()[-1].startswith("stopped by ")
    assert said.count("\n") == 1
    assert time.monotonic() - asked < 30


def test_completions_know_every_command_and_option():
    for shell in ("bash", "zsh", "fish"):
        text = script([shell])
        for name in CATALOG:
            assert name in text
        assert re.search(r"-l damage\.kind|--damage\.kind", text)
    with pytest.raises(InputError, match="one of bash, zsh, fish, not 'tcsh'"):
        script(["tcsh"])


BASH = {
    "sdclr mi": ["mine"],
    "sdclr mine --sco": ["--score"],
    "sdclr mine --score ": ["kinds", "distance", "lof", "forgetting", "loss"],
    "sdclr mine --no-pa": ["--no-page"],
    "sdclr pretrain x --damage.ki": ["--damage.kind"],
    "sdclr pretrain x --rebalance focal den": ["density"],
    "sdclr recipe cifar": ["cifar_lt"],
    "sdclr mine ./im": [],  # then bash completes files
    "sdclr --comp": ["--completion"],
}


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes(tmp_path):
    (tmp_path / "sdclr.bash").write_text(script(["bash"]))
    lines = ["source ./sdclr.bash", "complete -p sdclr"]
    for typed in BASH:
        words = typed.split(" ")
        lines += [f"COMP_WORDS=({' '.join(word or chr(34) * 2 for word in words)})", f"COMP_CWORD={len(words) - 1}"]
        lines += ["_sdclr", 'echo "${COMPREPLY[*]}"']
    done = subprocess.run(["bash", "-c", "\n".join(lines)], cwd=tmp_path, capture_output=True, text=True, check=True)
    registered, *found = done.stdout.splitlines()
    assert registered == "complete -o default -F _sdclr sdclr"
    assert dict(zip(BASH, (line.split() for line in found), strict=True)) == BASH


@pytest.mark.skipif(shutil.which("fish") is None, reason="there is no fish")
def test_fish_completes(tmp_path):
    (tmp_path / "sdclr.fish").write_text(script(["fish"]))
    (tmp_path / "images").mkdir()
    asked = ["sdclr mi", "sdclr mine --sco", "sdclr mine --score lo", "sdclr mine im", "sdclr recipe cifar"]
    lines = "; ".join(["source sdclr.fish", *(f"complete -C '{typed}'; echo ==" for typed in asked)])
    env = os.environ | {"HOME": str(tmp_path)}
    done = subprocess.run(["fish", "-c", lines], cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    parts = done.stdout.split("==\n")
    found = [{line.split("\t")[0] for line in part.splitlines()} for part in parts]
    assert found[:2] == [{"mine"}, {"--score"}]
    assert found[2] >= {"lof", "loss"}
    assert "images/" in found[3]
    assert found[4] >= {"cifar_lt"}


@pytest.mark.skipif(shutil.which("zsh") is None, reason="there is no zsh")
def test_zsh_reads_the_script(tmp_path):
    (tmp_path / "_sdclr").write_text(script(["zsh"]))
    subprocess.run(["zsh", "-n", "_sdclr"], cwd=tmp_path, check=True)
    lines = "autoload -Uz compinit; compinit -u -d ./dump; source ./_sdclr; echo $_comps[sdclr]"
    done = subprocess.run(["zsh", "-f", "-c", lines], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "_sdclr\n"
