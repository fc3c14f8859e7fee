import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torchvision.transforms import v2

from sdclr.data.scan import BadImage
from sdclr.data.sources import open_source
from sdclr.encoders import Preprocessing
from sdclr.errors import BadImageError, InputError
from sdclr.features.extract import encode_images, evaluation_view, extract_features


class _Source:
    """Images held in a list; None stands for a file that cannot be decoded."""

    def __init__(self, images):
        self.name = "memory"
        self.images = images
        self.ids = [f"image/{index}" for index in range(len(images))]
        self.labels = None
        self.classes = ()
        self.asked = []

    def __len__(self):
        return len(self.images)

    def image(self, index, *, min_side=None):
        self.asked.append((index, min_side))
        image = self.images[index]
        if image is None:
            raise BadImageError(self.ids[index], "truncated")
        return image


class _Net(nn.Module):
    """Small, with layers that behave differently in training."""

    def __init__(self, size=8, width=5):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten())
        self.out = nn.Linear(4 * (size - 2) ** 2, width)
        self.batches = []

    def forward(self, x):
        self.batches.append(tuple(x.shape))
        assert x.dtype == torch.float32
        assert x.min() >= 0
        assert x.max() <= 1
        return self.out(self.layers(x))


def _pictures(count, height=8, width=8, seed=0):
    generator = np.random.default_rng(seed)
    return list(generator.integers(0, 256, (count, height, width, 3), dtype=np.uint8))


def _smooth(height, width, seed=0):
    small = Image.fromarray(_pictures(1, 6, 6, seed)[0])
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


class TestEvaluationView:
    def test_an_image_of_the_right_size_is_left_alone(self):
        (image,) = _pictures(1, 32, 32)
        assert evaluation_view(image, Preprocessing(image_size=32)) is image

    @pytest.mark.parametrize(("height", "width", "size"), [(32, 32, 16), (28, 28, 32), (96, 96, 64), (40, 90, 32)])
    def test_a_small_image_is_resized_whole(self, height, width, size):
        (image,) = _pictures(1, height, width)
        expected = v2.Resize((size, size), v2.InterpolationMode.BICUBIC)(Image.fromarray(image))
        np.testing.assert_array_equal(evaluation_view(image, Preprocessing(image_size=size)), np.asarray(expected))

    @pytest.mark.parametrize(
        ("height", "width", "size"),
        [
            (256, 256, 224),
            (375, 500, 224),
            (501, 333, 224),
            (97, 97, 224),
            (97, 60, 32),
            (300, 200, 96),
            (128, 640, 64),
        ],
    )
    def test_a_large_image_is_the_customary_resize_and_center_crop(self, height, width, size):
        """Also at the borders and on noise: resampling through a box must give the pixels of resizing it all.

        Pillow may take rows or columns first and clips in between, so the noise stays off black and white.
        """
        image = np.random.default_rng(0).integers(60, 190, (height, width, 3), dtype=np.uint8)
        pipeline = v2.Compose([v2.Resize(int(size * 256 / 224), v2.InterpolationMode.BICUBIC), v2.CenterCrop(size)])
        expected = np.asarray(pipeline(Image.fromarray(image))).astype(int)
        assert np.abs(evaluation_view(image, Preprocessing(image_size=size)).astype(int) - expected).max() <= 1

    @pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "lanczos"])
    @pytest.mark.parametrize(("crop_mode", "crop_pct"), [("center", 0.95), ("center", 1.0), ("squash", 0.9)])
    def test_crop_and_filter_are_those_of_the_preprocessing(self, interpolation, crop_mode, crop_pct):
        image = np.random.default_rng(0).integers(60, 190, (150, 240, 3), dtype=np.uint8)
        preprocessing = Preprocessing(
            image_size=64, crop_pct=crop_pct, crop_mode=crop_mode, interpolation=interpolation
        )
        short = int(64 / crop_pct)
        resize = v2.Resize((short, short) if crop_mode == "squash" else short, v2.InterpolationMode(interpolation))
        expected = np.asarray(v2.Compose([resize, v2.CenterCrop(64)])(Image.fromarray(image))).astype(int)
        assert np.abs(evaluation_view(image, preprocessing).astype(int) - expected).max() <= 1

    @pytest.mark.parametrize("shape", [(1, 20000, 3), (60000, 1, 3)])
    def test_a_sliver_of_an_image_needs_no_giant_canvas(self, shape, monkeypatch):
        """With a short side of 256, the first one would be five million pixels wide."""
        resize, sizes = Image.Image.resize, []
        monkeypatch.setattr(Image.Image, "resize", lambda *args, **how: sizes.append(args[1]) or resize(*args, **how))
        view = evaluation_view(np.full(shape, 7, dtype=np.uint8), Preprocessing(image_size=224))
        assert view.shape == (224, 224, 3)
        assert (view == 7).all()
        assert max(sizes[0]) < 11 * 224

    @pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
    @pytest.mark.parametrize("shape", [(3, 200, 3), (500, 7, 3), (101, 4000, 3), (9000, 300, 3)])
    def test_a_part_of_a_long_image_gives_the_view_of_the_whole(self, shape, interpolation, monkeypatch):
        # Values far from 0 and 255: Pillow clips between its two passes, whose order depends on the size.
        image = np.random.default_rng(0).integers(80, 176, size=shape, dtype=np.uint8)
        preprocessing = Preprocessing(image_size=64, interpolation=interpolation)
        part = evaluation_view(image, preprocessing)
        monkeypatch.setattr("sdclr.features.view._LONGEST", 10**6)
        whole = evaluation_view(image, preprocessing)
        assert np.abs(part.astype(int) - whole.astype(int)).max() <= 2  # each pass rounds

    @settings(max_examples=40, deadline=None)
    @given(st.integers(1, 150), st.integers(1, 150), st.integers(1, 64))
    def test_every_shape_gives_the_view_asked_for(self, height, width, size):
        view = evaluation_view(np.full((height, width, 3), 99, dtype=np.uint8), Preprocessing(image_size=size))
        assert view.shape == (size, size, 3)
        assert view.dtype == np.uint8
        assert (view == 99).all()


class TestExtractFeatures:
    def test_rows_are_the_encoders_output_in_order(self):
        images, encoder = _pictures(11), _Net().eval()
        features = extract_features(encoder, _Source(images), preprocessing=Preprocessing(image_size=8), batch_size=4)
        inputs = torch.tensor(np.stack(images)).permute(0, 3, 1, 2).float() / 255
        np.testing.assert_allclose(features.values, encoder(inputs).detach().numpy(), atol=1e-6)
        np.testing.assert_array_equal(features.kept, np.arange(11))
        assert features.values.dtype == np.float32
        assert features.kept.dtype == np.int64
        assert features.bad == []
        assert [shape[0] for shape in encoder.batches[:3]] == [4, 4, 3]

    def test_runs_in_eval_mode_and_puts_every_mode_back(self):
        source, encoder = _Source(_pictures(6)), _Net()
        encoder.layers[1].eval()
        before = {name: value.clone() for name, value in encoder.state_dict().items()}
        first = extract_features(encoder, source, preprocessing=Preprocessing(image_size=8), batch_size=3)
        assert encoder.training
        assert encoder.layers[3].training
        assert not encoder.layers[1].training
        assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
        whole = extract_features(encoder, source, preprocessing=Preprocessing(image_size=8), batch_size=6)
        np.testing.assert_allclose(first.values, whole.values, atol=1e-6)

    def test_modes_are_put_back_after_an_error(self):
        encoder = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten(0))
        with pytest.raises(InputError, match=r"the encoder gave \(256,\) for 2 images"):
            extract_features(encoder, _Source(_pictures(2)), preprocessing=Preprocessing(image_size=8))
        assert encoder.training

    @pytest.mark.parametrize("workers", [0, 2])
    def test_bad_images_are_left_out_and_listed(self, workers):
        images = _pictures(10)
        for gone in (0, 4, 5, 6, 7):
            images[gone] = None
        good = [index for index, image in enumerate(images) if image is not None]
        encoder = _Net()
        features = extract_features(
            encoder, _Source(images), preprocessing=Preprocessing(image_size=8), batch_size=4, workers=workers
        )
        clean = extract_features(
            encoder, _Source([images[index] for index in good]), preprocessing=Preprocessing(image_size=8)
        )
        np.testing.assert_array_equal(features.kept, good)
        np.testing.assert_allclose(features.values, clean.values, atol=1e-6)
        assert features.bad == [BadImage(f"image/{index}", "truncated", counted=True) for index in (0, 4, 5, 6, 7)]

    def test_images_of_many_sizes(self):
        images = [_smooth(8, 8), _smooth(40, 20), _smooth(200, 120), _smooth(100, 300)]
        encoder = _Net()
        mixed = extract_features(encoder, _Source(images), preprocessing=Preprocessing(image_size=8))
        views = extract_features(
            encoder,
            _Source([evaluation_view(image, Preprocessing(image_size=8)) for image in images]),
            preprocessing=Preprocessing(image_size=8),
        )
        np.testing.assert_array_equal(mixed.values, views.values)

    def test_reduced_decoding_never_changes_which_view_is_taken(self):
        """A source may halve a JPEG down to `min_side`; what comes back must still count as large."""
        source = _Source(_pictures(2))
        extract_features(_Net(), source, preprocessing=Preprocessing(image_size=8))
        assert {side for _, side in source.asked} == {97}
        large = _Source(_pictures(1))
        extract_features(_Net(size=112), large, preprocessing=Preprocessing(image_size=112))
        assert large.asked == [(0, 256)]

    def test_progress_counts_images(self, told):
        images = [*_pictures(5), None, None]
        extract_features(
            _Net(),
            _Source(images),
            preprocessing=Preprocessing(image_size=8),
            batch_size=3,
        )
        assert told.counts() == [(3, 7), (6, 7), (7, 7)]

    def test_half_precision_is_close_and_still_float32(self):
        encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
        source = _Source(_pictures(4))
        half = extract_features(encoder, source, preprocessing=Preprocessing(image_size=8), amp="bf16", device="cpu")
        full = extract_features(encoder, source, preprocessing=Preprocessing(image_size=8))
        assert half.values.dtype == np.float32
        assert not np.array_equal(half.values, full.values)
        np.testing.assert_allclose(half.values, full.values, atol=0.02)

    @pytest.mark.parametrize(
        ("images", "message"),
        [([None, None], "none of 2 images can be decoded; the first: image/0: truncated"), ([], "none of 0 images")],
    )
    def test_a_source_without_images(self, images, message):
        with pytest.raises(InputError, match=message):
            extract_features(_Net(), _Source(images), preprocessing=Preprocessing(image_size=8))

    def test_memory_does_not_grow_with_the_images(self):
        class Drawn(_Source):
            def image(self, index, *, min_side=None):
                assert min_side
                return np.full((64, 64, 3), index % 256, dtype=np.uint8)

        source, encoder = Drawn([None] * 400), nn.Sequential(nn.AvgPool2d(32), nn.Flatten())
        tracemalloc.start()
        features = extract_features(encoder, source, preprocessing=Preprocessing(image_size=64), batch_size=10)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(features.values) == 400
        assert peak < 400 * 64 * 64 * 3 / 4


def test_a_folder_with_large_jpegs_and_a_broken_file(tmp_path):
    """The JPEGs come decoded at reduced scale; what the encoder sees stays close to the full picture's view."""
    pictures = {name: _smooth(600, 800, seed) for seed, name in enumerate(["a.jpg", "c.jpg"])}
    for name, picture in pictures.items():
        Image.fromarray(picture).save(tmp_path / name, quality=95)
    (tmp_path / "b.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:2000])
    encoder = nn.Flatten()
    features = extract_features(encoder, open_source(tmp_path), preprocessing=Preprocessing(image_size=32))
    np.testing.assert_array_equal(features.kept, [0, 2])
    assert [bad.id for bad in features.bad] == ["b.jpg"]
    for row, picture in zip(features.values, pictures.values(), strict=True):
        view = evaluation_view(picture, Preprocessing(image_size=32)).transpose(2, 0, 1).reshape(-1) / 255
        assert np.abs(row - view).max() < 0.04


def test_encode_images_equals_extract_features_and_can_be_trained_on():
    images, encoder = _pictures(9), _Net()
    tensor = torch.tensor(np.stack(images).transpose(0, 3, 1, 2).copy())
    encoded = encode_images(encoder, tensor, batch_size=4)
    np.testing.assert_array_equal(
        encoded.numpy(),
        extract_features(encoder, _Source(images), preprocessing=Preprocessing(image_size=8), batch_size=4).values,
    )
    assert encoder.training
    head = nn.Linear(5, 1)
    head(encoded).sum().backward()
    assert head.weight.grad.abs().sum() > 0
