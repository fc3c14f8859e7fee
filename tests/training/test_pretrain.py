"""The training loop, in one process."""

import dataclasses
import gc
import json
import math
import multiprocessing
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sdclr.data.sources import ArraySource, SubsetSource
from sdclr.encoders import EncoderConfig, Network, create_network
from sdclr.errors import InputError
from sdclr.method import Objective, SelfCompetitor, SimCLR
from sdclr.training import pretrain as loop
from sdclr.training import run as runs
from sdclr.training.checkpoint import snapshot_epochs
from sdclr.training.config import DamageConfig, PretrainConfig, Runtime
from sdclr.training.interrupts import Interrupted
from sdclr.training.optim import OptimConfig
from sdclr.training.pretrain import Trainer, pretrain
from sdclr.training.run import Run
from sdclr.views.parameters import ViewConfig

Train = Callable[..., Run]
AfterStep = Callable[[int, Callable[[Trainer], object]], None]


def losses(run: Run) -> list[tuple[int, float]]:
    return [(row["step"], row["loss"]) for row in run.metrics()]


def assert_same_result(first: Run, second: Run) -> None:
    assert losses(first) == losses(second)
    one, two = (run.objective().state_dict() for run in (first, second))
    assert one.keys() == two.keys()
    assert [key for key in one if not torch.equal(one[key], two[key])] == []
    assert (first.path / "encoder.safetensors").read_bytes() == (second.path / "encoder.safetensors").read_bytes()


@pytest.fixture
def after_step(monkeypatch: pytest.MonkeyPatch) -> AfterStep:
    """Do something once, in the first session that takes this step."""

    def arrange(step: int, action: Callable[[Trainer], object]) -> None:
        take_step, todo = Trainer._take_step, [action]

        def wrapped(self: Trainer, batch: Any) -> None:
            take_step(self, batch)
            if self.step == step and todo:
                todo.pop()(self)

        monkeypatch.setattr(Trainer, "_take_step", wrapped)

    return arrange


@pytest.fixture
def first_loss(train: Train) -> float:
    """The loss of the first step: later ones follow from it chaotically in a network this narrow."""
    return losses(train(folder="reference", changes={"epochs": 2}, log_steps=1))[0][1]


def sigterm(_: Trainer) -> None:
    signal.raise_signal(signal.SIGTERM)


def test_a_run_leaves_its_files(finished: Run, tiny: PretrainConfig) -> None:
    names = {path.relative_to(finished.path).as_posix() for path in finished.path.rglob("*") if path.is_file()}
    board = {name for name in names if name.startswith("tensorboard/events")}
    assert board
    assert names - board == {
        *("config.json", "source.json", "bad_images.csv", "sessions.jsonl", "metrics.jsonl"),
        *("encoder.json", "encoder.safetensors", ".training"),
        *("checkpoints/step-000000012.pt", "checkpoints/step-000000012.sha256"),
    }
    assert finished.finished
    assert finished.config == tiny
    assert [step for step, _ in losses(finished)] == [2, 3, 4, 6, 8, 9, 10, 12]


def test_it_learns(train: Train) -> None:
    mild = ViewConfig(image_size=8, crop_scale=(0.8, 1.0), flip=0, jitter=0, gray=0)
    run = train(changes={"batch_size": 48, "epochs": 24, "views": mild, "optim": OptimConfig(lr=0.05, warmup_epochs=2)})
    curve = [loss for _, loss in losses(run)]
    assert np.mean(curve[-5:]) < np.mean(curve[:5]) - 1


def test_the_source_is_described(finished: Run, few_digits: SubsetSource) -> None:
    source = finished.source
    assert (source["name"], source["images"], source["bad_images"]) == ("few", 50, 0)
    assert few_digits.labels is not None
    assert source["class_counts"] == [int((few_digits.labels == c).sum()) for c in range(10)]


def test_the_seed_decides(finished: Run, train: Train) -> None:
    assert_same_result(finished, train(folder="same"))
    assert losses(train(folder="other", changes={"seed": 1})) != losses(finished)


def test_labels_change_nothing(finished: Run, train: Train, few_digits: SubsetSource) -> None:
    unlabeled = train(np.stack([few_digits.image(index) for index in range(len(few_digits))]))
    assert unlabeled.source["class_counts"] is None
    assert_same_result(finished, unlabeled)


def test_the_callers_random_state_is_left_alone(train: Train) -> None:
    np.random.seed(7)  # noqa: NPY002  # the global state is what is tested
    before, numpy_before = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    run = train(changes={"epochs": 2})
    run.objective()
    run.encoder()
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(numpy_before[1], np.random.get_state()[1])  # noqa: NPY002


def test_a_finished_run_is_returned_at_once(
    finished: Run, tiny: PretrainConfig, few_digits: SubsetSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "create_feed", None)
    assert pretrain(few_digits, tiny, run=finished.path) == finished


@pytest.mark.parametrize(("signum", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_the_state_and_the_run_goes_on(
    finished: Run, train: Train, after_step: AfterStep, signum: signal.Signals, exit_code: int
) -> None:
    after_step(5, lambda _: signal.raise_signal(signum))  # between two lines of the log
    handler = signal.getsignal(signum)
    with pytest.raises(Interrupted, match=r"stopped after step 5 of 12; .*step-000000005.pt is saved") as caught:
        train()
    assert caught.value.exit_code == exit_code
    assert signal.getsignal(signum) is handler
    assert_same_result(finished, train())


def test_a_signal_at_the_last_step_leaves_a_run_that_only_needs_its_encoder(
    finished: Run, train: Train, after_step: AfterStep
) -> None:
    after_step(12, sigterm)
    with pytest.raises(Interrupted):
        train()
    assert_same_result(finished, train())


def test_from_a_damaged_checkpoint_it_goes_back_to_the_one_before(
    finished: Run, train: Train, after_step: AfterStep, tmp_path: Path
) -> None:
    after_step(5, sigterm)
    with pytest.raises(Interrupted):
        train(checkpoint_minutes=0)
    newest = max((tmp_path / "run" / "checkpoints").glob("*.pt"))
    newest.write_bytes(newest.read_bytes()[:-1])
    with pytest.warns(UserWarning, match=f"{newest} is damaged"):
        run = train()
    assert_same_result(finished, run)


def dropping_out(config: PretrainConfig, network: Network | None = None) -> Objective:
    network = network or create_network(config.encoder, config.head, config.views.image_size)
    network.head.insert(0, nn.Dropout(0.5))  # type: ignore[operator]  # it is a Sequential
    return Objective(SimCLR(config.temperature), network, SelfCompetitor(network, 0.3))


def test_dropout_and_streamed_images_resume_exactly_whatever_the_workers(
    train: Train, large_images: ArraySource, after_step: AfterStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "create_objective", dropping_out)
    monkeypatch.setattr(runs, "create_objective", dropping_out)
    whole = train(large_images, "whole", {"epochs": 3})
    after_step(3, sigterm)
    with pytest.raises(Interrupted) as caught:
        train(large_images, "cut", {"epochs": 3}, workers=1)
    del caught
    gc.collect()
    assert multiprocessing.active_children() == []
    assert_same_result(whole, train(large_images, "cut", {"epochs": 3}))


def test_the_memory_layout_changes_roundings_only(first_loss: float, train: Train) -> None:
    run = train(changes={"epochs": 2}, log_steps=1, channels_last=False)
    assert losses(run)[0][1] == pytest.approx(first_loss, rel=1e-4)


@pytest.mark.parametrize("name", ["sgd", "adamw", "lars"])
def test_momentum_is_laid_out_as_its_weight_after_a_change_of_layout(
    train: Train, after_step: AfterStep, name: Any
) -> None:
    def stride(tensor: Tensor) -> tuple[int, ...]:
        return tuple(step for step, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1)

    def check(trainer: Trainer) -> None:
        for weight, state in trainer.optimizer.state.items():
            buffers = [value for value in state.values() if value.ndim]
            assert buffers
            assert all(stride(buffer) == stride(weight) for buffer in buffers)
        checked.append(trainer.step)

    changes, checked = {"epochs": 2, "optim": OptimConfig(name=name, lr=0.01, warmup_epochs=1)}, list[int]()
    after_step(2, sigterm)
    with pytest.raises(Interrupted):
        train(changes=changes, channels_last=False)
    after_step(3, check)
    train(changes=changes)
    assert checked == [3]


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_mixed_precision_trains(first_loss: float, train: Train, amp: Any) -> None:
    run = train(log_steps=1, amp=amp)
    assert losses(run)[0][1] == pytest.approx(first_loss, rel=0.05)
    assert all(bool(weight.isfinite().all()) for weight in run.objective().parameters())


def test_mixed_precision_can_be_switched_on_for_the_rest_of_a_run(train: Train, after_step: AfterStep) -> None:
    after_step(6, sigterm)
    with pytest.raises(Interrupted):
        train()
    assert train(amp="fp16").finished


def test_compiled_once_and_not_again_when_masks_are_refreshed(
    first_loss: float, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        del inputs
        graphs.append(graph)
        return graph.forward

    compile_in_place = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self: compile_in_place(self, backend=backend, fullgraph=True))
    torch._dynamo.reset()
    with torch._dynamo.config.patch(error_on_recompile=True):
        changes = {"epochs": 2, "damage": DamageConfig(ratio=0.3, refresh_steps=2)}
        run = train(changes=changes, log_steps=1, compile=True)
    torch._dynamo.reset()
    assert len(graphs) == 1
    assert losses(run)[0][1] == pytest.approx(first_loss, rel=1e-4)


@pytest.mark.parametrize(("every", "expected"), [(None, [0, 3, 6, 9]), (5, [0, 5, 10])])
def test_masks_are_refreshed_when_it_is_time(
    train: Train, monkeypatch: pytest.MonkeyPatch, every: int | None, expected: list[int]
) -> None:
    refreshed: list[int] = []
    now: list[int] = []
    take_step, refresh = Trainer._take_step, SelfCompetitor.refresh

    def stepped(self: Trainer, batch: Any) -> None:
        now[:] = [self.step]
        take_step(self, batch)

    def noted(self: SelfCompetitor) -> None:
        refreshed.extend(now)  # nothing yet when it is made
        refresh(self)

    monkeypatch.setattr(Trainer, "_take_step", stepped)
    monkeypatch.setattr(SelfCompetitor, "refresh", noted)
    train(changes={"damage": DamageConfig(ratio=0.3, refresh_steps=every)})
    assert refreshed == expected


def test_without_damage_there_is_no_competitor(train: Train) -> None:
    run = train(changes={"epochs": 2, "damage": DamageConfig(kind="none")})
    assert run.objective().competitor is None


def test_a_batch_in_parts_is_one_step_on_the_mean_loss(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    forward, seen = Objective.forward, []

    def noted(self: Objective, view1: Tensor, view2: Tensor) -> Tensor:
        values = forward(self, view1, view2)
        seen.append((len(view1), values.mean().item()))
        return values

    monkeypatch.setattr(Objective, "forward", noted)
    run = train(changes={"epochs": 2, "accumulate": 4}, log_steps=1)
    assert [count for count, _ in seen] == [4] * 4 * 6
    means = np.array([value for _, value in seen]).reshape(6, 4).mean(1)
    np.testing.assert_allclose([loss for _, loss in losses(run)], means, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0.3}, r"other settings \(temperature: 0.2 → 0.3\): name another folder with --run"),
        ({"damage": DamageConfig(ratio=0.5)}, r"damage.ratio: 0.3 → 0.5"),
        ({"seed": 3, "epochs": 5}, r"epochs: 4 → 5; seed: 0 → 3"),
    ],
)
def test_another_run_in_the_same_folder_is_refused(finished: Run, train: Train, changes: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        train(folder=str(finished.path), changes=changes)


def test_other_images_in_the_same_folder_are_refused(finished: Run, train: Train, few_digits: SubsetSource) -> None:
    with pytest.raises(InputError, match="trained on 50 images of few, not on these 49"):
        train(SubsetSource(few_digits, np.arange(49)), str(finished.path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"batch_size": 64}, "fewer than one batch of 64"), ({"encoder": EncoderConfig(name="resnt18")}, "did you mean")],
)
def test_a_mistake_found_before_training_leaves_the_folder_free_for_the_next_try(
    train: Train, changes: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        train(changes=changes)
    assert train(changes={"epochs": 2}).finished


def test_a_file_is_no_folder(train: Train, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file: name a folder"):
        train(folder="file")


def test_by_default_the_folder_is_named_after_images_and_settings(
    tiny: PretrainConfig, few_digits: SubsetSource, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = pretrain(few_digits, dataclasses.replace(tiny, epochs=2), runtime=runtime)
    assert run.path.parent == Path("runs")
    assert run.path.name.startswith("few-")


@pytest.mark.parametrize("minutes", [0, 5])
def test_a_loss_that_is_not_finite_ends_the_run_and_nothing_bad_is_saved(
    train: Train, few_digits: SubsetSource, tmp_path: Path, minutes: float
) -> None:
    with pytest.raises(FloatingPointError) as caught:
        train(changes={"optim": OptimConfig(lr=1e30, warmup_epochs=0)}, checkpoint_minutes=minutes)
    listed = json.loads(next((tmp_path / "run").glob("nonfinite-step-*.json")).read_text())
    assert f"step {listed['step']}" in str(caught.value)
    assert len(listed["images"]) == 16
    assert set(listed["images"]) <= set(few_digits.ids)
    assert all(name in str(caught.value) for name in listed["images"][:3])
    saved = sorted((tmp_path / "run" / "checkpoints").glob("*.pt"))
    assert (str(saved[-1]) if saved else "no checkpoint is saved") in str(caught.value)
    for path in saved:
        weights = torch.load(path, weights_only=True)["objective"].values()
        assert all(bool(weight.isfinite().all()) for weight in weights)
    assert not Run(tmp_path / "run").finished


def test_weights_that_are_not_finite_are_not_saved_though_the_loss_is(
    train: Train, after_step: AfterStep, tmp_path: Path
) -> None:
    def spoil(trainer: Trainer) -> None:
        with torch.no_grad():
            next(trainer.objective.parameters()).fill_(math.nan)

    after_step(3, spoil)
    with pytest.raises(FloatingPointError, match=r"weights are not finite after step 2 .*step-000000002.pt"):
        train(checkpoint_minutes=0)
    assert (tmp_path / "run" / "nonfinite-step-2.json").exists()
    assert max((tmp_path / "run" / "checkpoints").glob("*.pt")).name == "step-000000002.pt"


def test_snapshots_are_the_networks_of_their_epochs(finished: Run, train: Train, after_step: AfterStep) -> None:
    # Interrupted at the end of an epoch that is to be kept.
    after_step(6, sigterm)
    with pytest.raises(Interrupted):
        train(folder="kept", snapshot_epochs=2)
    run = train(folder="kept", snapshot_epochs=2)
    assert snapshot_epochs(run.snapshots) == [2, 4]
    assert not finished.snapshots.exists()
    last, final = run.objective(4).state_dict(), finished.objective().state_dict()
    assert [key for key in final if not torch.equal(last[key], final[key])] == []
    early = run.objective(2).state_dict()
    assert [key for key in early if not torch.equal(early[key], final[key])]
    with pytest.raises(InputError, match=r"epoch-00003\.pt .* epochs: 2, 4"):
        run.objective(3)
    (run.snapshots / "epoch-00002.pt").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"epoch-00002.pt cannot be read"):
        run.objective(2)
