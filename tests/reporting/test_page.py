"""The page: what stands on it, that it loads nothing and runs nothing, and that it bears what is absent."""

import json
import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdclr.data.sources import ArraySource, SubsetSource, digits
from sdclr.encoders import EncoderConfig
from sdclr.errors import InputError
from sdclr.evaluation.balance import Balance
from sdclr.evaluation.evaluate import Result, Score
from sdclr.mining.ranking import rank_images
from sdclr.reporting.page import report, write_report
from sdclr.reporting.tables import Table
from sdclr.training.config import DamageConfig, PretrainConfig
from sdclr.training.optim import OptimConfig
from sdclr.training.pretrain import pretrain
from sdclr.training.run import Run
from sdclr.training.runtime import Runtime
from sdclr.views.parameters import ViewConfig

SCRIPT = "<script>alert(1)</script>"
CLASSES = [SCRIPT, "a&b", *"23456789"]
COUNTS = np.arange(20, 0, -2)


class Page(HTMLParser):
    """What a browser makes of the file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self._open: list[str] = []
        self.html = path.read_text(encoding="utf-8")
        self.feed(self.html)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in {"meta", "img"}:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.text += data

    @property
    def sections(self) -> list[str]:
        return [value for tag, name, value in self.attributes if (tag, name) == ("section", "id")]


def config(kind: str = "prune") -> PretrainConfig:
    return PretrainConfig(
        encoder=EncoderConfig(width=4),
        views=ViewConfig(image_size=8, flip=0),
        damage=DamageConfig(kind=kind, ratio=0.5),
        optim=OptimConfig(warmup_epochs=1),
        epochs=2,
        batch_size=32,
    )


@pytest.fixture(scope="module")
def source() -> ArraySource:
    """110 long-tailed digits under class names that mean harm."""
    data = digits()
    chosen = np.concatenate([np.flatnonzero(data.labels == k)[:count] for k, count in enumerate(COUNTS)])
    images = np.stack([data.image(index) for index in chosen.tolist()])
    return ArraySource(images, data.labels[chosen], name="long-tail", classes=CLASSES)


@pytest.fixture(scope="module")
def run(source: ArraySource, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("runs") / "sdclr"
    return pretrain(source, config(), run=folder, runtime=Runtime(progress=False, workers=0))


@pytest.fixture(scope="module")
def plain_run(source: ArraySource, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Trained without damage, by a user without labels."""
    images = np.stack([source.image(index) for index in range(len(source))])
    folder = tmp_path_factory.mktemp("runs") / "simclr"
    unlabeled = ArraySource(images, name="unlabeled")
    return pretrain(unlabeled, config("none"), run=folder, runtime=Runtime(progress=False, workers=0))


def result(many: float, *, shots: int = 4) -> Result:
    groups = {"many": [0, 1, 2, 3], "medium": [4, 5, 6], "few": [7, 8, 9]}

    def score(shift: float, **details: Any) -> Score:
        spread = float(np.std([many, many - 6, many - 9]))
        figures = Balance(many - shift, many - 6 - shift, many - 9 - shift, many - 5 - shift, spread)
        return Score(figures, [*np.linspace(many, many - 9, 9), float("nan")], details)

    return Result(score(0), score(10, shots=shots), score(5), {"groups": groups, "class_counts": COUNTS.tolist()})


@pytest.fixture(scope="module")
def page(run: Run, plain_run: Run, source: ArraySource, tmp_path_factory: pytest.TempPathFactory) -> Page:
    """A comparison with everything on it, evaluations both as objects and as JSON."""
    stored = json.loads(json.dumps(result(71.5).to_json()))
    path = write_report(
        tmp_path_factory.mktemp("out") / "deep" / "report.html",
        title=f"Report {SCRIPT}",
        runs={"SimCLR": plain_run, f"SDCLR {SCRIPT}": [run]},
        results={"SimCLR": [result(70.25), stored], f"SDCLR {SCRIPT}": [result(80.0)]},
        source=source,
        commands=["sdclr pretrain <folder>"],
        summary=f"Found: {SCRIPT}",
    )
    return Page(path)


@pytest.fixture(scope="module")
def compared(
    run: Run, plain_run: Run, source: ArraySource, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Page, Path]:
    """The report of three runs that hold all that runs can hold, and its figures."""
    folder = tmp_path_factory.mktemp("compared")
    for number, (name, original) in enumerate((("a/sdclr", run), ("b/sdclr", run), ("b/simclr", plain_run))):
        path = folder / name
        shutil.copytree(original.path, path)
        (path / "results").mkdir()
        (path / "results" / "dense.json").write_text(json.dumps(result(60 + number).to_json()))
        (path / "mine").mkdir()
        diagnosed = {
            "summary": [f"Sentence {number} {SCRIPT}."],
            "indices": {"tail_share": 0.125 * (number + 1)},
            "context": {SCRIPT: number},
        }
        (path / "results" / "diagnosis.json").write_text(json.dumps(diagnosed))
        ids = [SCRIPT, *source.ids[1:]]
        values = np.random.default_rng(number).random(len(ids))
        forgetting = {"forgetting_0.5": values[::-1]} if number < 2 else {}
        scores = rank_images(ids, forgetting, values, np.zeros(len(ids)), score="distance")
        scores.write(path / "mine" / "scores.parquet")
    (folder / "b/sdclr/results/sparse.json").write_text(json.dumps(result(33).to_json()))
    runs = [folder / "a/sdclr", Run(folder / "b/sdclr"), str(folder / "b/simclr")]
    out = report(runs, source=source, out=folder / "r.html", figures=folder / "figures", commands=["sdclr report"])
    return Page(out), folder / "figures"


def test_a_report_of_several_runs_shows_them_side_by_side(compared: tuple[Page, Path]) -> None:
    page, _ = compared
    assert page.sections == [
        *("runs", "balance", "groups", "diagnosis", "rarest", "forgotten"),
        *("training", "collection", "views", "pruning", "settings"),
    ]
    assert "<title>3 runs</title>" in page.html
    for name in ("a/sdclr", "b/sdclr", "b/simclr"):
        assert f'<th scope="row">{name}</th>' in page.html
        assert f"<h3>{name}</h3>" in page.html
    assert '<th scope="row">b/sdclr, pruned</th><td>33.00</td>' in page.html
    assert "Balance of the encoders" in page.text
    assert '<th scope="row">damage.kind</th><td>prune</td><td>prune</td><td>none</td>' in page.html
    assert '<th scope="row">Tail share</th><td>0.125</td><td>0.25</td><td>0.375</td>' in page.html
    assert all(f"Sentence {number} {SCRIPT}." in page.text for number in range(3))
    assert "By forgetting 0.5, the first 24 of 110 images." in page.text
    pictures = [value for tag, name, value in page.attributes if (tag, name) == ("li", "title")]
    assert len(pictures) == 3 * 24 + 2 * 24
    assert "50%" in page.text


def test_a_report_of_several_runs_is_as_safe_as_that_of_one(compared: tuple[Page, Path]) -> None:
    page, _ = compared
    test_names_do_no_harm(page)
    test_the_page_loads_nothing(page)
    test_ids_are_unique_and_references_lead_somewhere(page)
    test_pictures_and_figures_are_described(page)


def test_every_figure_of_a_report_is_a_file_too(compared: tuple[Page, Path]) -> None:
    page, figures = compared
    names = {"bars-linear", "bars-few-shot", "classes", "curves", "profile", "pruned"}
    assert {path.stem for path in figures.glob("*.svg")} == names
    assert page.tags["svg"] == len(names)
    sheets = {"rarest-a-sdclr", "rarest-b-sdclr", "rarest-b-simclr", "forgotten-a-sdclr", "forgotten-b-sdclr"}
    assert {path.stem for path in figures.glob("*.png")} == names | sheets


def test_a_report_of_several_runs_lies_where_it_was_asked_for(
    run: Run, plain_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert report([run, plain_run]).absolute() == tmp_path / "report.html"
    assert "<title>sdclr and simclr</title>" in (tmp_path / "report.html").read_text()


def test_a_report_needs_runs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no runs"):
        report([])
    with pytest.raises(InputError, match="is not a run"):
        report([tmp_path])


def test_everything_known_is_shown_in_order(page: Page) -> None:
    assert page.sections == ["runs", "balance", "groups", "training", "collection", "views", "pruning", "settings"]
    assert "70.88 ± 0.88" in page.text, "mean and deviation of 70.25 and 71.5"
    assert "80.00" in page.text
    assert "Linear probe, 4 labels a class" in page.text
    assert "sdclr pretrain <folder>" in page.text
    assert '"temperature": 0.2' in page.text
    assert "50% of the encoder's weights removed" in page.text
    assert page.text.index("a&b") < page.text.rindex("Training views")
    assert page.tags["svg"] == 3 + 1 + 1 + 1  # bars and classes, curves, collection, layers
    assert page.tags["img"] == len(CLASSES) + 1  # examples, views


def test_names_do_no_harm(page: Page) -> None:
    assert page.tags["script"] == 0
    assert SCRIPT not in page.html
    assert page.text.count(SCRIPT) >= 6  # title, heading, summary, table, legend, classes: shown as they are
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]


def test_the_page_loads_nothing(page: Page) -> None:
    assert page.tags["link"] == page.tags["iframe"] == page.tags["object"] == 0
    addresses = [value for _, name, value in page.attributes if name in {"src", "href", "xlink:href", "data", "action"}]
    assert addresses
    assert all(value.startswith(("data:image/png;base64,", "#")) for value in addresses)
    assert not re.search(r"@import|url\(\s*['\"]?(?!#)", page.html)


def test_ids_are_unique_and_references_lead_somewhere(page: Page) -> None:
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert [value for value, count in Counter(ids).items() if count > 1] == []
    assert set(re.findall(r"url\(#([^)]+)\)", page.html)) <= set(ids)


def test_pictures_and_figures_are_described(page: Page) -> None:
    sources = [value for tag, name, value in page.attributes if (tag, name) == ("img", "src")]
    described = [value for tag, name, value in page.attributes if (tag, name) == ("img", "alt")]
    assert len(described) == len(sources)
    assert all(described)
    labels = [value for tag, name, value in page.attributes if name == "aria-label"]
    assert len(labels) == page.tags["svg"]
    assert all(labels)


def test_light_dark_and_print_are_cared_for(page: Page) -> None:
    assert "prefers-color-scheme: dark" in page.html
    assert "@media print" in page.html
    assert page.html.index("@media print") > page.html.index("prefers-color-scheme: dark"), "paper is white, always"
    assert "currentColor" in page.html


def test_equal_input_gives_equal_pages(run: Run, source: ArraySource, tmp_path: Path) -> None:
    first, second = (report([run], source=source, out=tmp_path / name) for name in ("a.html", "b.html"))
    assert first.read_bytes() == second.read_bytes()


def test_a_run_without_labels_or_competitor(plain_run: Run, source: ArraySource, tmp_path: Path) -> None:
    images = np.stack([source.image(index) for index in range(len(source))])
    page = Page(report([plain_run], source=ArraySource(images, name="unlabeled"), out=tmp_path / "r.html"))
    assert page.sections == ["training", "collection", "views", "settings"]
    assert "This page shows how the encoder was trained" in page.text
    assert page.tags["img"] == 2  # examples, views


def test_a_run_lies_beside_its_report_and_shows_its_own_evaluations(
    run: Run, source: ArraySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.results.mkdir()
    (run.results / "dense.json").write_text(json.dumps(result(66.25).to_json()))
    (run.results / "other.json").write_text("{}")
    monkeypatch.chdir(run.path)
    try:
        path = report([Run(Path())], source=source)
        page = Page(path)
    finally:
        (run.results / "dense.json").unlink()
        (run.results / "other.json").unlink()
        run.results.rmdir()
    assert path.resolve() == run.path / "report.html"
    assert page.sections[:2] == ["balance", "groups"]
    assert "66.25" in page.text
    assert "dense branch" in page.text
    assert "sparse branch" not in page.text
    assert "<title>sdclr</title>" in page.html


def test_without_its_images_a_run_still_shows_what_it_wrote_down(run: Run, tmp_path: Path) -> None:
    page = Page(report([run], out=tmp_path / "r.html"))
    assert page.sections == ["training", "collection", "pruning", "settings"]
    assert page.text.count(SCRIPT) == 1, "the class profile names the classes"


def test_a_run_that_has_only_begun(run: Run, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "config.json").write_text(run.config_file.read_text())
    page = Page(report([Run(begun)]))
    assert page.sections == ["settings"]


def test_nothing_at_all_is_still_a_page(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path / "empty.html", title="Empty"))
    assert page.sections == []
    assert "Empty" in page.text


def test_results_without_groups_have_no_bars(tmp_path: Path) -> None:
    nan = float("nan")
    score = Score(Balance(nan, nan, nan, 61.5, nan), [], {})
    found = Result(score, score, score, {"groups": None, "class_counts": None})
    page = Page(write_report(tmp_path / "r.html", title="T", results={"a": [found]}))
    assert page.sections == ["balance"]
    assert "61.50" in page.text
    assert "few labels" in page.text


def test_tables_of_the_author_take_the_place_of_ours(tmp_path: Path) -> None:
    table = Table("Mine", ("Method", "x"), (("a", "1.5"), ("b", "2.5")), "Note.", frozenset({(1, 1)}))
    page = Page(write_report(tmp_path / "r.html", title="T", results={"a": [result(70)]}, tables=[table]))
    assert "Mine" in page.text
    assert "Nearest neighbors" not in page.text
    assert "<strong>2.5</strong>" in page.html
    assert "<strong>1.5</strong>" not in page.html


def test_bad_images_are_listed_up_to_a_limit(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text(run.config_file.read_text())
    rows = ["id,reason", f"{SCRIPT}.jpg,truncated", *(f"x/{n}.jpg,zero bytes" for n in range(59))]
    # One name is not UTF-8.
    (folder / "bad_images.csv").write_bytes("\r\n".join(rows).encode() + b"\r\nx/\xff.jpg,not an image\r\n")
    page = Page(report([Run(folder)]))
    assert "bad-images" in page.sections
    assert "61 files" in page.text
    assert f"{SCRIPT}.jpg" in page.text
    assert page.tags["script"] == 0
    assert page.text.count("zero bytes") == 49
    text = (folder / "bad_images.csv").read_bytes().replace(b"x/\xff", b"y/\xff").splitlines()
    (folder / "bad_images.csv").write_bytes(b"\r\n".join([text[0], text[-1]]))
    page = Page(report([Run(folder)]))
    assert "1 file could" in page.text
    assert "y/?.jpg" in page.text


def test_many_classes_are_not_all_shown(tmp_path: Path) -> None:
    images = np.zeros((60, 4, 4, 3), dtype=np.uint8)
    source = ArraySource(images, np.repeat(np.arange(30), 2))
    page = Page(write_report(tmp_path / "r.html", title="T", source=source))
    assert page.tags["img"] == 20
    assert "10 classes in between are not shown" in page.text


def test_labels_that_are_all_unknown_count_as_none(tmp_path: Path) -> None:
    source = ArraySource(np.zeros((6, 4, 4, 3), dtype=np.uint8), [-1] * 6)
    page = Page(write_report(tmp_path / "r.html", title="T", source=source))
    assert page.sections == ["collection"]
    assert page.tags["svg"] == 0
    assert page.tags["img"] == 1


def test_a_part_of_a_source_will_do(source: ArraySource, run: Run, tmp_path: Path) -> None:
    part = SubsetSource(source, np.arange(10))
    assert "long-tail[10]" in Page(report([run], source=part, out=tmp_path / "r.html")).text


def test_what_is_no_evaluation_is_refused(tmp_path: Path) -> None:
    for wrong in ({}, {"linear": result(1).to_json()["linear"]}, None):
        with pytest.raises(InputError, match="is not an evaluation"):
            write_report(tmp_path / "r.html", title="T", results={"a": [wrong]})
    assert not (tmp_path / "r.html").exists()


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give the report a file name"):
        write_report(tmp_path, title="T")
