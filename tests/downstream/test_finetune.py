"""From encoder to tested classifier: what is learnt, resumed, refused."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from rich.console import Console
from safetensors.torch import save_file

from sdclr.cli.actions import finetune as action
from sdclr.cli.commands.finetune import Finetune
from sdclr.config import from_json, to_json
from sdclr.data.sources import ArraySource, SubsetSource, digits, open_source
from sdclr.downstream import loop
from sdclr.downstream.config import FinetuneConfig
from sdclr.downstream.experts import Classifier
from sdclr.downstream.finetune import FinetuneResult, finetune
from sdclr.downstream.images import LabeledImages
from sdclr.downstream.methods import create_model
from sdclr.downstream.scoring import Look, choose_tau
from sdclr.encoders import EncoderConfig
from sdclr.errors import InputError
from sdclr.longtail.splits import long_tail_split
from sdclr.training.checkpoint import load_checkpoint

EVERYTHING = ["ce", "ldam_drw", "balanced_softmax", "crt", "tau_norm", "ride"]


class StoppedError(Exception):
    """Stands for a process that is gone."""


def state(out: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(out / "checkpoints")[0]["model"]


@pytest.mark.parametrize(("method", "steps"), [("ride", 5), ("ride", 10), ("crt", 8)])
def test_a_training_that_was_cut_off_ends_as_one_that_was_not(  # noqa: PLR0917  # fixtures
    few_digits, test_digits, changed, tmp_path, monkeypatch, method, steps
):
    config = changed(method=method)
    whole = finetune(few_digits, test_digits, config, start="scratch", out=tmp_path / "whole", amp="none")
    take = loop.Trainer._take_step

    def some(trainer: loop.Trainer, *rest: object) -> None:
        if trainer.step == steps:
            raise StoppedError
        take(trainer, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "_take_step", some)
        with pytest.raises(StoppedError):
            finetune(
                few_digits, test_digits, config, start="scratch", out=tmp_path / "cut", amp="none", checkpoint_minutes=0
            )
    assert load_checkpoint(tmp_path / "cut" / "checkpoints")[0]["step"] == steps
    resumed = finetune(few_digits, test_digits, config, start="scratch", out=tmp_path / "cut", amp="none")
    ours, theirs = state(tmp_path / "cut"), state(tmp_path / "whole")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert resumed.score == whole.score
    losses = [
        [{k: v for k, v in json.loads(line).items() if k != "images_per_second"} for line in text.splitlines()]
        for text in ((tmp_path / name / "metrics.jsonl").read_text() for name in ("cut", "whole"))
    ]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("method", EVERYTHING)
def test_every_method_starts_from_a_run_and_leaves_it_alone(  # noqa: PLR0917  # fixtures
    pretrained, few_digits, test_digits, changed, out, method
):
    before = {path: path.read_bytes() for path in sorted(pretrained.path.rglob("*")) if path.is_file()}
    seed = torch.random.get_rng_state()
    result = finetune(few_digits, test_digits, changed(method=method), start=pretrained, out=out)
    assert torch.equal(torch.random.get_rng_state(), seed)
    assert {path: path.read_bytes() for path in before} == before
    assert result.description["image_size"] == 12
    assert result.description["init"]["run"] == "pretrained"
    assert len(result.score.per_class) == 10
    assert result.description["class_counts"] == np.bincount(few_digits.labels).tolist()
    read = FinetuneResult.from_json(json.loads((out / "result.json").read_text()))
    assert read.to_json() == result.to_json()
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    epochs = 3 if method in {"crt", "ride"} else 2
    assert steps[-1] == epochs * (result.score.details["images"] // 16)
    assert (result.score.details["images"] < len(few_digits)) == (method == "tau_norm")
    if method == "ride":
        assert 1 <= result.score.details["experts_asked"] <= 3
        assert len(result.score.details["each_expert"]) == 3


def test_a_pretrained_encoder_of_timm_is_a_start_too(few_digits, test_digits, changed, tmp_path):
    torch.manual_seed(0)
    file = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_resnet", pretrained=False).state_dict(), file)
    spec = f"timm:test_resnet.r160_in1k={file}"
    result = finetune(few_digits, test_digits, changed(method="ce", epochs=1), start=spec, out=tmp_path / "out")
    assert result.description["image_size"] == 96  # small images are enlarged so far
    assert result.description["init"]["run"] == spec


@pytest.mark.parametrize("method", ["ce", "ride"])
def test_at_step_0_the_features_are_those_of_the_run(pretrained, changed, method):
    encoder, images = pretrained.encoder(), torch.rand(4, 3, 12, 12)
    model = create_model(changed(method=method), pretrained.encoder(), 12, 10).eval()
    found = [model.encoder(images)] if isinstance(model, Classifier) else model.features(images)
    for features in found:
        assert torch.equal(features, encoder(images))


def test_from_scratch_every_expert_begins_differently(changed):
    model = create_model(changed(method="ride"), None, 8, 10).eval()
    first, second, third = model.features(torch.rand(4, 3, 8, 8))
    assert not torch.allclose(first, second)
    assert not torch.allclose(second, third)


def test_crt_trains_its_classifier_on_a_frozen_encoder(few_digits, test_digits, changed, tmp_path):
    finetune(few_digits, test_digits, changed(method="crt"), start="scratch", out=tmp_path / "crt", amp="none")
    finetune(few_digits, test_digits, changed(method="ce"), start="scratch", out=tmp_path / "ce", amp="none")
    new, old = state(tmp_path / "crt"), state(tmp_path / "ce")
    same = {name for name in old if torch.equal(old[name], new[name])}
    assert set(old) - same == {"head.weight", "head.bias"}


def test_the_router_trains_on_frozen_experts(few_digits, test_digits, changed, tmp_path):
    for name, epochs in (("short", 1), ("long", 2)):
        config = changed(method="ride", second_epochs=epochs)
        finetune(few_digits, test_digits, config, start="scratch", out=tmp_path / name, amp="none")
    short, long = state(tmp_path / "short"), state(tmp_path / "long")
    differs = {name.split(".")[0] for name in short if not torch.equal(short[name], long[name])}
    assert differs == {"routers"}


def test_tau_is_what_serves_held_out_classes_best(changed):
    """A classifier whose rare class is right but short: only normalized does it win."""
    encoder = create_model(changed(method="tau_norm"), None, 8, 2).encoder.eval()
    images = np.stack([digits().image(3), digits().image(8)])
    features = encoder(torch.from_numpy(images).permute(0, 3, 1, 2)).detach()
    model = Classifier(encoder, torch.nn.Linear(16, 2, bias=False))
    with torch.no_grad():
        model.head.weight.copy_(torch.stack([features[0] * 50, features[1]]))
    source = ArraySource(images, labels=[0, 1])
    held = LabeledImages(source, np.array([0, 1]), np.array([0, 1]), None)
    look = Look(image_size=8, device=torch.device("cpu"), amp="none", workers=0)
    details = choose_tau(model, held, None, look)
    assert details["tau_validation"]["0.0"] == 50
    assert details["tau_validation"]["1.0"] == 100
    assert details["tau"] == min(float(t) for t, v in details["tau_validation"].items() if v == 100)


def test_what_is_finished_is_read_and_another_training_is_refused(few_digits, test_digits, changed, out, monkeypatch):
    config = changed(method="ce", epochs=1)
    first = finetune(few_digits, test_digits, config, start="scratch", out=out)
    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "train", lambda *_: pytest.fail("trained again"))
        assert finetune(few_digits, test_digits, config, start="scratch", out=out).to_json() == first.to_json()
    with pytest.raises(InputError, match=r"lr: 0.05 → 0.1"):
        finetune(few_digits, test_digits, dataclasses.replace(config, lr=0.1), start="scratch", out=out)
    with pytest.raises(InputError, match=r"other settings or images .*test.*another folder"):
        finetune(few_digits, few_digits, config, start="scratch", out=out)


def test_what_cannot_be_used_is_refused_with_the_mend(pretrained, few_digits, test_digits, changed, out):
    without = ArraySource(np.zeros((20, 8, 8, 3), dtype=np.uint8))
    with pytest.raises(InputError, match="no labels"):
        finetune(without, test_digits, changed(), start="scratch", out=out)
    other = ArraySource(np.zeros((2, 8, 8, 3), dtype=np.uint8), labels=[0, 1], classes=["a", "b"])
    with pytest.raises(InputError, match="different classes"):
        finetune(few_digits, other, changed(), start="scratch", out=out)
    with pytest.raises(InputError, match="made for 12 px"):
        finetune(few_digits, test_digits, changed(image_size=32), start=pretrained, out=out)
    with pytest.raises(InputError, match="out holds no encoder: an encoder is"):
        finetune(few_digits, test_digits, changed(), start=out, out=out)
    with pytest.raises(InputError, match="fp16"):
        finetune(few_digits, test_digits, changed(), start="scratch", out=out, amp="fp16")
    assert not (out / "config.json").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"experts": 1}, "experts is 1: give 2 or more"),
        ({"epochs": 0}, "epochs is 0"),
        ({"warmup": 1.0}, "warmup is 1.0"),
        ({"method": "tau_norm", "validation": 0.0}, "give a tau, or a share"),
        ({"method": "tau_norm", "tau": -1.0}, "tau is -1.0"),
    ],
)
def test_nonsense_settings_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        FinetuneConfig(**values)


def test_settings_survive_json():
    config = FinetuneConfig(method="tau_norm", tau=0.3, encoder=EncoderConfig(name="resnet56", width=8))
    assert from_json(FinetuneConfig, json.loads(json.dumps(to_json(config)))) == config


def test_a_loss_that_is_not_finite_ends_the_training(few_digits, test_digits, changed, out, monkeypatch):
    nan = torch.tensor(float("nan"))
    broken = loop.Stage(name="train", epochs=1, loss=lambda model, images, *_: nan * model(images).sum())
    monkeypatch.setattr("sdclr.downstream.finetune.stages", lambda *_: [broken])
    with pytest.raises(FloatingPointError, match=r"the loss is nan at step 0 of 4 .*lower --lr"):
        finetune(few_digits, test_digits, changed(method="ce"), start="scratch", out=out, checkpoint_minutes=0)
    assert not (out / "checkpoints").exists()


def test_the_command(pretrained, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(pretrained.path, run)
    config = FinetuneConfig(method="ride", epochs=1, second_epochs=1, lr=0.05, batch_size=256)
    command = Finetune(start=str(run), train="digits:train", test="digits:test", config=config, device="cpu")
    action.run(command, Console(width=100))
    told = capsys.readouterr().out
    assert "as routed" in told
    assert "experts per image" in told
    assert (run / "finetune" / "ride" / "result.json").is_file()


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    """Every method on 276 digits, the rarest class of which has 2, at a size that takes seconds."""
    train, test = digits("train"), SubsetSource(digits("test"), np.arange(250), name="digits-test")
    drawn = long_tail_split(train.labels, max_count=100, imbalance=50, seed=1, few_shot_fraction=0)
    source = SubsetSource(train, drawn.long_tail, name="lt")
    encoder = EncoderConfig(name="resnet20", width=6)
    folder = tmp_path_factory.mktemp("learnt")
    return {
        method: finetune(
            source,
            test,
            FinetuneConfig(method=method, encoder=encoder, epochs=16, second_epochs=4, batch_size=32, flip=0.0),
            start="scratch",
            out=folder / method,
        )
        for method in EVERYTHING
    }


@pytest.mark.slow
@pytest.mark.parametrize("method", EVERYTHING)
def test_every_method_learns(learnt, method):
    balance = learnt[method].score.balance
    assert balance.all > 30  # 10 by chance
    assert balance.many > 60


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_balanced_softmax_serves_rare_classes_better_than_cross_entropy(seed, tmp_path):
    train, test = digits("train"), SubsetSource(digits("test"), np.arange(250), name="digits-test")
    few = {}
    drawn = long_tail_split(train.labels, max_count=100, imbalance=50, seed=seed, few_shot_fraction=0)
    for method in ("ce", "balanced_softmax"):
        encoder = EncoderConfig(name="resnet20", width=8)
        config = FinetuneConfig(method=method, encoder=encoder, epochs=20, batch_size=32, flip=0.0, seed=seed)
        source = SubsetSource(train, drawn.long_tail)
        few[method] = finetune(source, test, config, start="scratch", out=tmp_path / method).score.balance.few
    assert few["balanced_softmax"] > few["ce"] + 10  # by 29 to 37 over three class orders


@pytest.mark.slow
def test_real_images_from_scratch_by_experts(cifar10_dir, out):
    train, test = open_source(cifar10_dir, split="train"), open_source(cifar10_dir, split="test")
    drawn = long_tail_split(train.labels, max_count=120, imbalance=10, seed=1, few_shot_fraction=0)
    network = EncoderConfig(name="resnet32", width=8)
    config = FinetuneConfig(method="ride", encoder=network, image_size=16, epochs=2, second_epochs=1, batch_size=64)
    images = SubsetSource(train, drawn.long_tail), SubsetSource(test, np.arange(0, 10_000, 33))
    result = finetune(*images, config, start="scratch", out=out)
    assert not np.isnan(result.score.per_class).any()
    assert result.description["test_images"] == 304
    assert 1 <= result.score.details["experts_asked"] <= 3


def test_experts_of_other_networks_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    config = FinetuneConfig(method="ride")
    with pytest.raises(InputError, match="--method balanced_softmax, which takes any"):
        finetune("digits", "digits:test", config, start="timm:tf_efficientnet_lite0", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
