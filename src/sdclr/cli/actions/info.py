"""Action of `sdclr info`."""

from collections.abc import Iterable
from dataclasses import asdict
from importlib import import_module
from typing import Any

from rich.console import Console

from sdclr.cli.commands.info import Info
from sdclr.cli.fields import field
from sdclr.environment import Environment, describe_environment, private_removed
from sdclr.files import write_json


def run(command: Info, console: Console) -> None:
    """Describe images and environment."""
    told: dict[str, Any] = {}
    if command.images is not None:
        # Imports torch, which the description of the environment does not need.
        inspected = import_module("sdclr.cli.inspected")
        told |= {"given": private_removed(command.images), **inspected.tell_collection(command, console)}
    environment = describe_environment()
    for line in _lines(environment):
        console.print(line, markup=False)
    if command.json is not None:
        write_json(command.json, {**told, "environment": asdict(environment)})
        console.print(f"written to   {command.json}", markup=False)


def _lines(about: Environment) -> Iterable[str]:
    """Lines on the environment, also for bug reports."""
    yield "Environment:"
    yield field("sdclr", f"{about.sdclr}, {about.python}")
    yield field("system", about.system)
    yield field("processor", about.processor)
    yield field("", " ".join(about.instruction_sets))
    of = "" if about.usable_cores == about.cores else f" of {about.cores}"
    yield field("cores", f"{about.usable_cores}{of}")
    if about.memory is not None:
        free = "" if about.memory_free is None else f", {about.memory_free / 2**30:.1f} GiB free"
        yield field("memory", f"{about.memory / 2**30:.1f} GiB{free}")
    yield field("GPUs", "; ".join(about.gpus) or "none")
    if about.variables:
        yield field("variables", " ".join(f"{name}={value}" for name, value in about.variables.items()))
    there = [f"{name} {version}" for name, version in about.packages.items() if version is not None]
    yield field("packages", ", ".join(there))
    absent = [name for name, version in about.packages.items() if version is None]
    if absent:
        yield field("not there", ", ".join(absent))
