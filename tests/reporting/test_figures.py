"""Figures: what they draw, that any name is safe in them, and that equal data gives equal bytes."""

import json
import math
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from PIL import Image

from sdclr.config import to_json
from sdclr.encoders import EncoderConfig
from sdclr.errors import InputError
from sdclr.evaluation.balance import Balance
from sdclr.reporting.figures import (
    INK,
    PALETTE,
    class_accuracy,
    class_profile,
    group_bars,
    inline_svg,
    layer_sparsity_bars,
    layer_sparsity_lines,
    loss_curves,
    save_figure,
)
from sdclr.training.config import PretrainConfig
from sdclr.training.optim import OptimConfig
from sdclr.training.run import Run

NAN = math.nan
RESULTS = {
    "SimCLR": [Balance(80, 70, 60, 71, 8.16), Balance(84, 71, 55, 70.5, 11.09)],
    "SDCLR": [Balance(79, 72, 66, 73, 5.31)],
}
SPARSITY = {
    "encoder.backbone.conv1.weight": 0.1,
    "encoder.backbone.layer1.0.conv1.weight": 0.4,
    "encoder.backbone.layer4.1.conv2.weight": 0.95,
}


def fake_run(folder: Path, rows: list[dict[str, float]]) -> Run:
    """A run's folder as training leaves it, without training: 99 usable images, 9 steps an epoch."""
    folder.mkdir(parents=True)
    config = PretrainConfig(encoder=EncoderConfig(width=4), batch_size=10, epochs=4, optim=OptimConfig(warmup_epochs=1))
    (folder / "config.json").write_text(json.dumps(to_json(config)))
    (folder / "source.json").write_text(json.dumps({"name": "s", "images": 104, "bad_images": 5}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Run(folder)


def rows(count: int) -> list[dict[str, float]]:
    return [{"step": 9 * (n + 1), "epoch": n, "loss": 5.0 - n, "lr": 0.1} for n in range(count)]


def test_loss_is_drawn_over_epochs_done(tmp_path: Path) -> None:
    figure = loss_curves({"SDCLR": [fake_run(tmp_path / "a", rows(3))]})
    (line,) = figure.axes[0].lines
    np.testing.assert_allclose(line.get_xdata(), [1, 2, 3])
    np.testing.assert_allclose(line.get_ydata(), [5, 4, 3])
    assert figure.axes[0].get_xlabel() == "Epoch"
    assert not figure.legends, "one method needs no legend"


def test_runs_of_one_method_share_a_color_and_the_order_decides_it(tmp_path: Path) -> None:
    first, second, other = (fake_run(tmp_path / name, rows(2)) for name in "abc")
    figure = loss_curves({"SDCLR": [first, second], "SimCLR": [other]}, order=["SimCLR", "SDCLR"])
    assert [line.get_color() for line in figure.axes[0].lines] == [PALETTE[1], PALETTE[1], PALETTE[0]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["SDCLR", "SimCLR"]


def test_a_single_logged_point_is_visible(tmp_path: Path) -> None:
    (line,) = loss_curves({"a": [fake_run(tmp_path / "a", rows(1))]}).axes[0].lines
    assert line.get_marker() == "."


def test_nothing_logged_gives_no_figure(tmp_path: Path) -> None:
    assert loss_curves({"a": [fake_run(tmp_path / "a", [])]}) is None
    assert loss_curves({}) is None


def test_bars_are_means_with_deviations(tmp_path: Path) -> None:
    axes = group_bars(RESULTS).axes[0]
    bars = [container for container in axes.containers if isinstance(container, mpl.container.BarContainer)]
    simclr, sdclr = ([patch.get_height() for patch in container] for container in bars)
    assert simclr == pytest.approx([82, 70.5, 57.5, 70.75])
    assert sdclr == [79, 72, 66, 73]
    (low, high) = bars[0].errorbar[2][0].get_segments()[0][:, 1]
    assert (high - low) / 2 == pytest.approx(math.sqrt(8))  # of 80 and 84, one degree of freedom
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["Many", "Medium", "Few", "All"]
    assert axes.get_ylim()[0] == 0, "the length of a bar is its value"
    assert "%" in axes.get_ylabel()
    save_figure(group_bars(RESULTS), tmp_path / "bars")  # a single split has no deviation to draw


def test_unknown_groups_are_left_out() -> None:
    axes = group_bars({"a": [Balance(NAN, NAN, NAN, 50, NAN)]}).axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["All"]


def test_no_results_are_refused() -> None:
    with pytest.raises(InputError, match="no results"):
        group_bars({})
    with pytest.raises(InputError, match="no layers"):
        layer_sparsity_bars({})


def test_more_methods_than_colors_are_still_told_apart() -> None:
    results = {f"m{n}": [Balance(1, 1, 1, 1, 0)] for n in range(2 * len(PALETTE) + 1)}
    axes = group_bars(results).axes[0]
    bars = [c.patches[0] for c in axes.containers if isinstance(c, mpl.container.BarContainer)]
    looks = {(bar.get_facecolor(), bar.get_hatch()) for bar in bars}
    assert len(looks) == len(results)


def test_layers_keep_the_order_of_the_network_and_lose_what_all_names_share() -> None:
    axes = layer_sparsity_bars(SPARSITY).axes[0]
    assert [patch.get_height() for patch in axes.patches] == pytest.approx([10, 40, 95])
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["conv1", "layer1.0.conv1", "layer4.1.conv2"]
    assert "%" in axes.get_ylabel()


def test_layers_of_several_networks_share_their_axes() -> None:
    other = dict.fromkeys(SPARSITY, 0.25)
    figure = layer_sparsity_lines({"SDCLR": SPARSITY, "layer": other}, order=["layer", "SDCLR"])
    axes = figure.axes[0]
    first, second = axes.lines
    np.testing.assert_allclose(first.get_ydata(), [10, 40, 95])
    np.testing.assert_allclose(second.get_ydata(), [25, 25, 25])
    assert [line.get_color() for line in axes.lines] == [PALETTE[1], PALETTE[0]]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["conv1", "layer1.0.conv1", "layer4.1.conv2"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["SDCLR", "layer"]


@pytest.mark.parametrize("wrong", [{}, {"a": {}}, {"a": SPARSITY, "b": {"conv1.weight": 0.5}}])
def test_layers_that_networks_do_not_share_are_refused(wrong: dict[str, dict[str, float]]) -> None:
    with pytest.raises(InputError, match="no layers in common"):
        layer_sparsity_lines(wrong)


def test_classes_lie_over_their_images_with_a_fitted_line() -> None:
    # 3 percent for each factor of ten, from 50; a class without images and one without accuracy have no place.
    points = [(1, 50), (10, 53), (100, 56), (1000, 59), (0, 99), (7, NAN)]
    axes = class_accuracy({"a": points, "b": [(5, 20), (50, 30)]}, order=["b", "a"]).axes[0]
    first, second = axes.collections
    np.testing.assert_allclose(first.get_offsets(), points[:4])
    np.testing.assert_allclose(second.get_offsets(), [(5, 20), (50, 30)])
    (line,) = axes.lines  # two points make no trend
    np.testing.assert_allclose(line.get_xydata(), [(1, 50), (1000, 59)])
    assert line.get_color() == PALETTE[1]
    assert axes.get_xscale() == "log"


def test_a_method_without_classes_is_drawn_without_points() -> None:
    figure = class_accuracy({"a": [(0, 50)], "b": [(5, 20)]})
    assert [len(points.get_offsets()) for points in figure.axes[0].collections] == [0, 1]


def test_a_single_layer_keeps_a_name() -> None:
    axes = layer_sparsity_bars({"encoder.fc.weight": 0.5}).axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["fc"]


def test_classes_come_from_the_most_to_the_least_frequent() -> None:
    axes = class_profile([5, 80, 20], ["a", "b", "c"]).axes[0]
    assert [patch.get_height() for patch in axes.patches] == [80, 20, 5]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["b", "c", "a"]
    assert {"80", "20", "5"} <= {text.get_text() for text in axes.texts}


def test_groups_are_told_apart() -> None:
    figure = class_profile([5, 80, 20, 0], groups={"many": [1], "medium": [2], "few": [0, 3]})
    looks = [patch.get_facecolor() for patch in figure.axes[0].patches]
    assert looks[2] == looks[3]
    assert len(set(looks)) == 3
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["Many", "Medium", "Few"]


def test_many_classes_are_ranked_and_not_named(tmp_path: Path) -> None:
    figure = class_profile(np.arange(1000), [f"c{n}" for n in range(1000)])
    assert figure.axes[0].get_xlabel() == "Rank of the class by size"
    assert not {"c0", "c999"} & {tick.get_text() for tick in figure.axes[0].get_xticklabels()}
    save_figure(figure, tmp_path / "classes")


@pytest.mark.parametrize(("counts", "names"), [([], ()), ([[1]], ()), ([1, 2], ("a",))])
def test_counts_that_cannot_be_drawn_are_refused(counts: list[int], names: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="one"):
        class_profile(counts, names)


def test_equal_figures_give_equal_bytes_without_a_date(tmp_path: Path) -> None:
    first = save_figure(group_bars(RESULTS), tmp_path / "made" / "first")
    second = save_figure(group_bars(RESULTS), tmp_path / "second")
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert [path.name for path in first] == ["first.svg", "first.png"]
    assert "<dc:date>" not in first[0].read_text()
    different = save_figure(group_bars({"SimCLR": RESULTS["SDCLR"]}), tmp_path / "third")
    assert different[0].read_bytes() != first[0].read_bytes()


def test_saving_a_figure_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    figure = layer_sparsity_bars(SPARSITY)
    first, second = (save_figure(figure, tmp_path / name) for name in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_background_is_see_through(tmp_path: Path) -> None:
    _, png = save_figure(group_bars(RESULTS), tmp_path / "bars")
    with Image.open(png) as image:
        assert image.mode == "RGBA"
        assert image.getpixel((0, 0))[3] == 0


def test_text_is_read_on_white_and_on_near_black() -> None:
    def luminance(color: str) -> float:
        """Relative luminance, WCAG 2.2."""
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    def contrast(one: str, other: str) -> float:
        low, high = sorted((luminance(one), luminance(other)))
        return (high + 0.05) / (low + 0.05)

    for page in ("#ffffff", "#14171a"):
        assert contrast(INK, page) > 4
        assert all(contrast(color, page) > 2 for color in PALETTE)


def test_global_settings_of_matplotlib_are_left_alone(tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    save_figure(class_profile([3, 2, 1]), tmp_path / "figure")
    assert dict(mpl.rcParams) == before


NAMES = st.text(min_size=1, max_size=40) | st.sampled_from(
    ["_hidden", "$", "$x^$", "\\frac", "<script>alert(1)</script>", "&amp;", 'a"b', "\ud800", "\x00", "猫", 'id="x"']
)


@settings(max_examples=12, deadline=None)
@given(st.lists(NAMES, min_size=2, max_size=3, unique=True))
def test_any_name_gives_valid_svg(names: list[str]) -> None:
    for number, figure in enumerate(
        (
            class_profile(range(len(names)), names),
            group_bars(dict.fromkeys(names, RESULTS["SDCLR"])),
            layer_sparsity_bars(dict.fromkeys(names, 0.5)),
            layer_sparsity_lines(dict.fromkeys(names, SPARSITY)),
            class_accuracy({name: [(1, 2)] for name in names}),
        )
    ):
        root = ET.fromstring(inline_svg(figure, f"f{number}"))  # noqa: S314  # our own
        assert root.tag.endswith("svg")
        assert not root.findall(".//{*}script")


def test_legend_shows_names_that_matplotlib_would_hide() -> None:
    figure = group_bars({"_hidden": RESULTS["SDCLR"], "$x$": RESULTS["SDCLR"]})
    text = inline_svg(figure, "p")
    assert "_hidden" in text
    assert "$x$" in text


def test_text_falls_back_to_a_sans_serif_font() -> None:
    assert re.search(r"'DejaVu Sans'[^;]*, sans-serif", inline_svg(class_profile([2, 1]), "p"))


def test_long_names_are_cut() -> None:
    text = inline_svg(class_profile([2, 1], ["a" * 200, "b"]), "p")
    assert "a" * 30 not in text
    assert "a" * 20 in text


def test_inline_svg_has_ids_of_its_own_and_takes_the_color_of_the_page() -> None:
    figure = class_profile([2, 1], ["plain", f'{INK} id="x"'])
    text = inline_svg(figure, "own")
    assert text.startswith("<svg")
    assert "<?xml" not in text
    tags = "".join(re.findall(r"<[^>]+>", text))
    ids = re.findall(r' id="([^"]+)"', tags)
    assert ids
    assert all(name.startswith("own-") for name in ids)
    assert len(ids) == len(set(ids))
    used = re.findall(r'(?:href="#|url\(#)([^")]+)', tags)
    assert used
    assert set(used) <= set(ids)
    assert INK not in tags
    assert "currentColor" in tags
    assert f'{INK} id="x"' in text, "what stands between the tags stays as it is"
    outside = set(re.findall(r'https?://[^"\s]+', text)) - {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert not outside
