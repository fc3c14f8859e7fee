"""Whatever a user calls an encoder becomes an encoder, its preprocessing and its run."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from sdclr.data.sources import ArraySource, open_source
from sdclr.encoders import EncoderConfig, Preprocessing, create_encoder, wrap_encoder
from sdclr.errors import InputError
from sdclr.evaluation.evaluate import branch_encoder
from sdclr.training.export import export
from sdclr.training.resolve import resolve_encoder
from sdclr.training.run import Run

SMALL = ArraySource(np.zeros((3, 20, 96, 3), dtype=np.uint8), name="small")
LARGE = ArraySource(np.zeros((3, 20, 97, 3), dtype=np.uint8), name="large")
NAME = "test_resnet.r160_in1k"
"""One of timm's models for tests: 0.5 million weights, made for 160 px."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of weights of `NAME`, with which no hub is needed."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    save_file(timm.create_model(NAME, pretrained=False).state_dict(), file)
    return file


@pytest.fixture(scope="module")
def spec(weights: Path) -> str:
    return f"timm:{NAME}={weights}"


class TestNames:
    def test_a_run_by_itself_and_by_its_folder(self, finished: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(finished.path.parent)
        for given in (finished, finished.path, str(finished.path), "finished"):
            found = resolve_encoder(given, SMALL)
            assert found.run is not None
            assert found.run.path.resolve() == finished.path.resolve()
            assert (found.name, found.short_name) == (str(given.path if isinstance(given, Run) else given), "finished")
            assert found.results == found.run.path / "results"
            assert found.preprocessing == Preprocessing(image_size=8)  # small images do not enlarge a run's views
            assert found.require_run("--loss") is found.run

    def test_an_export_is_no_run(self, finished: Run, tmp_path: Path) -> None:
        export(finished, tmp_path / "exported", ("timm",))
        found = resolve_encoder(tmp_path / "exported", SMALL)
        assert found.run is None
        assert found.results is None
        images = torch.rand(2, 3, 8, 8)
        assert torch.equal(found.encoder(images), finished.encoder()(images))
        with pytest.raises(InputError, match=r"^--loss needs a run of `sdclr pretrain`, which .*exported is not: give"):
            found.require_run("--loss")

    def test_a_bare_copy_of_a_runs_encoder_is_no_run(self, finished: Run, tmp_path: Path) -> None:
        for name in ("encoder.json", "encoder.safetensors"):
            (tmp_path / name).write_bytes((finished.path / name).read_bytes())
        assert resolve_encoder(tmp_path).run is None

    def test_a_wrapped_module(self) -> None:
        network = nn.Sequential(nn.AvgPool2d(4), nn.Flatten())
        found = resolve_encoder(wrap_encoder(network, image_size=8, crop_pct=1.0), SMALL)
        assert (found.run, found.encoder.num_features) == (None, 12)
        assert found.preprocessing == Preprocessing(image_size=8, crop_pct=1.0)

    def test_a_model_of_timm_brings_its_preprocessing(self) -> None:
        model = timm.create_model("vit_tiny_patch16_224", pretrained=False)
        found = resolve_encoder(model, LARGE)
        assert found.preprocessing == Preprocessing(image_size=224, crop_pct=0.9)
        assert found.encoder.config.mean == (0.5, 0.5, 0.5)
        images = torch.rand(2, 3, 224, 224)
        with torch.no_grad():
            features = model.eval().forward_head(model.forward_features((images - 0.5) / 0.5), pre_logits=True)
            torch.testing.assert_close(found.encoder(images), features)
        assert model.num_classes == 1000  # the user's model keeps its classifier

    def test_another_module_must_be_wrapped(self) -> None:
        with pytest.raises(InputError, match=r"Linear does not say how .*use sdclr.wrap_encoder\(module"):
            resolve_encoder(nn.Linear(3, 3))

    def test_what_is_resolved_stays_as_it_is(self, finished: Run) -> None:
        found = resolve_encoder(finished)
        assert resolve_encoder(found, LARGE) is found

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            (
                "nowhere",
                "there is no encoder 'nowhere': an encoder is a run's folder, an exported folder, timm:NAME or",
            ),
            ("resnet18", "there is no folder resnet18: for timm's pretrained model give timm:resnet18"),
            ("timm:resnt18", "timm has no model called 'resnt18'; did you mean timm:resnet18"),
            ("empty", "empty holds no encoder: an encoder is a run's folder, an exported folder"),
            ("weights.pth", "is a file, not an encoder: name its architecture by timm:NAME=weights.pth"),
            ("notes.txt", "is a file, not an encoder: an encoder is a run's folder"),
        ],
    )
    def test_what_is_no_encoder_is_refused_with_the_mend(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "empty").mkdir()
        for file in ("weights.pth", "notes.txt"):
            (tmp_path / file).write_bytes(b"")
        with pytest.raises(InputError, match=message) as caught:
            resolve_encoder(name)
        assert "\n" not in str(caught.value)


class TestSize:
    @pytest.mark.parametrize(
        ("images", "asked", "size"),
        [(None, None, 160), (LARGE, None, 160), (SMALL, None, 96), (SMALL, 64, 64), (LARGE, 64, 64)],
    )
    def test_small_images_are_seen_at_96_px(
        self, spec: str, images: ArraySource | None, asked: int | None, size: int
    ) -> None:
        found = resolve_encoder(spec, images, image_size=asked)
        assert (found.preprocessing.image_size, found.encoder.image_size) == (size, size)
        assert found.encoder(torch.rand(2, 3, size, size)).shape == (2, found.encoder.num_features)
        assert found.encoder.origin is not None
        assert found.encoder.origin.sha256 is not None

    def test_the_first_image_that_is_large_decides_with_all(self, spec: str, tmp_path: Path) -> None:
        for name, side in (("a.png", 30), ("b.png", 200)):
            Image.new("RGB", (side, side)).save(tmp_path / name)
        assert resolve_encoder(spec, open_source(tmp_path)).preprocessing.image_size == 160

    def test_a_transformer_keeps_its_size(self) -> None:
        model = timm.create_model("vit_tiny_patch16_224", pretrained=False)
        assert resolve_encoder(model, SMALL).preprocessing.image_size == 224

    def test_a_size_that_cannot_be_had_is_refused(self, finished: Run, tmp_path: Path) -> None:
        export(finished, tmp_path / "exported", ("timm",))
        module = wrap_encoder(nn.Sequential(nn.AvgPool2d(4), nn.Flatten()), image_size=8)
        for given in (finished, tmp_path / "exported", module):
            with pytest.raises(InputError, match="takes images of 8 px only: leave out the image size"):
                resolve_encoder(given, image_size=16)
            assert resolve_encoder(given, image_size=8).preprocessing.image_size == 8

    def test_changing_the_size_leaves_the_users_module_alone(self, spec: str) -> None:
        first = resolve_encoder(spec).encoder
        smaller = resolve_encoder(first, image_size=64).encoder
        assert (first.image_size, smaller.image_size) == (160, 64)


def test_the_sparse_branch_needs_a_run() -> None:
    encoder = create_encoder(EncoderConfig(width=4), 8)
    with pytest.raises(InputError, match="needs a run of `sdclr pretrain`"):
        branch_encoder(resolve_encoder(encoder), "sparse")
