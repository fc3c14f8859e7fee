"""The command line: `sdclr pretrain`, `evaluate`, `embed`, `demo`."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from sdclr.config import from_json
from sdclr.data.sources import open_source
from sdclr.data.subset import SubsetConfig, select
from sdclr.demo import run_demo
from sdclr.errors import InputError
from sdclr.evaluation.embed import embed
from sdclr.evaluation.evaluate import EvaluateConfig, Result, evaluate
from sdclr.recipes import RECIPES, for_images
from sdclr.reporting.page import run_report
from sdclr.reporting.tables import balance_table
from sdclr.training.config import PretrainConfig, Runtime
from sdclr.training.distributed import resolve_device
from sdclr.training.feed import default_workers
from sdclr.training.interrupts import Interrupted
from sdclr.training.optim import OptimConfig
from sdclr.training.pretrain import pretrain
from sdclr.training.run import Run, read_json
from sdclr.version import __version__

Source = Annotated[
    str,
    tyro.conf.Positional,
    tyro.conf.arg(
        metavar="SOURCE",
        help="A folder of images, a .csv or .parquet manifest, a folder or file of parquet images, digits, "
        "cifar10:FOLDER or cifar100:FOLDER; :test or :train after any of them names a split.",
    ),
]
RunFolder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN", help="Folder of a run.")]
RecipeName = Literal["auto", "cifar_lt", "imagenet100_lt", "digits_demo"]


@dataclass(frozen=True, kw_only=True)
class Pretrain:
    """Train an encoder on images without labels, or go on with a run that was stopped.

    Ctrl-C stops after the step at hand with everything saved; the same command again goes on. With no options the
    settings follow from the images and the machine. On several GPUs: torchrun --nproc-per-node 4 -m sdclr -- pretrain …

    For example:
        sdclr pretrain ./images --run runs/a
        sdclr pretrain ./images --run runs/b --epochs 400 --damage.ratio 0.5 --encoder.name resnet34
        sdclr pretrain ./cifar10 --run runs/lt --recipe cifar_lt --subset.kind long-tail --subset.max-count 4500
    """

    source: Source
    run: Path | None = None
    """Folder of the run; by default runs/ and a name made of source and settings."""
    recipe: RecipeName = "auto"
    """Settings to start from; other options change them."""
    settings: Path | None = None
    """A config.json of another run to start from, instead of a recipe."""
    config: Annotated[PretrainConfig, tyro.conf.arg(name="")] = field(default_factory=PretrainConfig)
    subset: SubsetConfig = field(default_factory=SubsetConfig)
    runtime: Annotated[Runtime, tyro.conf.arg(name="")] = field(default_factory=Runtime)


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure how well, and how evenly, a run's encoder separates classes, with labelled images.

    Linear probe, few-shot probe and kNN: accuracy for frequent (Many), middle (Medium) and rare (Few) classes, over
    all, and the spread between the three groups (Std). Results go to RUN/results as JSON.

    For example:
        sdclr evaluate runs/a --train ./labelled/train --test ./labelled/test
        sdclr evaluate runs/a --train ./cifar10:train --test ./cifar10:test --branch sparse
    """

    run: RunFolder
    train: str
    """Labelled images for the probes: a source as for `sdclr pretrain`, balanced if it can be."""
    test: str
    """Labelled images of the same classes to test on."""
    config: Annotated[EvaluateConfig, tyro.conf.arg(name="")] = field(default_factory=EvaluateConfig)
    device: str = "auto"
    """cpu, cuda, …; auto takes a GPU if there is one."""
    workers: int | None = None
    """Processes that decode images; by default one for each core but one, 8 at the most."""


@dataclass(frozen=True, kw_only=True)
class Embed:
    """Write the features of images to a Parquet file: id, embedding, and label where there is one.

    For example:
        sdclr embed runs/a ./images --out embeddings.parquet
    """

    run: RunFolder
    source: Source
    out: Path
    """The Parquet file to write."""
    branch: Literal["dense", "sparse"] = "dense"
    """The encoder, or its pruned twin."""
    batch_size: int = 512
    """Images a forward pass."""
    device: str = "auto"
    """cpu, cuda, …; auto takes a GPU if there is one."""
    workers: int | None = None
    """Processes that decode images; by default one for each core but one, 8 at the most."""


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Train SimCLR and SDCLR on handwritten digits that come with scikit-learn, made long-tailed, and compare them.

    Takes two to three minutes on two cores; ends with two tables and RUN/report.html.
    """

    run: Path = Path("runs/demo")
    """Folder for the runs and the report."""
    splits: int = 5
    """Class orders to average over."""


Command = Pretrain | Evaluate | Embed | Demo

PERMISSIVE = PretrainConfig(epochs=10**9, batch_size=720720, optim=OptimConfig(lr=1e9, final_lr=0.0, warmup_epochs=0.0))
"""Stands in for the defaults until the images are known: no single option contradicts it (720720 = 16·9·5·7·11·13)."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, run, and turn what can go wrong into one line and an exit code: 2 for bad input, 130/143 when stopped."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in argv
    argv = [argument for argument in argv if argument != "--debug"]
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    if argv == ["--version"]:
        print(f"sdclr {__version__}")
        return
    try:
        _dispatch(_parse(argv))
    except Interrupted as stop:
        errors.print(f"{stop}; the same command goes on from there", markup=False)
        sys.exit(stop.exit_code)
    except (InputError, FloatingPointError) as error:
        if debug:
            raise
        errors.print("[bold red]error:[/]", end=" ")
        errors.print(str(error), markup=False)
        sys.exit(2 if isinstance(error, InputError) else 1)
    except KeyboardInterrupt:
        sys.exit(130)


def _parse(argv: list[str]) -> Command:
    """Read the arguments; those of `pretrain` twice, since the defaults depend on the images they name."""
    wants_help = not {"-h", "--help"}.isdisjoint(argv)
    command = _read(argv, Pretrain(source=tyro.MISSING, config=PretrainConfig() if wants_help else PERMISSIVE))
    if not isinstance(command, Pretrain):
        return command
    if command.settings is not None:
        base = from_json(PretrainConfig, read_json(command.settings))
    elif command.recipe != "auto":
        base = RECIPES[command.recipe]()
    else:
        base = for_images(select(open_source(command.source), command.subset))
    return _read(argv, Pretrain(source=tyro.MISSING, config=base))


def _read(argv: list[str], defaults: Pretrain) -> Command:
    subcommands = (
        Annotated[Pretrain, tyro.conf.subcommand("pretrain", default=defaults)]
        | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
        | Annotated[Embed, tyro.conf.subcommand("embed")]
        | Annotated[Demo, tyro.conf.subcommand("demo")]
    )
    command: Command = tyro.cli(
        subcommands,
        args=argv,
        prog="sdclr",
        description="Self-damaging contrastive learning: balanced encoders from unlabelled, long-tailed images. "
        "`sdclr COMMAND --help` explains a command; --version tells the version; --debug shows the trace of an error.",
    )
    return command


def _dispatch(command: Command) -> None:
    console = Console()
    if isinstance(command, Pretrain):
        source = select(open_source(command.source), command.subset)
        run = pretrain(source, command.config, run=command.run, runtime=command.runtime)
        if os.environ.get("RANK", "0") != "0":
            return  # torchrun started several processes: one of them speaks
        report = run_report(run, source)
        console.print(f"encoder: {run.path / 'encoder.safetensors'}\nreport:  {report}", highlight=False)
    elif isinstance(command, Evaluate):
        run = Run.open(command.run)
        result = evaluate(
            run,
            command.train,
            command.test,
            command.config,
            device=resolve_device(command.device),
            workers=_workers(command.workers),
        )
        _show(console, result)
        console.print(f"written to {run.results / f'{command.config.branch}.json'}", highlight=False)
    elif isinstance(command, Embed):
        run = Run.open(command.run)
        rows, bad = embed(
            run,
            command.source,
            command.out,
            branch=command.branch,
            batch_size=command.batch_size,
            device=resolve_device(command.device),
            workers=_workers(command.workers),
        )
        console.print(
            f"{rows} embeddings written to {command.out}; {len(bad)} images could not be read", highlight=False
        )
    else:
        tables, report = run_demo(command.run, splits=command.splits, console=console)
        for table in tables:
            console.print(table.rich())
        console.print(f"report: {report}", highlight=False)


def _workers(asked: int | None) -> int:
    return default_workers() if asked is None else asked


def _show(console: Console, result: Result) -> None:
    names = {"linear probe": result.linear, "few-shot probe": result.few_shot, "kNN": result.knn}
    console.print(balance_table({name: [score.balance] for name, score in names.items()}).rich())
