"""`sdclr info`: what it tells fits a terminal, and comes without torch where no images are named."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sdclr.cli import main
from sdclr.cli.fields import field, shortened
from sdclr.data.sources import ArraySource, open_source
from sdclr.encoders import EncoderConfig, create_encoder, save_encoder
from sdclr.training.config import PretrainConfig
from sdclr.training.costs import estimate_costs, training_speed
from sdclr.training.defaults import default_config


def told(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    main(["info", *options])
    text = capsys.readouterr().out
    assert max(len(line) for line in text.splitlines() if not line.startswith("written to")) <= 80
    assert text.replace("\n", "").isprintable()
    return text


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A folder with files of every kind of trouble, and names that terminals cannot show."""
    folder = tmp_path / "odd"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(3):
        Image.fromarray(random.integers(0, 256, (30 + number, 40, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    for number in range(8):
        (folder / f"same {number}.png").write_bytes((folder / "0.png").read_bytes())
    (folder / "red\x1b[31m\nline.png").write_bytes(b"nothing")
    (folder / "caf\udce9.jpg").write_bytes(b"")
    (folder / ("n" * 200 + ".png")).write_bytes(b"nothing")
    (folder / "notes.txt").write_bytes(b"nothing")
    return folder


def test_the_environment_alone_needs_no_torch() -> None:
    code = (
        "import sys; from sdclr.cli import main; main(['info']); "
        "sys.exit(' '.join(sorted({'torch', 'timm', 'pyarrow', 'sklearn'} & set(sys.modules))) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert re.search(r"^packages     torch \d", done.stdout, flags=re.MULTILINE)
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_a_folder_with_trouble(odd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = told(capsys, str(odd), "--no-measure", "--json", str(tmp_path / "info.json"))
    assert "longer side up to 40 px; most often 40x30" in " ".join(text.split())
    assert "1 group of files that are equal byte for byte; 8 could be dropped" in " ".join(text.split())
    assert "0.png = same 0.png = 7 more" in text
    assert r"red\u001b[31m\u000aline.png: not an image of a known format" in text
    assert r"caf\udce9.jpg: zero bytes" in text
    assert "notes.txt: its suffix is not that of an image" in text
    values = json.loads((tmp_path / "info.json").read_text(errors="surrogateescape"))
    assert values["images"]["images"] == 14
    assert values["images"]["formats"] == {"PNG": 11}
    assert {image["id"] for image in values["images"]["unreadable"]} >= {"caf\udce9.jpg", "n" * 200 + ".png"}
    assert values["environment"]["packages"]["torch"]
    assert "costs" not in values


def test_what_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    for place, words in {"empty": "holds no images", "nowhere": "does not exist"}.items():
        with pytest.raises(SystemExit) as stop:
            main(["info", str(tmp_path / place)])
        assert stop.value.code == 2
        error = capsys.readouterr().err.splitlines()
        assert words in error[-1]


def test_costs_are_measured_on_the_images(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    save_encoder(tmp_path / "tiny", create_encoder(EncoderConfig(name="resnet18", width=4, stem="small"), 8).eval())
    options = ["--encoder", str(tmp_path / "tiny"), "--device", "cpu", "--workers", "0"]
    text = told(capsys, "digits", "--json", str(tmp_path / "info.json"), *options)
    costs = {cost["command"]: cost for cost in json.loads((tmp_path / "info.json").read_text())["costs"]}
    assert set(costs) == {"mine", "evaluate", "pretrain"}
    mine, pretrain = costs["mine"], costs["pretrain"]
    assert mine["seconds"] == pytest.approx(1297 / mine["images_per_second"], rel=0.05)
    config = for_images_of_digits()
    images = config.epochs * (1297 // config.batch_size) * config.batch_size
    assert pretrain["seconds"] == pytest.approx(images / pretrain["images_per_second"], rel=0.01)
    assert f"{config.epochs} epochs" in text


def for_images_of_digits() -> PretrainConfig:
    return default_config(open_source("digits"), gpu=False)


def test_too_few_images_for_training_are_said() -> None:
    few = ArraySource(np.zeros((5, 8, 8), dtype=np.uint8))
    cost = estimate_costs(few, encoder="/nowhere")
    assert [one.command for one in cost] == ["mine", "pretrain"]
    assert [one.seconds for one in cost] == [None, None]
    assert "contrast needs 8" in cost[1].work
    assert "there is no" in cost[0].work


def test_timing_leaves_nothing_behind_and_no_randomness_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = torch.get_rng_state()
    speed = training_speed(open_source("digits"), for_images_of_digits())
    assert speed.images_per_second > 0
    assert speed.batch in {16, 64}
    assert torch.equal(torch.get_rng_state(), before)
    assert not list(tmp_path.iterdir())


def test_fields_wrap_and_escape(monkeypatch: pytest.MonkeyPatch) -> None:
    assert field("cores", "2 of 4") == "cores        2 of 4"
    monkeypatch.setenv("COLUMNS", "50")
    lines = field("packages", "word " * 30).splitlines()
    assert max(map(len, lines)) <= 50
    assert all(line.startswith(" " * 13 + "word") for line in lines[1:])
    assert field("name", "a\tb\udce9").endswith(r"a\u0009b\udce9")
    assert [shortened("abcdefghij", most) for most in (10, 5, 4)] == ["abcdefghij", "ab…ij", "a…ij"]
