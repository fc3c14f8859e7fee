"""The estimate of how long a collection will take."""

import time

import numpy as np
import pytest
import torch
from torch import nn

from sdclr.data.sources import ArraySource
from sdclr.encoders import Preprocessing, wrap_encoder
from sdclr.errors import BadImageError
from sdclr.features.rate import seconds_an_image

CPU = torch.device("cpu")


class Slow(ArraySource):
    """Takes a twentieth of a second to decode an image, every second of which is bad."""

    asked = 0

    def image(self, index, *, min_side=None):
        self.asked += 1
        time.sleep(0.05)
        if index % 2:
            raise BadImageError(self.ids[index], "truncated")
        return super().image(index, min_side=min_side)


@pytest.fixture
def source():
    return Slow(np.zeros((200, 8, 8, 3), dtype=np.uint8))


@pytest.fixture
def encoder():
    return wrap_encoder(nn.Sequential(nn.AvgPool2d(4), nn.Flatten()), image_size=8)


def test_decoding_counts_and_workers_share_it(source, encoder):
    how = {"device": CPU, "amp": "none"}
    alone = seconds_an_image(encoder, Preprocessing(image_size=8), source, workers=0, **how)
    assert 0.05 <= alone < 0.5
    assert source.asked == 8  # a few, spread over the collection
    shared = seconds_an_image(encoder, Preprocessing(image_size=8), source, workers=4, **how)
    assert 0.05 / 4 <= shared < alone


def test_a_single_image_is_enough(encoder):
    one = ArraySource(np.zeros((1, 8, 8, 3), dtype=np.uint8))
    assert 0 < seconds_an_image(encoder, Preprocessing(image_size=8), one, device=CPU, workers=0, amp="none") < 0.5
