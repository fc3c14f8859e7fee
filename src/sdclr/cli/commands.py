"""The commands and their options. A field is an option, its docstring the help."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from sdclr.cli.attributes import Attributes
from sdclr.cli.bench import Bench
from sdclr.cli.finetune import Finetune
from sdclr.cli.recipe import Recipe
from sdclr.cli.reproduce import Reproduce
from sdclr.data.subset import SubsetConfig
from sdclr.evaluation.diagnose import DiagnoseConfig
from sdclr.evaluation.evaluate import EvaluateConfig
from sdclr.features.nearest import Metric
from sdclr.mining.mine import MineConfig
from sdclr.mining.selection import DEFAULT, Method
from sdclr.precision import Amp
from sdclr.training.config import PretrainConfig, Runtime
from sdclr.training.export import Format

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
RecipeName = Literal["auto", "cifar_lt", "imagenet100_lt", "imagenet_lt", "digits_demo"]


@dataclass(frozen=True, kw_only=True)
class Pretrain:
    """Train an encoder on images without labels, or go on with a run that was stopped.

    Ctrl-C stops after the step at hand with everything saved; the same command again goes on. With no options the
    settings follow from the images and the machine. On several GPUs: torchrun --nproc-per-node 4 -m sdclr -- pretrain …

    For example:
        sdclr pretrain ./images --run runs/a
        sdclr pretrain ./images --run runs/b --epochs 400 --damage.ratio 0.5 --encoder.name resnet34
        sdclr pretrain ./images --run runs/c --start timm:tf_efficientnet_lite0
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

    Stopped, it goes on where it was. Into a folder, several processes write a shard each.

    For example:
        sdclr embed runs/a ./images --out embeddings.parquet
        torchrun --nproc-per-node 4 -m sdclr -- embed runs/a ./images --out embeddings/
    """

    run: RunFolder
    source: Source
    out: Path
    """The Parquet file to write, or a folder for shards."""
    branch: Literal["dense", "sparse"] = "dense"
    """The encoder, or its pruned twin."""
    batch_size: int = 512
    """Images a forward pass."""
    amp: Amp = "auto"
    """Mixed precision; auto takes bf16 where the hardware has units for it."""
    device: str = "auto"
    """cpu, cuda, …; auto takes a GPU if there is one."""
    workers: int | None = None
    """Processes that decode images; by default one for each core but one, 8 at the most."""


@dataclass(frozen=True, kw_only=True)
class Mine:
    """Rank the images of a collection by rarity, without labels, and show them on a page, the rarest first.

    Writes scores.parquet, summary.json and rarest.html, which opens from disk. Stopped, it goes on where it was; called
    again with another score, it needs no second look at the images.

    For example:
        sdclr mine runs/a ./images
        sdclr mine runs/a ./images --score forgetting --ratios 0.5 0.9 --csv rare.csv
    """

    run: RunFolder
    source: Source
    out: Path | None = None
    """Folder to write into; by default mine/ in the run."""
    config: Annotated[MineConfig, tyro.conf.arg(name="")] = field(default_factory=MineConfig)
    csv: Path | None = None
    """Write the ranking to a CSV file, too."""
    fiftyone: Path | None = None
    """Write the ranking as a file that FiftyOne imports (its CSVDataset), too; the images must be files."""
    page: bool = True
    """Write the page."""
    thumbnails: int | None = None
    """How many of the rarest images get a picture on the page; by default all."""
    device: str = "auto"
    """cpu, cuda, …; auto takes a GPU if there is one."""
    workers: int | None = None
    """Processes that decode images; by default one for each core but one, 8 at the most."""


@dataclass(frozen=True, kw_only=True)
class Select:
    """Choose which images to label next: rare ones, of as many kinds as there are.

    Prints their ids in the order of choice, or writes them to a CSV file.

    For example:
        sdclr select runs/a ./images --budget 500 --out label_next.csv
        sdclr select runs/a ./images --budget 100 --labelled done.txt
    """

    run: RunFolder
    source: Source
    budget: int
    """Images to choose."""
    method: Method = DEFAULT
    """How to choose; docs/results/selection.md compares them."""
    labelled: Path | None = None
    """A file with the ids of images that have labels already, one a line: they are not chosen, and what is like them
    is avoided."""
    out: Path | None = None
    """CSV file to write: order, id, score, percentile, cluster. By default ids go to standard output."""
    folder: Path | None = None
    """Folder of the scores, which are computed if they are not there; by default mine/ in the run."""
    seed: int = 0
    """Decides what a method leaves to chance."""
    device: str = "auto"
    """cpu, cuda, …; auto takes a GPU if there is one."""
    workers: int | None = None
    """Processes that decode images; by default one for each core but one, 8 at the most."""


@dataclass(frozen=True, kw_only=True)
class Diagnose:
    """Say without labels how long-tailed a collection seems, and how evenly a run's encoder serves it.

    Results go to RUN/results/diagnosis.json.

    For example:
        sdclr diagnose runs/a ./images
    """

    run: RunFolder
    source: Source
    config: Annotated[DiagnoseConfig, tyro.conf.arg(name="")] = field(default_factory=DiagnoseConfig)
    device: str = "auto"
    """cpu, cuda, …; auto takes a GPU if there is one."""
    workers: int | None = None
    """Processes that decode images; by default one for each core but one, 8 at the most."""


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """Find the images of a collection that are most like some others.

    SOURCE is a source of images, or embeddings that `sdclr embed` wrote, which takes no second look at the images.

    For example:
        sdclr neighbours runs/a ./images --queries ./images/0001.jpg birds/17.jpg --k 20
        sdclr neighbours runs/a embeddings.parquet --queries birds/17.jpg --out near.csv
    """

    run: RunFolder
    source: Source
    queries: tuple[str, ...]
    """Ids of images in the source, or paths of others."""
    k: int = 10
    """Neighbours of each."""
    metric: Metric = "cosine"
    """cosine: 1 minus the cosine; euclidean: the distance of the features as they are."""
    out: Path | None = None
    """A .csv or .parquet file to write; by default neighbours go to standard output."""
    device: str = "auto"
    """cpu, cuda, …; auto takes a GPU if there is one."""
    workers: int | None = None
    """Processes that decode images; by default one for each core but one, 8 at the most."""


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a run's encoder for other tools, each file read back and compared, with a model card.

    For example:
        sdclr export runs/a exported/
        sdclr export runs/a exported/ --formats onnx
    """

    run: RunFolder
    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER", help="A new folder.")]
    formats: tuple[Format, ...] | None = None
    """What to write; by default every format that can hold this encoder."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write a report on one run, or on several side by side: curves, balance, pruning by layer, pictures.

    For example:
        sdclr report runs/a
        sdclr report runs/a runs/b --source ./images --out report.html --figures figures/
    """

    runs: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]", help="Folders of runs.")
    ]
    source: str | None = None
    """The images, to show examples and views."""
    out: Path | None = None
    """The HTML file; by default report.html in the run, or here if there are several."""
    figures: Path | None = None
    """A folder for the figures as SVG and PNG files."""
    results: Path | None = None
    """Results that `sdclr reproduce` wrote, to be shown as tables."""


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Train SimCLR and SDCLR on handwritten digits that come with scikit-learn, made long-tailed, and compare them.

    Takes two to three minutes on two cores; ends with two tables and RUN/report.html.
    """

    run: Path = Path("runs/demo")
    """Folder for the runs and the report."""
    splits: int = 5
    """Class orders to average over."""


Command = (
    Pretrain
    | Evaluate
    | Attributes
    | Embed
    | Mine
    | Select
    | Diagnose
    | Neighbours
    | Export
    | Report
    | Finetune
    | Reproduce
    | Bench
    | Recipe
    | Demo
)
