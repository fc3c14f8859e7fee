"""Extraction at sizes that take no time: that both sides see the same images and give the same features."""

import importlib

import numpy as np
import pytest
import torch

from sdclr.data.sources import ArraySource, FolderSource
from sdclr.encoders import EncoderConfig, Preprocessing, create_encoder
from sdclr.features.extract import extract_features

# Newer Pythons warn when a process with threads forks; torch starts threads, and its DataLoader forks.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


@pytest.fixture
def speed():
    return importlib.import_module("mining_speed")


@pytest.fixture
def small():
    return ArraySource(np.random.default_rng(0).integers(0, 256, (9, 12, 12, 3), dtype=np.uint8))


def test_both_sides_give_the_same_features_of_small_images(speed, small):
    encoder = create_encoder(EncoderConfig(width=4), 8)
    theirs = speed.plain_loop(encoder, speed.Encoded(small, 8, small=True), workers=0, amp="none")
    ours = extract_features(encoder, small, preprocessing=Preprocessing(image_size=8)).values
    np.testing.assert_allclose(theirs.numpy(), ours, atol=1e-5)


def test_and_of_files(speed, tmp_path):
    folder = speed.make_jpegs(tmp_path / "jpegs", 3)
    encoder = torch.nn.Flatten()
    source = FolderSource(folder)
    theirs = speed.plain_loop(encoder, speed.Encoded(source, 64, small=False), workers=0, amp="none")
    ours = extract_features(encoder, source, preprocessing=Preprocessing(image_size=64)).values
    assert np.abs(theirs.numpy() - ours).mean() < 0.01  # ours are decoded at reduced scale


def test_comparison_covers_both_precisions(speed, small):
    effort = speed.Effort(rounds=1, seconds=1, warmup=0)
    found = speed.compare_extraction(small, 8, small=True, width=4, workers=0, amp="bf16", effort=effort)
    assert list(found.samples) == [speed.OURS, speed.PLAIN, speed.USUAL]
    assert "in bfloat16" in found.note
    assert "array" in found.title


def test_memory_counts_every_image(speed, monkeypatch):
    monkeypatch.setattr(speed, "resident", lambda: 100)
    monkeypatch.setattr(speed, "peak", lambda: 350)
    assert speed.measure_memory(300) == 250
    monkeypatch.setattr(speed, "feature_batches", lambda *_args, **_how: iter(()))
    with pytest.raises(RuntimeError, match="0 of 300 images seen"):
        speed.measure_memory(300)
