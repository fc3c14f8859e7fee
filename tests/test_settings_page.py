"""The page on settings files: its files are accepted, its code runs, and its messages are those that come."""

import re
from pathlib import Path

import pytest

import sdclr
from sdclr.cli.parsing import parse
from sdclr.errors import InputError
from sdclr.recipes import cifar_lt
from sdclr.settings import read_settings

PAGE = (Path(__file__).parent.parent / "docs" / "settings.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


def test_its_files_do_what_it_says(tmp_path: Path) -> None:
    mine, recipe = blocks("toml")
    (tmp_path / "mine.toml").write_text(mine)
    found = parse(["pretrain", "digits", "--settings", str(tmp_path / "mine.toml"), "--epochs", "50"]).config
    automatic = sdclr.default_config(sdclr.open_source("digits"))
    assert (found.epochs, found.views.gray, found.views.hue, found.damage.ratio) == (50, 0.0, 0.02, 0.3)
    assert (found.batch_size, found.encoder) == (automatic.batch_size, automatic.encoder)
    same = re.search(r"`(\{\"epochs.*?\})`", " ".join(PAGE.split()))
    assert same is not None
    (tmp_path / "mine.json").write_text(same[1])
    read = [read_settings(tmp_path / name, sdclr.PretrainConfig) for name in ("mine.toml", "mine.json")]
    assert read[0] == read[1]
    (tmp_path / "recipe.toml").write_text(recipe)
    found = parse(["pretrain", "digits", "--settings", str(tmp_path / "recipe.toml")]).config
    assert (found.epochs, found.optim.lr, found.batch_size) == (500, 0.25, cifar_lt().batch_size)


def test_its_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text(blocks("toml")[0])
    names: dict[str, object] = {}
    exec(blocks("python")[0], names)  # noqa: S102  # the page's own code
    assert read_settings("all.toml", sdclr.PretrainConfig) == names["config"]


BROKEN = {
    1: "# one\nepochs = 100\n\n[optim]\nlrr = 0.0\n",
    2: "# one\nepochs = '100'\n",
    3: "\n\n\n\n\n\n\n[damage]\nratio = 1.5\n",
    4: "\n\n[damage\nratio = 0.5\n",
    5: '{"optim": {\n\n"lr": 1,\n"lr": 2}}',
}


@pytest.mark.parametrize("number", BROKEN)
def test_its_messages_are_those_that_come(number: int, tmp_path: Path) -> None:
    message = blocks("text")[0].splitlines()[number - 1]
    path = tmp_path / message.partition(",")[0]
    path.write_text(BROKEN[number])
    with pytest.raises(InputError) as caught:
        read_settings(path, sdclr.PretrainConfig)
    assert str(caught.value) == f"{tmp_path}/{message}"
