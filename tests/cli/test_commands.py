"""The command line: what it does, how it stops, what it says when it cannot."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import sdclr
from sdclr.cli import main
from sdclr.cli.parsing import parse

FAST = [
    *("--recipe", "digits_demo", "--encoder.width", "4", "--epochs", "2", "--batch-size", "64"),
    *("--optim.warmup-epochs", "1", "--no-progress", "--device", "cpu"),
]


def failing(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    return stop.value.code, capsys.readouterr().err


def test_version(capsys):
    main(["--version"])
    assert capsys.readouterr().out == f"sdclr {sdclr.__version__}\n"


def test_from_images_to_embeddings(tmp_path, capsys):
    run = tmp_path / "run"
    main(["pretrain", "digits", "--run", str(run), "--subset.kind", "long-tail", "--subset.imbalance", "5", *FAST])
    assert (run / "report.html").stat().st_size > 10_000
    assert str(run / "encoder.safetensors") in capsys.readouterr().out.replace("\n", "")
    main(
        [
            "evaluate",
            "--encoder",
            str(run),
            "--train",
            "digits:train",
            "--test",
            "digits:test",
            "--shots",
            "2",
            "--k",
            "5",
        ]
    )
    assert "few-shot probe" in capsys.readouterr().out
    assert json.loads((run / "results" / "dense.json").read_text())["groups"] is not None
    main(["embed", "digits:test", "--encoder", str(run), "--out", str(tmp_path / "e.parquet")])
    assert pq.read_metadata(tmp_path / "e.parquet").num_rows == 500
    assert sdclr.load_encoder(run)(torch.rand(2, 3, 8, 8)).shape == (2, 32)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on a folder of 60 digits and one broken file."""
    folder = tmp_path_factory.mktemp("trained")
    images, digits = folder / "images", sdclr.open_source("digits")
    images.mkdir()
    for index in range(60):
        Image.fromarray(digits.image(index)).save(images / f"{index:02}.png")
    (images / "broken.png").write_bytes(b"")
    options = ["--max-bad-fraction", "0.1", "--epochs", "2", "--optim.warmup-epochs", "0", "--encoder.width", "4"]
    main(["pretrain", str(images), "--run", str(folder / "run"), "--no-progress", "--device", "cpu", *options])
    return folder / "run", images


def test_the_rare_images_are_ranked_shown_and_written(trained, tmp_path, capsys):
    run, images = trained
    tables = ["--csv", str(tmp_path / "rare.csv"), "--fiftyone", str(tmp_path / "fiftyone.csv")]
    main(["mine", str(images), "--encoder", str(run), "--k", "5", *tables])
    said = capsys.readouterr().out
    assert "60 images ranked, 1 unreadable" in said
    assert "encoder: run " in said
    assert "for 61 images" in said
    scores = sdclr.Scores.read(run / "mine" / "scores.parquet")
    assert scores.bad.keys() == {"broken.png"}
    assert scores.ids[scores.order()[0]] in said
    assert (run / "mine" / "rarest.html").stat().st_size > 10_000
    beside = {file.name.partition("-")[0] for file in (run / "mine" / "rarest_files").iterdir()}
    assert beside >= {"search", "encoder"}  # the run's features, and its network for the browser
    assert len((tmp_path / "rare.csv").read_text().splitlines()) == 62
    assert str(images / scores.ids[scores.order()[0]]) in (tmp_path / "fiftyone.csv").read_text().splitlines()[1]
    main(["report", str(run), "--source", str(images), "--out", str(tmp_path / "r.html"), "--figures", str(tmp_path)])
    assert scores.ids[scores.order()[0]] in (tmp_path / "r.html").read_text()
    assert list(tmp_path.glob("*.svg"))
    assert list(tmp_path.glob("*.png"))


def test_what_to_label_next(trained, tmp_path, capsys):
    run, images = trained
    (tmp_path / "done.txt").write_text("00.png\n01.png\n")
    command = [
        "select",
        str(images),
        "--encoder",
        str(run),
        "--folder",
        str(tmp_path / "m"),
        "--labeled",
        str(tmp_path / "done.txt"),
    ]
    main([*command, "--budget", "58"])
    chosen = capsys.readouterr().out.split()
    assert sorted(chosen) == [f"{index:02}.png" for index in range(2, 60)]
    main([*command, "--budget", "3"])
    chosen = capsys.readouterr().out.split()
    main([*command, "--budget", "3", "--out", str(tmp_path / "next.csv")])
    lines = (tmp_path / "next.csv").read_text().splitlines()
    assert lines[0] == "order,id,score,percentile,kind"
    assert [line.split(",")[1] for line in lines[1:]] == chosen
    said = capsys.readouterr().out
    assert "3 of 58 unlabeled images chosen by" in said
    assert f"to label next: {tmp_path / 'next.csv'}" in said
    # Both forms of list say what is labeled: lines of ids, and the file that the command writes.
    main([*command, str(tmp_path / "next.csv"), "--budget", "all"])
    rest = capsys.readouterr()
    assert sorted([*rest.out.split(), *chosen]) == [f"{index:02}.png" for index in range(2, 60)]
    assert "55 of 55 unlabeled images chosen by" in rest.err


def test_what_cannot_be_chosen_from_is_named(trained, tmp_path, capsys):
    run, images = trained
    command = ["select", str(images), "--encoder", str(run), "--folder", str(tmp_path / "m")]
    code, said = failing([*command, "--budget", "62"], capsys)
    assert code == 2
    assert "budget 62: 61 images have no label yet; give 1 to 61, or all" in said
    code, said = failing([*command, "--budget", "61"], capsys)
    assert "budget 61: 60 images have no label yet (1 unreadable)" in said
    (tmp_path / "all.txt").write_text("\n".join(sorted(path.name for path in images.iterdir())))
    code, said = failing([*command, "--budget", "all", "--labeled", str(tmp_path / "all.txt")], capsys)
    assert "all 61 images have labels already" in said
    (tmp_path / "strange.txt").write_text("nobody.png\n")
    code, said = failing([*command, "--budget", "3", "--labeled", str(tmp_path / "strange.txt")], capsys)
    assert "'nobody.png', listed as labeled, is not an id of these images" in said
    code, said = failing([*command, "--budget", "3", "--labeled", str(tmp_path / "none.txt")], capsys)
    assert "none.txt cannot be read: there is no such file" in said


def test_names_that_are_not_utf8_come_out_as_they_are(trained, tmp_path, capfdbinary):
    run, images = trained
    odd = shutil.copytree(images, tmp_path / "images")
    (odd / "00.png").rename(odd / os.fsdecode(b"od\xe9.png"))
    where = ["--folder", str(tmp_path / "m"), "--budget", "60"]
    main(["select", str(odd), "--encoder", str(run), *where])
    assert b"od\xe9.png" in capfdbinary.readouterr().out.splitlines()
    main(["mine", str(odd), "--encoder", str(run), "--out", str(tmp_path / "m")])
    assert b"60 images ranked" in capfdbinary.readouterr().out


def test_neighbors_of_an_image_and_of_another_file(trained, tmp_path, capsys):
    run, images = trained
    query = tmp_path / "other.png"
    Image.open(images / "07.png").save(query)
    main(["neighbors", str(images), "--encoder", str(run), "--queries", str(query), "07.png", "--k", "2"])
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines() if "\t" in line]
    assert rows[0][1:] == ["1", "07.png", "0.0000"]  # a copy of it
    assert "07.png" not in {row[2] for row in rows[2:]}


def test_embeddings_stand_for_images_and_for_the_encoder(trained, tmp_path, capsys):
    run, images = trained
    table = str(tmp_path / "e.parquet")
    main(["embed", str(images), "--encoder", str(run), "--out", table])
    assert "60 embeddings written" in capsys.readouterr().out
    main(["mine", table, "--out", str(tmp_path / "a"), "--k", "5"])
    said = capsys.readouterr().out
    assert "embeddings: e.parquet, 60 vectors of 32 numbers" in said
    assert "no pictures and no near-duplicates: the ids of e.parquet name no image files here" in said
    (images / "broken.png").rename(tmp_path / "broken.png")
    main(["mine", str(images), "--encoder", table, "--out", str(tmp_path / "b"), "--k", "5", "--no-page"])
    (tmp_path / "broken.png").rename(images / "broken.png")
    alone, beside = (sdclr.Scores.read(tmp_path / name / "scores.parquet") for name in "ab")
    assert alone.ids == beside.ids
    np.testing.assert_array_equal(alone.rank, beside.rank)
    assert (tmp_path / "a" / "rarest.html").is_file()
    beside = {file.name.partition("-")[0] for file in (tmp_path / "a" / "rarest_files").iterdir()}
    assert "search" in beside
    assert "encoder" not in beside  # there is none
    assert not (tmp_path / "b" / "rarest.html").exists()


def test_diagnosis_and_export(trained, tmp_path, capsys):
    run, images = trained
    main(["diagnose", str(images), "--encoder", str(run)])
    found = json.loads((run / "results" / "diagnosis.json").read_text())
    assert found["summary"][0][:30] in capsys.readouterr().out.replace("\n", " ")
    main(["export", str(run), str(tmp_path / "out"), "--formats", "timm"])
    assert {file.name for file in (tmp_path / "out").iterdir()} >= {"README.md", "model.safetensors"}


def test_a_folder_of_images_needs_no_option_but_its_run(tmp_path):
    generator = np.random.default_rng(0)
    for number in range(40):
        pixels = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number:02}.png")
    (tmp_path / "broken.png").write_bytes(b"")
    options = ["--max-bad-fraction", "0.1", "--epochs", "2", "--optim.warmup-epochs", "0", "--encoder.width", "4"]
    main(["pretrain", str(tmp_path), "--run", str(tmp_path / ".run"), "--no-progress", *options])
    assert "broken.png" in (tmp_path / ".run" / "bad_images.csv").read_text()
    config = json.loads((tmp_path / ".run" / "config.json").read_text())
    assert (config["views"]["image_size"], config["batch_size"]) == (16, 8)
    again = ["pretrain", str(tmp_path), "--run", str(tmp_path / ".again"), "--no-progress", "--max-bad-fraction", "0.1"]
    main([*again, "--settings", str(tmp_path / ".run" / "config.json")])
    assert json.loads((tmp_path / ".again" / "config.json").read_text()) == config


def test_options_are_judged_with_the_settings_they_change(tmp_path):
    # Against the usual defaults (10 epochs of warm-up, batches of 512) these would contradict themselves.
    main(["pretrain", "digits", "--run", str(tmp_path / "a"), *FAST, "--batch-size", "96"])
    settings = ["--settings", str(tmp_path / "a" / "config.json")]
    main(["pretrain", "digits", "--run", str(tmp_path / "b"), *settings, "--epochs", "3", "--accumulate", "3"])
    config = sdclr.Run.open(tmp_path / "b").config
    assert (config.epochs, config.accumulate, config.batch_size, config.optim.warmup_epochs) == (3, 3, 96, 1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pretrain", "/nowhere", "--run", "x"], ["/nowhere", "existing path"]),
        (["pretrain", "digits", "--run", "x", "--damage.ratio", "1.5"], ["[0, 1)", "1.5"]),
        (
            ["pretrain", "digits", "--run", "x", "--epochs", "5", "--optim.warmup-epochs", "6"],
            ["--optim.warmup-epochs", "longer than the run of 5"],
        ),
        (["pretrain", "digits", "--run", "x", "--encoder.name", "resnet81"], ["resnet81", "did you mean"]),
        (
            ["evaluate", "--encoder", "/nowhere", "--train", "digits", "--test", "digits:test"],
            ["/nowhere", "timm:NAME"],
        ),
        (["mine", "digits", "--encoder", "resnet18"], ["give timm:resnet18"]),
        (["mine", "e.npy", "--encoder", "timm:resnet18"], ["e.npy", "existing path"]),
        (
            ["pretrain", "digits", "--run", "x", "--start", "timm:resnett18"],
            ["resnett18", "did you mean timm:resnet18"],
        ),
        (["pretrain", "digits", "--run", "x", "--start", "/nowhere.pth"], ["/nowhere.pth", "timm:NAME"]),
        (
            ["pretrain", "digits", "--run", "x", "--start", "timm:resnet10t", "--encoder.name", "resnet18"],
            ["are of 'resnet10t', not of 'resnet18'", "--encoder.name resnet10t"],
        ),
        (["pretrain", "digits", "--run", "x", "--device", "cuda:7"], ["cuda:7", "--device cpu"]),
    ],
)
def test_errors_are_one_line_with_the_mend(arguments, words, tmp_path, monkeypatch, capsys):
    if "cuda:7" in arguments and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.chdir(tmp_path)
    code, said = failing(arguments, capsys)
    assert code == 2
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    for word in words:
        assert word in said


def test_a_run_starts_from_another_without_being_told_its_encoder(tmp_path, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    main(["pretrain", "digits", "--run", str(first), *FAST])
    assert "starting from" not in capsys.readouterr().out
    again = ["--epochs", "2", "--no-progress", "--device", "cpu"]
    main(["pretrain", "digits", "--run", str(second), "--start", str(first), *again])
    said = capsys.readouterr().out
    assert f"starting from {first} (license not known, trained without labels): resnet18 at 8 px, 2 epochs" in said
    assert "batch-norm statistics fixed" in said
    config = sdclr.Run.open(second).config
    assert (config.encoder.width, config.optim.lr) == (4, 0.0005)
    assert json.loads((second / "start.json").read_text())["labels"] is False


def test_trained_weights_and_named_encoders_need_no_other_option():
    started = parse(["pretrain", "digits", "--start", "timm:tf_efficientnet_lite0", "--framework", "byol"]).config
    assert (started.encoder.name, started.encoder.width) == ("tf_efficientnet_lite0", None)
    assert (started.encoder.mean, started.views.image_size, started.optim.lr) == ((0.5, 0.5, 0.5), 96, 0.0005)
    named = parse(["pretrain", "digits", "--encoder.name", "tf_efficientnet_lite0", "--epochs", "20"]).config
    assert (named.encoder.width, named.views.image_size, named.epochs) == (None, 96, 20)


def test_a_misspelt_option_gets_a_suggestion(capsys):
    code, said = failing(["pretrain", "digits", "--epoch", "3"], capsys)
    assert code == 2
    assert "--epochs" in said


def test_debug_shows_the_trace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(sdclr.InputError):
        main(["pretrain", "/nowhere", "--run", "x", "--debug"])


@pytest.mark.slow
def test_torchrun_trains_one_run_on_two_processes(tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "sdclr", "--"]
    command = [*launch, "pretrain", "digits", "--run", str(tmp_path / "run"), *FAST]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("encoder:") == 1
    assert "Warning" not in done.stderr
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [20, 40]


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_the_same_command_goes_on(signum, code, tmp_path):
    run = tmp_path / "run"
    options = [*FAST, "--epochs", "8", "--log-steps", "1"]
    command = [sys.executable, "-m", "sdclr", "pretrain", "digits", "--run", str(run), *options]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (run / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signum)
    _, said = process.communicate(timeout=120)
    assert process.returncode == code, said
    assert "run the same command to resume" in said
    steps = len((run / "metrics.jsonl").read_text().splitlines())
    assert 0 < steps < 160
    assert len(list((run / "checkpoints").glob("*.pt"))) == 1
    if signum == signal.SIGTERM:
        return
    subprocess.run(command, env=env, check=True, timeout=240, capture_output=True)
    logged = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert logged == list(range(1, 161))


@pytest.mark.parametrize(
    ("said", "ratio"),
    [
        ("kind prune", "adaptive"),
        ("kind none", "adaptive"),
        ("kind random", 0.2),
        ("kind dropout", 0.2),
        ("ratio 0.9", 0.9),
    ],
)
def test_every_damage_needs_no_more_than_its_name(said, ratio):
    name, value = said.split()
    damage = parse(["pretrain", "digits", f"--damage.{name}", value]).config.damage
    assert damage.ratio == ratio
    assert damage.independent_norm == "statistics"


@pytest.mark.parametrize("said", [["--damage", "none"], ["--damage=none"], ["--damage.kind", "none"]])
def test_damage_has_a_short_form(said):
    command = parse(["pretrain", "digits", *said])
    assert command.config.damage.kind == "none"


@pytest.mark.parametrize("said", ["--rebalance density,temperature", "--rebalance=density,temperature"])
def test_rebalancers_may_be_joined_by_commas(said):
    command = parse(["pretrain", "digits", *said.split(), "--damage.ratio", "adaptive"])
    assert command.config.rebalance == ("density", "temperature")
    assert command.config.damage.ratio == "adaptive"


def test_the_bench_takes_both_as_axes():
    command = parse(["bench", "--data", "x", "--damage", "none", "prune", "--rebalance", "none", "temperature,focal"])
    assert (command.damage, command.rebalance) == (("none", "prune"), ("none", "temperature,focal"))
