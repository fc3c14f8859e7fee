"""Large images share an amount of memory while they are decoded; small ones never wait."""

import io
import itertools
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from sdclr.decoding import decode
from sdclr.decoding.decode import decode_image, worker_preparation
from sdclr.decoding.memory import Shares, decoding

MIB = 2**20


def test_what_fits_is_held_at_once_and_the_rest_waits():
    shares = Shares(256 * MIB)
    held, most, lock = 0, 0, threading.Lock()

    def hold(size):
        nonlocal held, most
        with shares.held(size * MIB):
            with lock:
                held += size
                most = max(most, held)
            time.sleep(0.01)
            with lock:
                held -= size

    threads = [threading.Thread(target=hold, args=(size,)) for size in (64, 128, 192, 256) * 6]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in threads)
    assert held == 0
    assert 128 < most <= 256


def test_what_is_larger_than_all_is_alone_and_small_images_do_not_wait():
    shares = Shares(256 * MIB)
    with shares.held(10_000 * MIB), shares.held(63 * MIB), shares.held(0):
        pass
    with shares.held(10_000 * MIB):
        waiting = threading.Thread(target=lambda: shares.held(64 * MIB).__enter__(), daemon=True)
        waiting.start()
        waiting.join(timeout=0.2)
        assert waiting.is_alive()
    waiting.join(timeout=10)
    assert not waiting.is_alive()


def test_an_error_gives_back_what_was_held():
    shares = Shares(64 * MIB)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), shares.held(64 * MIB):
            _ = 1 / 0


class _Decoded(Dataset):
    """When each image was decoded."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return 8

    def __getitem__(self, _number):
        begun = []
        load = Image.Image.load

        def slow(image):
            begun.append(time.monotonic())
            time.sleep(0.05)
            return load(image)

        decode.in_strips = lambda image, *_: (slow(image), np.zeros((1, 1, 3), np.uint8))[1]
        decode_image(self.data, image_id="x", min_side=8)
        return torch.tensor([begun[0], begun[0] + 0.05], dtype=torch.float64)


def test_workers_decode_large_images_one_after_the_other(monkeypatch):
    monkeypatch.setenv("SDCLR_DECODING_MEMORY", "512M")
    buffer = io.BytesIO()
    Image.new("L", (9000, 9000)).save(buffer, "PNG")  # 618 MiB while it is decoded
    loader = DataLoader(
        _Decoded(buffer.getvalue()), batch_size=1, num_workers=2, worker_init_fn=worker_preparation(2), timeout=60
    )
    spans = sorted(span.tolist()[0] for span in loader)
    assert len(spans) == 8
    for (_, end), (begin, _) in itertools.pairwise(spans):
        assert begin >= end - 1e-3


def test_without_workers_there_is_memory_too():
    with decoding(10 * 2**30), decoding(0):
        pass
