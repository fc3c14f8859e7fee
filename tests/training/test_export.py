"""Exported encoders: read back by what they are for, as their card says to."""

import importlib.util
import json
import re
import runpy

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from sdclr.config import to_json
from sdclr.decoding.decode import decode_image
from sdclr.encoders import (
    DEFAULT,
    EncoderConfig,
    Origin,
    create_encoder,
    load_encoder,
    packaged_weights,
    save_encoder,
    wrap_encoder,
)
from sdclr.errors import InputError
from sdclr.features.extract import SMALL_SIDE, evaluation_view
from sdclr.files import read_json, write_json
from sdclr.training import card_usage, model_card
from sdclr.training.config import CONTRASTIVE, FRAMEWORK_NAMES, PretrainConfig
from sdclr.training.export import export
from sdclr.training.resolve import ResolvedEncoder
from sdclr.training.run import Run
from sdclr.views.parameters import ViewConfig

has_onnx = all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))
needs_onnx = pytest.mark.skipif(not has_onnx, reason="onnx is not installed")


def made_run(folder, encoder, image_size, **source):
    """A run as training leaves it, with random weights and statistics."""
    config = PretrainConfig(encoder=encoder, views=ViewConfig(image_size=image_size))
    built = create_encoder(encoder, image_size)
    for module in built.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    write_json(folder / "config.json", to_json(config))
    write_json(folder / "source.json", {"name": "pictures", "images": 1234, "fingerprint": "f" * 64, **source})
    save_encoder(folder, built)
    return Run.open(folder)


MEAN = (0.4, 0.5, 0.6)
ENCODERS = {
    "a narrow ResNet for small images": (EncoderConfig(width=4, mean=MEAN), 8),
    "a narrow ResNet of bottlenecks": (EncoderConfig(name="resnet50", width=4, stem="default"), 64),
    "a wide ResNet for small images": (EncoderConfig(stem="small"), 16),
    "a ResNet as designed": (EncoderConfig(mean=MEAN), 64),
    "a vision transformer": (EncoderConfig(name="vit_tiny_patch16_224"), 32),
}


def blocks(card):
    """The lines of code under each heading of the card; the first serve all the others."""
    found = re.findall(r"(?:### ([^\n]+)\n\n)?```python\n(.*?)```", card, flags=re.DOTALL)
    return {title: code for title, code in found if title}, next(code for title, code in found if not title)


def assert_the_card_is_right(folder, encoder, tmp_path, monkeypatch):
    """Runs every example of the card on an image, small and large, and compares with the encoder itself."""
    examples, prepare = blocks((folder / "README.md").read_text())
    monkeypatch.chdir(folder)
    for number, (height, width) in enumerate([(20, 20), (SMALL_SIDE, 30), (150, 110)]):
        picture = np.random.default_rng(number).integers(60, 190, (height, width, 3), dtype=np.uint8)
        Image.fromarray(picture).save(folder / "image.jpg", format="PNG")
        view = evaluation_view(decode_image(folder / "image.jpg", image_id="image"), encoder.preprocessing)
        with torch.no_grad():
            expected = encoder(torch.tensor(view).permute(2, 0, 1)[None])
        for title, code in examples.items():
            script = tmp_path / "script.py"
            script.write_text(prepare + code)
            features = torch.as_tensor(runpy.run_path(str(script))["features"])
            # Views of large images may differ by one step in 255 from those cut out before they are resized.
            near = 1e-4 if max(height, width) <= SMALL_SIDE else 0.02
            assert (features - expected).abs().max() <= near * expected.abs().max(), title
    return set(examples)


@pytest.mark.parametrize("kind", ENCODERS)
def test_the_card_says_how_to_load_what_lies_beside_it(kind, tmp_path, monkeypatch):
    config, size = ENCODERS[kind]
    run = made_run(tmp_path / "run", config, size)
    formats = ("timm", "torchvision") if kind == "a ResNet as designed" else ("timm",)
    done = export(run, tmp_path / "out" / "encoder", formats)
    assert set(done.differences) == set(formats)
    assert max(done.differences.values()) <= 1e-6
    assert (done.folder / "config.json").exists() == (kind in {"a ResNet as designed", "a vision transformer"})
    shown = assert_the_card_is_right(done.folder, run.encoder(), tmp_path, monkeypatch)
    assert shown == set(formats)


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """A run and all that can be written of it; the ONNX exporter takes its time."""
    folder = tmp_path_factory.mktemp("exported")
    run = made_run(folder / "run", *ENCODERS["a narrow ResNet for small images"])
    return run, export(run.path, folder / "out")


@needs_onnx
def test_all_that_can_be_written_is(everything, tmp_path, monkeypatch):
    run, done = everything
    assert done.files == ("README.md", "encoder.json", "encoder.onnx", "model.safetensors", "preprocessing.json")
    assert set(done.differences) == {"timm", "onnx"}
    assert done.differences["onnx"] <= 1e-4
    assert "has a stem for small images" in done.left_out["torchvision"]
    assert assert_the_card_is_right(done.folder, run.encoder(), tmp_path, monkeypatch) == {"timm", "ONNX Runtime"}


@needs_onnx
def test_the_onnx_file_takes_any_number_of_whole_numbered_images(everything):
    import onnxruntime

    run, done = everything
    session = onnxruntime.InferenceSession(done.folder / "encoder.onnx")
    (images,) = session.get_inputs()
    assert (images.name, images.type, images.shape[1:]) == ("images", "tensor(uint8)", [3, 8, 8])
    for count in (1, 7):
        batch = torch.randint(256, (count, 3, 8, 8), dtype=torch.uint8)
        (features,) = session.run(None, {"images": batch.numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(features, run.encoder()(batch).numpy(), atol=1e-5)


def test_timm_reads_the_folder_and_knows_the_view(tmp_path):
    run = made_run(tmp_path / "run", *ENCODERS["a vision transformer"], held_in_memory=True)
    folder = export(run, tmp_path / "out", ("timm",)).folder
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    images = torch.rand(3, 3, 32, 32)
    encoder = run.encoder()
    with torch.no_grad():
        torch.testing.assert_close(model((images - encoder.mean) / encoder.std), encoder(images))
    data = timm.data.resolve_model_data_config(model)
    assert (tuple(data["input_size"]), data["crop_pct"], data["interpolation"]) == ((3, 32, 32), 1.0, "bicubic")
    assert model.num_features == encoder.num_features == 192


def test_preprocessing_is_the_evaluations(tmp_path):
    run = made_run(tmp_path / "run", EncoderConfig(width=4, std=(0.1, 0.2, 0.3)), 24)
    said = json.loads((export(run, tmp_path / "out", ("timm",)).folder / "preprocessing.json").read_text())
    assert said["small_images"]["up_to_side"] == SMALL_SIDE
    assert said["other_images"] == {
        "resize_shorter_side": round(24 * 256 / 224),
        "interpolation": "bicubic, antialiased",
        "center_crop": [24, 24],
    }
    assert (said["image_size"], said["std"], said["features"]) == (24, [0.1, 0.2, 0.3], 32)


def test_the_card_tells_where_the_encoder_comes_from(tmp_path):
    run = made_run(
        tmp_path / "run",
        EncoderConfig(width=4),
        8,
        name="evil`|<script>alert(1)</script>",
        class_counts=[500, 20, 5],
        bad_images=3,
    )
    score = {"balance": {"many": 61.25, "medium": 50.0, "few": None, "all": 55.5, "std": 4.04}}
    for branch in ("dense", "sparse"):
        result = {"branch": branch, "linear": score, "few_shot": score, "knn": score, "train": {}, "test": {}}
        write_json(run.results / f"{branch}.json", result)
    run.sessions_file.write_text(json.dumps({"precision": "bfloat16", "device": "a processor"}) + "\n")
    card = (export(run, tmp_path / "out", ("timm",)).folder / "README.md").read_text()
    assert "| linear probe | 61.2 | 50.0 | - | 55.5 | 4.0 |" in card
    assert card.count("linear probe") == 1  # the dense branch alone is exported
    assert "| labels used in training | none |" in card
    assert "| left out because they could not be decoded | 3 |" in card
    assert "| images of the largest and the smallest class | 500 and 5 |" in card
    assert "a copy of itself with 90% of its weights pruned" in card
    assert "bfloat16 on a processor" in card
    assert "<script>" not in card
    assert card.startswith("---\npipeline_tag")
    assert "library_name" not in card.partition("# run")[0]  # timm alone cannot make it


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    """One of timm's models for tests, its weights from a file."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    save_file(timm.create_model("test_resnet", pretrained=False).state_dict(), file)
    return f"timm:test_resnet.r160_in1k={file}"


class TestPretrained:
    """Exports of encoders that were pretrained elsewhere."""

    def test_the_exported_folder_gives_equal_features(self, spec, tmp_path):
        written = export(spec, tmp_path / "out", ("timm",))
        assert max(written.differences.values()) <= 1e-6
        before, after = load_encoder(spec), load_encoder(written.folder)
        images = torch.randint(0, 256, (3, 3, 160, 160), dtype=torch.uint8)
        with torch.no_grad():
            assert torch.equal(before(images), after(images))
        assert (after.preprocessing, after.origin) == (before.preprocessing, before.origin)

    @pytest.mark.slow
    @pytest.mark.skipif(packaged_weights() is None, reason="needs the extra `weights`")
    def test_so_does_that_of_the_default_encoder(self, tmp_path):
        before = load_encoder()
        after = load_encoder(export(DEFAULT, tmp_path / "out", ("timm",)).folder)
        images = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
        with torch.no_grad():
            assert torch.equal(before(images), after(images))
        card = (tmp_path / "out" / "README.md").read_text()
        assert "Of the published weights: apache-2.0." in card
        assert "- Trained with labels" in card

    def test_its_card_runs_and_says_nothing_that_is_not_so(self, spec, tmp_path, monkeypatch):
        folder = export(spec, tmp_path / "out", ("timm",)).folder
        card = (folder / "README.md").read_text()
        assert "A pretrained image encoder, unchanged" in card
        assert "It is not known whether the weights were trained with class labels" in card
        for untrue in ("Trained without", "self-supervised", "pruned copy", "long-tailed"):
            assert untrue not in card
        encoder = load_encoder(spec)
        assert assert_the_card_is_right(folder, encoder, tmp_path, monkeypatch) == {"timm"}

    @needs_onnx
    @pytest.mark.parametrize("named", [True, False])
    def test_a_module_whose_weights_timm_does_not_know_goes_to_onnx_alone(self, tmp_path, named):
        if named:  # with its classifier, which is not exported
            module = timm.create_model("test_resnet", pretrained=False)
        else:
            module = wrap_encoder(torch.nn.Sequential(torch.nn.AvgPool2d(4), torch.nn.Flatten()), image_size=8)
        written = export(module, tmp_path / "out")
        assert set(written.differences) == {"onnx"}
        assert written.files == ("README.md", "encoder.onnx", "preprocessing.json")  # nothing for load_encoder
        assert "are not under timm's names, which timm needs: export to onnx" in written.left_out["timm"]
        with pytest.raises(InputError, match="not under timm's names"):
            export(module, tmp_path / "other", ("timm",))

    def test_a_model_of_timm_without_classifier_is_exported(self, tmp_path):
        model = timm.create_model("test_resnet", pretrained=False, num_classes=0).eval()
        loaded = load_encoder(export(model, tmp_path / "out", ("timm",)).folder)
        images = torch.rand(2, 3, 160, 160)
        with torch.no_grad():
            assert torch.equal(loaded(images), model((images - loaded.mean) / loaded.std))

    def test_the_card_of_weights_from_captions(self):
        encoder = create_encoder(EncoderConfig(width=4), 8)
        encoder.origin = Origin(spec="timm:x", source="a file", license="mit", labels=False)
        card = model_card.model_card(ResolvedEncoder("x", encoder), card_usage.Architecture.of(encoder), formats=())
        assert "- Trained without class labels" in card
        assert "Of the published weights: mit." in card


@pytest.mark.parametrize(
    ("labels", "teacher", "said"),
    [
        (True, "trained with labels", "- The start weights were trained with labels of other images"),
        (None, "perhaps trained with labels", "- The start weights may have been trained with labels"),
        (False, "trained without labels", "- Trained without labels: features"),
    ],
)
def test_the_card_tells_of_the_weights_that_a_run_started_from(labels, teacher, said, tmp_path):
    run = made_run(tmp_path / "run", EncoderConfig(width=4), 8)
    plain = (export(run, tmp_path / "plain", ("timm",)).folder / "README.md").read_text()
    assert "An image encoder trained without labels by" in plain
    assert "started from" not in plain
    start = {"file": "a.pth", "sha256": "abc", "spec": "timm:tf_efficientnet_lite0", "license": "apache-2.0|"}
    write_json(run.start_file, {**start, "labels": labels, "teacher": teacher})
    write_json(run.config_file, read_json(run.config_file) | {"start": "timm:tf_efficientnet_lite0"})
    card = (export(run, tmp_path / "out", ("timm",)).folder / "README.md").read_text()
    words = f"timm:tf_efficientnet_lite0 (license apache-2.0, {teacher})"
    assert f"An image encoder that started from the weights {words} and was adapted without labels by self-" in card
    assert f"| start weights | {words} |" in card
    assert "| batch-norm statistics of the encoder | fixed |" in card
    assert said in card
    assert "under the license apache-2.0, which still applies" in card
    assert labels is False or "- Trained without labels" not in card


@pytest.mark.parametrize("framework", FRAMEWORK_NAMES)
def test_the_card_knows_every_framework(framework, tmp_path):
    run = made_run(tmp_path / "run", EncoderConfig(width=4), 8)
    values = read_json(run.config_file) | {"framework": framework, "damage": {"ratio": "adaptive"}}
    write_json(run.config_file, values)
    card = (export(run, tmp_path / "out", ("timm",)).folder / "README.md").read_text()
    assert framework == "simclr" or f"in the framework of {FRAMEWORK_NAMES[framework]} (" in card
    assert "with an adaptive share of its weights" in card
    assert ("temperature" in card) == (framework in CONTRASTIVE)


def test_a_format_asked_for_that_does_not_fit_is_an_error(tmp_path):
    small = made_run(tmp_path / "run", EncoderConfig(width=4), 8)
    with pytest.raises(InputError, match="stem for small images, unlike that of torchvision: export to timm"):
        export(small, tmp_path / "out", ("torchvision",))
    other = made_run(tmp_path / "other", EncoderConfig(name="convnext_atto"), 32)
    with pytest.raises(InputError, match="not for 'convnext_atto'"):
        export(other, tmp_path / "out", ("timm", "torchvision"))
    with pytest.raises(InputError, match="no export format coreml: choose from timm, torchvision, onnx"):
        export(small, tmp_path / "out", ("coreml",))
    assert not (tmp_path / "out").exists()


def test_without_the_onnx_packages(tmp_path, monkeypatch):
    run = made_run(tmp_path / "run", EncoderConfig(width=4), 8)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find(name))
    with pytest.raises(InputError, match=r"needs onnxscript: pip install 'sdclr\[onnx\]'"):
        export(run, tmp_path / "out", ("onnx",))
    done = export(run, tmp_path / "out")
    assert set(done.left_out) == {"torchvision", "onnx"}
    assert "ONNX" not in (done.folder / "README.md").read_text()


def test_what_is_there_is_never_written_over(tmp_path):
    run = made_run(tmp_path / "run", EncoderConfig(width=4), 8)
    before = {file.name: file.read_bytes() for file in run.path.iterdir()}
    with pytest.raises(InputError, match="is not empty: name a new folder"):
        export(run, run.path, ("timm",))
    assert {file.name: file.read_bytes() for file in run.path.iterdir()} == before
    (tmp_path / "empty").mkdir()
    assert "README.md" in export(run, tmp_path / "empty", ("timm",)).files
    with pytest.raises(InputError, match="already holds an export: use it"):
        export(run, tmp_path / "empty", ("timm",))


def test_features_that_differ_are_not_written(tmp_path, monkeypatch):
    run = made_run(tmp_path / "run", *ENCODERS["a vision transformer"])
    read = timm.create_model

    def spoilt(name, **options):
        model = read(name, **options)
        if name.startswith("local-dir:"):
            model.norm.bias.data += 0.01
        return model

    monkeypatch.setattr(timm, "create_model", spoilt)
    with pytest.raises(InputError, match="features of the timm export differ"):
        export(run, tmp_path / "out", ("timm",))
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_the_view_of_the_card_is_the_evaluations():
    assert model_card.SMALL_SIDE == SMALL_SIDE


@needs_onnx
def test_a_resnet_that_timm_lacks_goes_to_onnx_alone(tmp_path):
    run = made_run(tmp_path / "run", EncoderConfig(name="resnet20", width=4), 16)
    written = export(run, tmp_path / "out")
    assert set(written.differences) == {"onnx"}
    assert set(written.left_out) == {"timm", "torchvision"}
    assert "resnet20" in (tmp_path / "out" / "README.md").read_text()
    with pytest.raises(InputError, match="onnx"):
        export(run, tmp_path / "other", ["timm"])
