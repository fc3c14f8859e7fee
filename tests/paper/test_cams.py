"""Figure 5: heat maps of rare classes, and which images are shown."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from sdclr.data.sources import ArraySource, SubsetSource
from sdclr.encoders import EncoderConfig, create_encoder
from sdclr.errors import InputError
from sdclr.evaluation.gradcam import class_prototypes, gradcam, similarity_target
from sdclr.paper.cams import Cams, draw_cams, first_of_each, heat_figures, overlay, rarest_first, tail_cams

SIDE = 16


def bright_squares(places, labels):
    """Dark images with a bright square of 4 px at (row, column) in the color of the class."""
    pictures = np.full((len(places), SIDE, SIDE, 3), 20, dtype=np.uint8)
    for picture, (top, left), label in zip(pictures, places, labels, strict=True):
        picture[top : top + 4, left : left + 4, label] = 255
    return ArraySource(pictures, labels, name="squares", classes=("red", "green", "blue"))


class Colors(nn.Module):
    """How much red, green and blue there is, looked at in a map."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Conv2d(3, 3, 1, bias=False)
        nn.init.eye_(self.look.weight.data[:, :, 0, 0])

    def forward(self, images):
        return self.look(images).mean(dim=(2, 3))


FEW = bright_squares([(0, 0), (4, 4), (8, 8)], [0, 1, 2])
TEST = bright_squares([(6, 6), (0, 0), (12, 0), (6, 6), (0, 12)], [2, 1, 1, 0, 2])


def test_heat_lies_on_what_the_class_is_known_by():
    cams = tail_cams(Colors(), FEW, TEST, [1, 2], image_size=SIDE, shown=3, batch_size=2)
    assert cams.classes == ["green", "blue", "green"]
    np.testing.assert_array_equal(cams.images, [TEST.image(i) for i in (1, 0, 2)])
    for heat, (top, left) in zip(cams.heat, [(0, 0), (6, 6), (12, 0)], strict=True):
        assert heat[top : top + 4, left : left + 4].sum() > 0.9 * heat.sum()
    assert [row["id"] for row in cams.rows] == [TEST.ids[i] for i in (0, 1, 2, 4)]
    assert [row["shown"] for row in cams.rows] == [True, True, True, False]
    assert [row["class"] for row in cams.rows] == ["blue", "green", "green", "blue"]
    assert cams.rows[0]["central"] > 0.9
    assert cams.rows[1]["central"] < 0.1


def test_maps_are_those_of_grad_cam_whatever_the_batches():
    encoder = create_encoder(EncoderConfig(width=4), SIDE).eval()
    one, many = (
        tail_cams(encoder, FEW, TEST, [1, 2], image_size=SIDE, shown=4, batch_size=size, layer="backbone.layer2")
        for size in (1, 64)
    )
    np.testing.assert_allclose(one.heat, many.heat, atol=1e-4)
    with torch.no_grad():
        features = encoder(torch.stack([torch.from_numpy(FEW.image(i)).permute(2, 0, 1) for i in range(3)]))
    prototypes = class_prototypes(features, FEW.labels, 3, centered=True)
    pictures = torch.from_numpy(many.images).permute(0, 3, 1, 2)
    target = similarity_target(prototypes, [TEST.classes.index(name) for name in many.classes])
    np.testing.assert_allclose(many.heat, gradcam(encoder, pictures, target, layer="backbone.layer2"), atol=1e-4)


def test_small_images_are_looked_at_in_a_map_that_can_tell_where():
    encoder = create_encoder(EncoderConfig(width=4), SIDE).eval()
    found, third = (tail_cams(encoder, FEW, TEST, [1], image_size=SIDE, layer=n) for n in (None, "backbone.layer3"))
    np.testing.assert_array_equal(found.heat, third.heat)


def test_what_has_no_classes_is_refused():
    bare = ArraySource(np.zeros((2, SIDE, SIDE), dtype=np.uint8), name="bare")
    with pytest.raises(InputError, match="bare has no labels"):
        tail_cams(Colors(), bare, TEST, [1], image_size=SIDE)
    with pytest.raises(InputError, match="no image of the classes"):
        tail_cams(Colors(), FEW, SubsetSource(TEST, np.array([0])), [1], image_size=SIDE)


def test_the_first_image_of_each_class_then_the_second():
    labels = [5, 3, 5, 3, 7, 5, 5]
    assert first_of_each(labels, [3, 5, 7], 5).tolist() == [1, 0, 4, 3, 2]
    assert first_of_each(labels, [7, 5], 2).tolist() == [4, 0]
    assert first_of_each(labels, [7], 6).tolist() == [4]
    assert first_of_each(labels, [], 6).tolist() == []


def test_the_rarest_class_comes_first():
    assert rarest_first([9, 1, 2, 1, 8], {"few": [3, 1, 2]}) == [1, 3, 2]


def test_figures_of_heat():
    heat = torch.zeros(4, 8, 8)
    heat[0] = 0.3
    heat[1, 0, 0] = 1
    heat[2, 2:6, 2:6] = 0.5
    central, entropy = heat_figures(heat)
    np.testing.assert_allclose(central[:3], [0.25, 0, 1], rtol=1e-6)
    np.testing.assert_allclose(entropy[:3], [1, 0, math.log(16) / math.log(64)], atol=1e-6)
    assert central[3].isnan()
    assert entropy[3].isnan()


def test_what_is_cold_is_seen_in_gray_and_what_is_hot_in_color():
    image = np.full((2, 2, 3), (255, 0, 0), dtype=np.uint8)
    heat = np.array([[0, 1], [0, 0]], dtype=np.float32)
    shown = overlay(image, heat)
    np.testing.assert_array_equal(shown[0, 0], [76, 76, 76])
    assert len(set(shown[0, 1].tolist())) > 1


def found(central, images=2):
    rows = [{"central": central, "entropy": 0.5}, {"central": math.nan, "entropy": math.nan}]
    pictures = np.zeros((images, 4, 4, 3), dtype=np.uint8)
    return Cams(rows, pictures, np.zeros((images, 4, 4), dtype=np.float32), ["cat"] * images)


def test_a_sheet_has_a_row_for_each_image_and_a_column_for_each_method():
    figure = draw_cams({"SimCLR": found(0.2), "SDCLR": found(0.4)})
    assert len(figure.axes) == 6
    assert all(len(panel.images) == 1 for panel in figure.axes)
    titles = [panel.get_title() for panel in figure.axes[:3]]
    assert titles == ["Image", "SimCLR\ncentral 20 %, entropy 0.50", "SDCLR\ncentral 40 %, entropy 0.50"]
    assert figure.axes[0].get_ylabel() == "cat"
    with pytest.raises(InputError, match="no heat maps"):
        draw_cams({})
    with pytest.raises(InputError, match="different images"):
        draw_cams({"a": found(0.2), "b": found(0.2, images=3)})
