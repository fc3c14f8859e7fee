"""The commands and their options. A field is an option, its docstring the help."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from sdclr.cli.apply import Apply
from sdclr.cli.attributes import Attributes
from sdclr.cli.bench import Bench
from sdclr.cli.duplicates import Duplicates
from sdclr.cli.finetune import Finetune
from sdclr.cli.recipe import Recipe
from sdclr.cli.reproduce import Reproduce
from sdclr.data.subset import SubsetConfig
from sdclr.encoders import DEFAULT as DEFAULT_ENCODER
from sdclr.encoders.load import GRAMMAR
from sdclr.evaluation.evaluate import EvaluateConfig
from sdclr.features.nearest import Metric
from sdclr.mining.diagnose import DiagnoseConfig
from sdclr.mining.mine import MineConfig
from sdclr.mining.selection import DEFAULT, Method
from sdclr.precision import Amp
from sdclr.reporting.gallery import PAGE_IMAGES
from sdclr.training.config import PretrainConfig, Runtime
from sdclr.training.export import Format

_IMAGES_HELP = (
    "A folder of images, a .csv or .parquet manifest, a folder or file of Parquet images, digits, cifar10:FOLDER or "
    "cifar100:FOLDER. A suffix :test or :train names a split."
)
Images = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="IMAGES", help=_IMAGES_HELP)]
EncoderName = Annotated[
    str | None,
    tyro.conf.arg(metavar="ENCODER", help=f"{GRAMMAR}. By default {DEFAULT_ENCODER}."),
]
MinedEncoderName = Annotated[
    str | None,
    tyro.conf.arg(
        metavar="ENCODER",
        help=f"{GRAMMAR}; or embeddings of the images, a .parquet or .npy file. By default a small pretrained "
        f"encoder, {DEFAULT_ENCODER}.",
    ),
]
MinedImages = Annotated[
    str,
    tyro.conf.Positional,
    tyro.conf.arg(metavar="IMAGES", help=f"{_IMAGES_HELP} Or embeddings of images: a .parquet or .npy file."),
]
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

    images: Images
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
    """Measure how well, and how evenly, an encoder separates classes, with labeled images.

    Linear probe, few-shot probe and kNN: accuracy for frequent (Many), middle (Medium) and rare (Few) classes, over
    all, and the spread between the three groups (Std).

    For example:
        sdclr evaluate --train ./labeled/train --test ./labeled/test
        sdclr evaluate --encoder runs/a --train ./cifar10:train --test ./cifar10:test --branch sparse
    """

    encoder: EncoderName = None
    train: str
    """Labeled images for the probes: images as for `sdclr mine`, balanced if possible."""
    test: str
    """Labeled images of the same classes to test on."""
    out: Path | None = None
    """Folder for the results as JSON; by default results/ in the run. Without a run and --out, they are only
    printed."""
    config: Annotated[EvaluateConfig, tyro.conf.arg(name="")] = field(default_factory=EvaluateConfig)
    device: str = "auto"
    """cpu, cuda, …; auto takes a GPU if there is one."""
    workers: int | None = None
    """Processes that decode images; by default one for each core but one, at most 8."""


@dataclass(frozen=True, kw_only=True)
class Embed:
    """Write the features of images to a Parquet file: id, embedding, and label if there is one.

    A stopped command resumes. Several processes write a shard each into a folder.

    For example:
        sdclr embed ./images --out embeddings.parquet
        torchrun --nproc-per-node 4 -m sdclr -- embed ./images --encoder runs/a --out embeddings/
    """

    images: Images
    encoder: EncoderName = None
    out: Path
    """The Parquet file to write, or a folder for shards."""
    branch: Literal["dense", "sparse"] = "dense"
    """The encoder, or the pruned twin of a run's encoder."""
    image_size: int | None = None
    """Side of the view in pixels, for pretrained encoders that take more than one size."""
    batch_size: int = 512
    """Images in a forward pass."""
    amp: Amp = "auto"
    """Mixed precision; auto takes bf16 where the hardware has units for it."""
    device: str = "auto"
    """cpu, cuda, …; auto takes a GPU if there is one."""
    workers: int | None = None
    """Processes that decode images; by default one for each core but one, at most 8."""


@dataclass(frozen=True, kw_only=True)
class Mine:
    """Find the rare images of a collection, without labels, and show them on a page.

    Groups of images that are separate from the rest are kinds. Images of rare kinds come first. Writes scores.parquet,
    summary.json and rarest.html, which opens from disk. A stopped command resumes. With another score it runs again in
    seconds.

    For example:
        sdclr mine ./images
        sdclr mine ./images --encoder timm:vit_small_patch14_dinov2.lvd142m
        sdclr mine ./images --encoder runs/a --score forgetting --ratios 0.5 0.9 --csv rare.csv
        sdclr mine embeddings.parquet
    """

    images: MinedImages
    encoder: MinedEncoderName = None
    out: Path | None = None
    """Folder to write into; by default mine/ in the run, or mined/NAME for other encoders."""
    config: Annotated[MineConfig, tyro.conf.arg(name="")] = field(default_factory=MineConfig)
    csv: Path | None = None
    """Also write the ranking to a CSV file."""
    fiftyone: Path | None = None
    """Also write the ranking as a file that FiftyOne imports (its CSVDataset); the images must be files."""
    page: bool = True
    """Write the page."""
    thumbnails: int | None = None
    """How many of the rarest images get a picture on the page; by default all."""
    page_images: int = PAGE_IMAGES
    """How many of the rarest images the page lists. A browser takes long for more than 100,000."""
    device: str = "auto"
    """cpu, cuda, …; auto takes a GPU if there is one."""
    workers: int | None = None
    """Processes that decode images; by default one for each core but one, at most 8."""


@dataclass(frozen=True, kw_only=True)
class Select:
    """Choose which images to label next.

    Prints their ids in the order of choice, or writes them to a CSV file, and says how the budget was spent.

    For example:
        sdclr select ./images --budget 500 --out label_next.csv
        sdclr select ./images --budget 100 --labelled done.txt --out label_next.csv
        sdclr select ./images --encoder runs/a --budget 100
    """

    images: MinedImages
    encoder: MinedEncoderName = None
    budget: int | Literal["all"]
    """Number of images to choose. all puts all unlabeled images in order."""
    method: Method = DEFAULT
    """How to choose; docs/results/selection.md compares the methods."""
    labelled: tuple[Path, ...] = ()
    """Files with the ids of images that have labels already, one a line, or CSV files with a column id (of those that
    also have a column label, the rows with a label count). These images are not chosen, and images like them are
    avoided."""
    out: Path | None = None
    """CSV file to write: order, id, score, percentile, kind. By default ids go to standard output."""
    folder: Path | None = None
    """Folder of the scores, which are computed if they are not there; by default as for `sdclr mine`."""
    seed: int = 0
    """Decides random choices of a method."""
    device: str = "auto"
    """cpu, cuda, …; auto takes a GPU if there is one."""
    workers: int | None = None
    """Processes that decode images; by default one for each core but one, at most 8."""


@dataclass(frozen=True, kw_only=True)
class Diagnose:
    """Describe a collection without labels: its kinds, how long-tailed it seems, near-duplicates.

    For example:
        sdclr diagnose ./images
        sdclr diagnose ./images --encoder runs/a
    """

    images: Images
    encoder: EncoderName = None
    out: Path | None = None
    """JSON file to write; by default results/diagnosis.json in the run, or mined/NAME/diagnosis.json."""
    config: Annotated[DiagnoseConfig, tyro.conf.arg(name="")] = field(default_factory=DiagnoseConfig)
    device: str = "auto"
    """cpu, cuda, …; auto takes a GPU if there is one."""
    workers: int | None = None
    """Processes that decode images; by default one for each core but one, at most 8."""


@dataclass(frozen=True, kw_only=True)
class Neighbors:
    """Find the images of a collection that are most similar to other images.

    IMAGES may be embeddings that `sdclr embed` wrote, which need no second look at the images.

    For example:
        sdclr neighbors ./images --queries ./images/0001.jpg birds/17.jpg --k 20
        sdclr neighbors embeddings.parquet --queries birds/17.jpg --out near.csv
        sdclr neighbors embeddings.parquet --encoder runs/a --queries strange.jpg
    """

    images: MinedImages
    encoder: EncoderName = None
    queries: tuple[str, ...]
    """Ids of images in the collection, or paths of other image files."""
    k: int = 10
    """Number of neighbors of each query."""
    metric: Metric = "cosine"
    """cosine: 1 minus the cosine; euclidean: the distance of the features as they are."""
    out: Path | None = None
    """A .csv or .parquet file to write; by default neighbors go to standard output."""
    device: str = "auto"
    """cpu, cuda, …; auto takes a GPU if there is one."""
    workers: int | None = None
    """Processes that decode images; by default one for each core but one, at most 8."""


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write an encoder for other tools, with a model card. Each file is read back and compared.

    For example:
        sdclr export runs/a exported/
        sdclr export runs/a exported/ --formats onnx
        sdclr export timm:tf_efficientnet_lite0 exported/
    """

    encoder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ENCODER", help=f"The encoder: {GRAMMAR}.")]
    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER", help="A new folder.")]
    formats: tuple[Format, ...] | None = None
    """Formats to write; by default every format that can hold this encoder."""


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
    """Find the rare kinds among handwritten digits that come with scikit-learn, and show them on a page.

    Takes half a minute on two cores. With --train it compares SimCLR and SDCLR on a long tail of digits instead, which
    takes two to three minutes and ends with two tables and RUN/report.html.
    """

    run: Path = Path("runs/demo")
    """Folder for the page, or for the runs and the report."""
    train: bool = False
    """Train and compare SimCLR and SDCLR."""
    splits: int = 5
    """Class orders to average over, with --train."""


Command = (
    Pretrain
    | Evaluate
    | Attributes
    | Embed
    | Mine
    | Select
    | Apply
    | Diagnose
    | Duplicates
    | Neighbors
    | Export
    | Report
    | Finetune
    | Reproduce
    | Bench
    | Recipe
    | Demo
)
