"""What commands say: a plan first, results, how long it took, and commands that work."""

import csv
import io
import shlex
import shutil

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

import sdclr
from sdclr.cli import main
from sdclr.cli.talk import Talking, finish, note, spelled, talking
from sdclr.progress import listening, reporting_to, stage
from sdclr.progress_display import Bar, Lines

TINY = ["--epochs", "2", "--optim.warmup-epochs", "0", "--encoder.width", "4", "--device", "cpu"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a run on `my images`: 60 digits in two classes, one of them twice, and a broken file."""
    folder = tmp_path_factory.mktemp("place")
    digits = sdclr.open_source("digits")
    rows = np.flatnonzero(digits.labels < 2)[:60]
    for number, row in enumerate(rows.tolist()):
        file = folder / "my images" / str(digits.labels[row]) / f"{number:03}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits.image(row)).resize((64, 64)).save(file)
    shutil.copy(folder / "my images" / "0" / "000.png", folder / "my images" / "0" / "copy.png")
    (folder / "my images" / "1" / "broken.png").write_bytes(b"")
    (folder / "my images" / "notes.txt").write_text("no image")
    with (folder / "table.csv").open("w", newline="") as table:
        rows = csv.writer(table)
        rows.writerow(["path", "attr:round", "attr:even"])
        for number, file in enumerate(sorted((folder / "my images").glob("*/[0-9]*.png"))):
            rows.writerow([file, int(file.parent.name == "0"), number % 2])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        limit = ["--max-bad-fraction", "0.1"]
        said = io.StringIO()
        patch.setattr("sys.stdout", said)
        main(["pretrain", "my images", "--run", "run", *limit, *TINY])
    (folder / "said").write_text(said.getvalue())
    return folder


@pytest.fixture
def inside(place, tmp_path, monkeypatch):
    """A copy of that folder, as the current one."""
    shutil.copytree(place, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def suggested(said: str) -> list[list[str]]:
    """The commands under `next:`."""
    lines = said.splitlines()
    begin = next(number for number, line in enumerate(lines) if line.startswith("next: "))
    return [shlex.split(line.removeprefix("next:"))[1:] for line in lines[begin:] if " sdclr " in line]


def checked_plan(said: str, *, images: bool = True) -> None:
    """A plan stands before everything else, and a time at the end."""
    heads = [line.partition(":")[0] for line in said.splitlines()]
    assert "output" in heads
    assert not images or {"images", "machine"} <= set(heads)
    assert "done in " in said


def test_pretraining_says_what_it_will_do(place):
    said = (place / "said").read_text()
    lines = said.splitlines()
    assert lines[0] == "images:  62 images in my images, 1 other file skipped, 64x64 px, 2 classes"
    assert lines[1].startswith("network: resnet18, 0.0 million weights, views of 64 px")
    assert lines[2].startswith("length:  2 epochs of ")
    assert lines[3].startswith("machine: cpu, 1 thread, ")
    assert lines[4] == "output:  run"
    checked_plan(said)


def test_what_pretraining_suggests_works(place, inside, capsys):
    commands = suggested((place / "said").read_text())
    assert [command[0] for command in commands] == ["mine", "embed", "export"]
    for command in commands:
        exports = command[0] == "export"
        main([*command, *(["--formats", "timm"] if exports else [])])  # ONNX takes long
        said = capsys.readouterr().out
        assert "done in " in said
        if not exports:
            checked_plan(said)
    assert (inside / "run" / "mine" / "rarest.html").is_file()
    assert (inside / "run" / "embeddings.parquet").is_file()
    assert (inside / "run" / "export" / "README.md").is_file()


@pytest.mark.usefixtures("inside")
def test_what_mining_suggests_works_and_takes_up_its_scores(capsys, monkeypatch):
    main(["mine", "my images", "--encoder", "run", "--out", "m", "--no-page"])
    said = capsys.readouterr().out
    checked_plan(said)
    assert "the images are read already" not in said
    commands = suggested(said)
    assert [command[0] for command in commands] == ["select", "duplicates", "diagnose"]
    # What mining has computed is not computed again.
    for name in ("_map", "_scored", "first_to_label"):
        monkeypatch.setattr(f"sdclr.mining.mine.{name}", None)
    before = sdclr.Scores.read("m/scores.parquet")
    for command in commands:
        main(command)
        said = capsys.readouterr().out
        checked_plan(said)
        assert ("the features in m are used again" in said) == (command[0] != "diagnose")
        for further in suggested(said) if command[0] == "duplicates" else []:
            if further[0] == "apply":
                main(further)
    assert sdclr.Scores.read("m/scores.parquet").label_next == before.label_next != ()


@pytest.mark.usefixtures("inside")
@pytest.mark.parametrize(
    "command",
    [
        ["evaluate", "--encoder", "run", "--train", "my images", "--test", "my images", "--shots", "2", "--k", "5"],
        ["evaluate-attributes", "--encoder", "run", "--train", "table.csv", "--test", "table.csv", "--few-shot", "0.1"],
        ["diagnose", "my images", "--encoder", "run", "--images", "60", "--part", "50"],
        ["embed", "my images", "--encoder", "run", "--out", "e.parquet"],
    ],
    ids=lambda command: command[0],
)
def test_commands_plan_report_and_go_on(command, capsys):
    main(command)
    said = capsys.readouterr().out
    checked_plan(said)
    for further in suggested(said) if command[0] in {"evaluate", "embed"} else []:  # others suggest the same again
        main(further)
        capsys.readouterr()


def test_fine_tuning_says_what_it_will_do(inside, capsys):
    (inside / "my images" / "1" / "broken.png").unlink()
    data = ["--train", "my images", "--test", "my images", "--out", "tuned"]
    main(["finetune", "--start", "run", *data, "--method", "ce", "--epochs", "1", "--batch-size", "32"])
    said = capsys.readouterr().out
    checked_plan(said, images=False)
    assert said.startswith("train:   61 images in my images")
    assert "length:  1 epoch in batches of 32, by ce" in said
    (command,) = suggested(said)
    main([*command, "--shots", "2", "--k", "5"])


@pytest.mark.usefixtures("inside")
def test_standard_output_holds_results_alone_where_programs_read_it(capsys):
    main(["select", "my images", "--encoder", "run", "--budget", "3"])
    chosen = capsys.readouterr()
    assert len(chosen.out.splitlines()) == 3
    checked_plan(chosen.err)
    query = ["--queries", chosen.out.splitlines()[0], "--k", "2"]
    main(["neighbors", "my images", "--encoder", "run", *query])
    near = capsys.readouterr()
    assert [line.count("\t") for line in near.out.splitlines()] == [3, 3]
    checked_plan(near.err)
    assert suggested(near.err) == [["mine", "my images", "--encoder", "run"]]
    main(["neighbors", "my images", "--encoder", "run", *query, "--out", "near.csv"])
    written = capsys.readouterr()
    checked_plan(written.out)
    assert written.err == ""
    main(["recipe", "cifar_lt"])
    assert capsys.readouterr().out.startswith("{")


@pytest.mark.usefixtures("inside")
def test_quiet_leaves_results_and_errors(capsys):
    less = ["--no-page", "--no-map", "--no-duplicates"]
    main(["mine", "my images", "--encoder", "run", "--out", "m", *less, "--quiet"])
    said = capsys.readouterr()
    assert said.out.startswith("scores:  m/scores.parquet\n61 images ranked, 1 unreadable (1/broken.png: ")
    assert "next:" not in said.out
    assert said.err == ""
    with pytest.raises(SystemExit):
        main(["mine", "nowhere", "--quiet"])
    assert capsys.readouterr().err.startswith("error: nowhere")


def test_commands_of_one_process_refuse_several(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main(["mine", "digits"])
    said = capsys.readouterr().err
    assert said.startswith("error: mine runs in one process, not in 2: start it without torchrun or srun")
    assert not list(tmp_path.iterdir())


def test_only_the_first_process_speaks(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    with talking("embed", quiet=False) as console:
        console.print("result")
        note(console, "note")
        finish(console, "sdclr mine images")
        assert listening() is None
    assert capsys.readouterr() == ("", "")


def test_a_command_speaks_in_lines_where_no_terminal_is(capsys):
    with talking("mine", quiet=False) as console:
        assert isinstance(listening(), Lines)
        finish(console, None, spelled("mine", "my images", encoder="runs/a", out=None))
    assert capsys.readouterr().out == "done in 0 s\nnext:    sdclr mine 'my images' --encoder runs/a\n"


def test_what_is_printed_does_not_mix_with_the_bar():
    terminal = io.StringIO()
    bar = Bar(Console(file=terminal, width=80, force_terminal=True, color_system=None), clock=lambda: 0.0)
    with reporting_to(bar), stage("reading images", 10) as update:
        update(3)
        bar.clock = lambda: 5.0
        bar.tick()
        Talking(file=terminal).print("scores: m/scores.parquet")
    erased, printed, rest = terminal.getvalue().partition("scores: m/scores.parquet\n")
    assert "reading images 3/10" in erased
    assert erased.endswith("\x1b[2K")
    assert printed
    assert rest == ""
