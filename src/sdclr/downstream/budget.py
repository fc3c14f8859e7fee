"""Fine-tuning with a time budget: the epochs of the stages are chosen by the measured speed."""

from dataclasses import replace
from pathlib import Path
from typing import Final

from sdclr.config import from_json
from sdclr.downstream.config import FinetuneConfig
from sdclr.downstream.loop import Trainer
from sdclr.files import parsing, read_json
from sdclr.progress import duration, stage, tell
from sdclr.time_budget import Budget
from sdclr.training.budget import Length, affordable, check_minutes, measured, note_choice
from sdclr.visible import counted

FILE: Final = "budget.json"
"""File in the training's folder with the time budget, the measured speed and the chosen epochs."""

_FORWARD: Final = 1 / 3
"""Cost of testing an image, as a share of training on it."""
_SECOND_SHARE: Final = 10
"""The second stage gets one of this many epochs, at most the number in the settings."""


def as_begun(out: Path, config: FinetuneConfig, budget: Budget | None) -> FinetuneConfig:
    """The given settings; with a budget, the epochs are those of the training in the folder, if there is one.

    Raises:
        InputError: If it was started with another budget, or with a number of epochs.
    """
    file = out / "config.json"
    if budget is None or not file.is_file():
        return config
    values = read_json(file, keys={"config": dict})
    with parsing(file):
        old = from_json(FinetuneConfig, values["config"])
    check_minutes(out / FILE, budget, begun=counted(old.epochs, "epoch"), option="--out")
    return replace(config, epochs=old.epochs, second_epochs=old.second_epochs)


def choose_length(trainer: Trainer, config: FinetuneConfig, budget: Budget, test_images: int) -> FinetuneConfig:
    """Measure the speed and choose the number of whole epochs of each stage, at least one.

    Args:
        trainer: A trainer that has not begun; it cannot be used afterwards.
        config: The settings.
        budget: Time budget, including the test.
        test_images: Number of test images.
    """
    with stage("measuring the speed", counted=False):
        speed = measured(trainer.rehearse, budget)
    testing = test_images / config.batch_size * speed.step * _FORWARD
    length = affordable(budget.left - testing, speed, trainer.steps_per_epoch)
    whole = length.epochs - (length.steps is not None)
    second = min(config.second_epochs, max(1, whole // _SECOND_SHARE)) if len(trainer.stages) > 1 else 0
    epochs = max(1, whole - second)
    chosen = replace(config, epochs=epochs, second_epochs=second or config.second_epochs)
    seconds = (epochs + second) * (trainer.steps_per_epoch * speed.step + speed.epoch) + speed.start + testing
    note_choice(trainer.folder / FILE, budget, Length(epochs, None), speed)
    parts = counted(epochs, "epoch") + (f" and {second} of the second stage" if second else "")
    takes = f"about {duration(seconds)} with the test, at {config.batch_size / speed.step:,.0f} images/s"
    few = " are too few for that; the least is" if whole < 1 + second else ":"
    tell(f"{budget.minutes:g} min{few} {parts}, {takes}")
    return chosen
