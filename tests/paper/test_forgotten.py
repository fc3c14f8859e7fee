"""Figure 2: shares of the groups among the most forgotten test images."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from sdclr.data.sources import ArraySource, SubsetSource, digits
from sdclr.encoders import EncoderConfig, HeadConfig
from sdclr.errors import InputError
from sdclr.method import SelfCompetitor
from sdclr.paper.forgotten import draw_forgotten, forgotten_shares, group_shares, most_forgotten
from sdclr.reporting.figures import PALETTE
from sdclr.training.config import DamageConfig, PretrainConfig
from sdclr.training.optim import OptimConfig
from sdclr.training.pretrain import pretrain
from sdclr.training.runtime import Runtime
from sdclr.views.parameters import ViewConfig

GROUPS = {"many": [0, 1, 2, 3], "medium": [4, 5, 6], "few": [7, 8, 9]}
TINY = PretrainConfig(
    encoder=EncoderConfig(width=4),
    head=HeadConfig(dim=8),
    views=ViewConfig(image_size=8),
    damage=DamageConfig(ratio=0.5),
    optim=OptimConfig(lr=0.1, warmup_epochs=0),
    epochs=2,
    batch_size=32,
)
RUNTIME = Runtime(device="cpu", progress=False, amp="none", snapshot_epochs=1)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    few, folder = SubsetSource(digits(), np.arange(64), name="few"), tmp_path_factory.mktemp("runs")
    plain = dataclasses.replace(TINY, damage=DamageConfig(kind="none"))
    return {
        name: pretrain(few, config, run=folder / name, runtime=RUNTIME)
        for name, config in {"SDCLR": TINY, "SimCLR": plain}.items()
    }


@pytest.fixture(scope="module")
def test_images():
    return SubsetSource(digits(), np.arange(100, 300), name="test")


def by_hand(run, test, epoch, ratio, count):
    """Forgetting as the paper has it, image by image: 1 - cosine of the encoder's features before and after pruning."""
    objective = run.objective(epoch)
    twin = objective.competitor or SelfCompetitor(objective.network, ratio, independent_norm=False)
    if ratio != run.config.damage.ratio:  # at its own, it is pruned as it was trained in that epoch
        twin.ratio = ratio
        twin.refresh()
    pictures = torch.stack([torch.from_numpy(test.image(i)).permute(2, 0, 1) for i in range(len(test))])
    with torch.no_grad():
        dense = objective.network.encoder(pictures)
        pruned = twin.part("encoder")(pictures)
    lost = [1 - F.cosine_similarity(a[None], b[None]).item() for a, b in zip(dense, pruned, strict=True)]
    worst = sorted(range(len(lost)), key=lambda i: -lost[i])[:count]
    return {g: sum(int(test.labels[i]) in ids for i in worst) / count for g, ids in GROUPS.items()}


@pytest.mark.parametrize("name", ["SDCLR", "SimCLR"])
@pytest.mark.parametrize("ratio", [0.5, 0.8])
def test_shares_are_those_found_by_hand(runs, test_images, name, ratio):
    rows = forgotten_shares(runs[name], test_images, GROUPS, ratio, 0.1)
    assert [(row["epoch"], row["group"]) for row in rows] == [(e, g) for e in (1, 2) for g in GROUPS]
    for epoch in (1, 2):
        found = {row["group"]: row["share"] for row in rows if row["epoch"] == epoch}
        assert found == pytest.approx(by_hand(runs[name], test_images, epoch, ratio, 20))
    assert {row["images"] for row in rows} == {20}
    labels = test_images.labels
    for row in rows:
        assert row["chance"] == pytest.approx(np.mean([label in GROUPS[row["group"]] for label in labels]))


def test_images_without_a_label_are_left_out(runs, test_images):
    labels = np.asarray(test_images.labels).copy()
    labels[::2] = -1
    pictures = np.stack([test_images.image(i) for i in range(len(labels))])
    rows = forgotten_shares(runs["SDCLR"], ArraySource(pictures, labels, name="half"), GROUPS, 0.5, 0.1)
    known = ArraySource(pictures[1::2], labels[1::2], name="known")
    assert rows == forgotten_shares(runs["SDCLR"], known, GROUPS, 0.5, 0.1)
    assert {row["images"] for row in rows} == {10}


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.floats(0.001, 1))
def test_the_most_forgotten_are_those_of_a_sort(values, share):
    found = most_forgotten(values, share)
    assert len(found) == max(1, round(share * len(values)))
    expected = sorted(range(len(values)), key=lambda i: (-values[i], i))
    assert found.tolist() == expected[: len(found)]


def test_what_cannot_be_looked_at_is_named(runs, test_images, tmp_path):
    with pytest.raises(InputError, match="cannot take a share of 2 "):
        most_forgotten([1, 2], 2)
    with pytest.raises(InputError, match=r"cannot take a share of 0\.1 "):
        most_forgotten([], 0.1)
    unlabeled = ArraySource(np.zeros((2, 8, 8), dtype=np.uint8), name="bare")
    with pytest.raises(InputError, match="bare has no labels"):
        forgotten_shares(runs["SDCLR"], unlabeled, GROUPS, 0.5)
    (tmp_path / "config.json").write_bytes(runs["SDCLR"].config_file.read_bytes())
    with pytest.raises(InputError, match="kept no snapshots"):
        forgotten_shares(type(runs["SDCLR"])(tmp_path), test_images, GROUPS, 0.5)


def test_group_shares_count_images():
    assert group_shares([0, 0, 9, 4], GROUPS) == {"many": 0.5, "medium": 0.25, "few": 0.25}


def made(method, split, shares):
    return [
        {"method": method, "split": split, "epoch": 10 * n, "group": g, "share": s, "chance": c}
        for n, triple in enumerate(shares, start=1)
        for g, s, c in zip(GROUPS, triple, (0.4, 0.3, 0.3), strict=True)
    ]


def test_a_panel_shows_means_and_chance():
    rows = [
        *made("SimCLR", 1, [(0.2, 0.3, 0.5), (0.1, 0.3, 0.6)]),
        *made("SimCLR", 2, [(0.4, 0.3, 0.3), (0.1, 0.5, 0.4)]),
        *made("SDCLR", 1, [(0.4, 0.3, 0.3), (0.4, 0.3, 0.3)]),
    ]
    figure = draw_forgotten(rows)
    left, right = figure.axes
    assert [left.get_title(), right.get_title()] == ["SimCLR", "SDCLR"]
    few, dotted = left.lines[4:6]
    np.testing.assert_allclose(few.get_xydata(), [(10, 40), (20, 50)])
    assert few.get_color() == PALETTE[2] == dotted.get_color()
    assert set(dotted.get_ydata()) == {30}
    assert dotted.get_linestyle() == ":"
    assert len(left.collections) == 3, "bands of the deviation"
    assert not right.collections, "one split has none"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["Many", "Medium", "Few"]
    assert "1 %" in left.get_ylabel()
    with pytest.raises(InputError, match="no shares"):
        draw_forgotten([])
