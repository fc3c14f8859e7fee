"""The card of an exported encoder: what it is, what it was trained on, how to use it, what it is not."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from timm.models.resnet import ResNet
from torch import nn

from sdclr.encoders import CIFAR_RESNETS, CifarResNet, Encoder, timm_options
from sdclr.training.config import CONTRASTIVE, FRAMEWORK_NAMES, REBALANCER_NAMES, FrameworkName
from sdclr.training.run import Run, read_json
from sdclr.training.start import Start, start_of
from sdclr.version import __version__

SMALL_SIDE = 96
"""Images up to this many pixels on both sides are seen whole, as in the evaluation."""


@dataclass(frozen=True)
class Architecture:
    """How a backbone is made without this package."""

    name: str
    """timm's, without the tag of pretrained weights."""
    arguments: dict[str, Any]
    """What `timm.create_model` must be told besides."""
    small_stem: bool
    """A ResNet with one 3x3 convolution of stride 1 and no max-pooling."""
    narrow: int | None
    """A ResNet's channels in the first stage, where they are not 64."""

    @property
    def plain(self) -> bool:
        """Whether timm makes it by itself."""
        return not self.small_stem and self.narrow is None

    @classmethod
    def of(cls, encoder: Encoder) -> "Architecture":
        """The architecture of an encoder as `create_encoder` made it."""
        config, backbone = encoder.config, encoder.backbone
        arguments = {} if config.name in CIFAR_RESNETS else timm_options(config, encoder.image_size)
        if config.width == 64:
            arguments.pop("channels", None)
        small = isinstance(backbone, ResNet) and isinstance(getattr(backbone, "maxpool", None), nn.Identity)
        narrow = config.width if isinstance(backbone, ResNet | CifarResNet) and config.width != 64 else None
        return cls(config.name.partition(".")[0], arguments, small_stem=small, narrow=narrow)


def preprocessing(encoder: Encoder) -> dict[str, Any]:
    """How images become what the encoder takes, as plain JSON."""
    size = encoder.image_size
    return {
        "format": "sdclr-preprocessing-1",
        "image_size": size,
        "mode": "RGB, upright (EXIF orientation applied), transparency laid over white",
        "small_images": {"up_to_side": SMALL_SIDE, "resize": [size, size], "interpolation": "bicubic, antialiased"},
        "other_images": {
            "resize_shorter_side": round(size * 256 / 224),
            "interpolation": "bicubic, antialiased",
            "centre_crop": [size, size],
        },
        "range": [0.0, 1.0],
        "mean": list(encoder.config.mean),
        "std": list(encoder.config.std),
        "onnx_input": f"images: uint8 (N, 3, {size}, {size}); range, mean and std are inside the graph",
        "features": encoder.num_features,
    }


def model_card(run: Run, encoder: Encoder, architecture: Architecture, *, formats: Sequence[str]) -> str:
    """The card as Markdown, with a head that model hubs read.

    Args:
        run: Where the encoder comes from.
        encoder: The encoder.
        architecture: How its backbone is made.
        formats: The formats that lie beside the card.
    """
    head = ["---"]
    if "timm" in formats and architecture.plain:
        head.append("library_name: timm")
    head += ["pipeline_tag: image-feature-extraction", "tags:", "- self-supervised", "- long-tailed", "- sdclr", "---"]
    sections = [
        "\n".join(head),
        f"# {_plain(run.path.resolve().name)}",
        _introduction(run, encoder, architecture),
        "## What it was trained on\n\n" + _training_set(run),
        "## How it was trained\n\n" + _training(run),
        "## Results\n\n" + _results(run),
        "## Use\n\n" + _use(encoder, architecture, formats),
        "## Limits\n\n" + _limits(run),
        "## Licence\n\n" + _licence(run),
        f"Exported by sdclr {__version__}.",
    ]
    return "\n\n".join(sections) + "\n"


def _licence(run: Run) -> str:
    start = start_of(run)
    terms = "the terms of the images it was trained on allow it"
    if start is None:
        return f"Not stated here: whoever publishes this encoder says under which terms, and whether {terms}."
    license_ = f"the license {_plain(start.license)}" if start.license else "a license that is not known here"
    return (
        f"Not stated here: whoever publishes this encoder says under which terms. The weights that it started from are "
        f"under {license_}, which goes on to apply; and it has to be made sure that {terms}."
    )


def _limits(run: Run) -> str:
    start = start_of(run)
    taught = "Trained without labels" if start is None or start.labels is False else _TAUGHT[start.labels]
    carried = "The encoder carries whatever bias its images carry"
    if start is not None:
        carried += ", and those that the weights it started from were trained on"
    return _LIMITS.format(taught=taught, carried=carried)


_TAUGHT: Mapping[bool | None, str] = {
    True: "Labels of other images trained the weights that it started from; it was adapted without labels",
    None: "Labels of other images may have trained the weights that it started from; it was adapted without labels",
}

_LIMITS = """\
- {taught}: features say what looks alike, not what an image is of. A use needs labels of its own for a probe, and a
  check on the images it will meet.
- What was rare in the training images is served less well than what was frequent; how much less, the results say where
  there are any. Training against a pruned copy is meant to lessen that and does not undo it.
- {carried}. Groups of people or places that they lack, it has not learned.
- It knows images of the size above; at another size features change."""


_FRAMEWORKS: Mapping[FrameworkName, tuple[str, str]] = {
    "simclr": ("Chen et al., ICML 2020", "NT-Xent"),
    "moco": ("Chen et al., 2020", "InfoNCE over a queue"),
    "moco_v3": ("Chen et al., ICCV 2021", "InfoNCE within a batch, keys of a momentum network"),
    "byol": ("Grill et al., NeurIPS 2020", "cosine distance to what a momentum network gives"),
    "simsiam": ("Chen and He, CVPR 2021", "cosine distance with a stopped gradient"),
    "barlow_twins": ("Zbontar et al., ICML 2021", "cross-correlation of features against the identity"),
    "vicreg": ("Bardes et al., ICLR 2022", "invariance, variance and covariance"),
}
"""Where each is from, and its loss in words."""


def _introduction(run: Run, encoder: Encoder, architecture: Architecture) -> str:
    damage, name = run.config.damage, run.config.framework
    framework = f"{FRAMEWORK_NAMES[name]} ({_FRAMEWORKS[name][0]})"
    method = {
        "none": framework,
        "prune": "self-damaging contrastive learning (SDCLR; Jiang et al., ICML 2021), contrasted with a copy of "
        f"itself that lacks {damage.share} of its weights"
        + ("" if run.config.framework == "simclr" else f", in the framework of {framework}"),
        "random": f"{framework}, contrasted with a copy of itself that lacks {damage.share} of its weights, chosen "
        "at random",
        "dropout": f"{framework}, contrasted with itself under dropout of {damage.share}",
    }[damage.kind]
    shape = [f"`{architecture.name}`"]
    if architecture.narrow is not None:
        shape.append(f"{architecture.narrow} channels in the first stage")
    if architecture.small_stem:
        shape.append("a 3x3 stem without max-pooling, for small images")
    weights = sum(parameter.numel() for parameter in encoder.parameters())
    size = encoder.image_size
    return (
        f"{_trained(start_of(run))} by {method}. {', '.join(shape)}; {weights:,} weights. It maps RGB images of "
        f"{size} x {size} px to {encoder.num_features} features."
    )


def _trained(start: Start | None) -> str:
    """What made it, up to the method; labels are named wherever they had a part."""
    if start is None:
        return "An image encoder trained without labels"
    return f"An image encoder that started from the weights {_started_from(start)} and was adapted without labels"


def _training_set(run: Run) -> str:
    source = run.source if run.source_file.is_file() else {}
    if not source:
        return "Not recorded."
    rows = [("name", f"`{_plain(source.get('name', ''))}`"), ("images", f"{source.get('images', 0):,}")]
    if source.get("bad_images"):
        rows.append(("left out, since they could not be decoded", f"{source['bad_images']:,}"))
    rows.append(("labels shown to training", "none"))
    start = start_of(run)
    if start is not None:
        rows.append(("weights that it started from", _started_from(start)))
        rows.append(("SHA-256 of these", f"`{start.sha256[:16]}`"))
    counts = source.get("class_counts")
    if counts:
        rows.append(("classes, by labels that training did not see", str(len(counts))))
        rows.append(("images of the largest and the smallest class", f"{max(counts):,} and {min(counts):,}"))
    rows.append(("fingerprint of the images' ids", f"`{str(source.get('fingerprint', ''))[:16]}`"))
    return _table(("", ""), rows)


def _training(run: Run) -> str:
    config = run.config
    damage, optim = config.damage, config.optim
    norm = {True: "normalisation", False: "no normalisation", "statistics": "normalisation statistics"}
    own = f"{norm[damage.independent_norm]} of its own"
    share = damage.share
    second = {
        "none": "the network itself",
        "prune": f"{share} of the encoder's weights pruned ({damage.scope} threshold), {own}",
        "random": f"{share} of the encoder's weights pruned at random, {own}",
        "dropout": f"{share} of the encoder's activations dropped, {own}",
    }[damage.kind]
    loss = _FRAMEWORKS[config.framework][1]
    if config.framework in CONTRASTIVE:
        loss += f", temperature {config.temperature:g}"
    rows = [
        ("second branch", second),
        ("batch-norm statistics of the encoder", "as at the start" if config.fixes_statistics else "of its batches"),
        ("loss", loss),
        ("rebalanced by", ", ".join(REBALANCER_NAMES[name] for name in config.rebalance) or "nothing"),
        ("epochs", f"{config.epochs:,}"),
        ("images a step", f"{config.batch_size:,}"),
        ("optimiser", f"{optim.name}, learning rate {optim.lr:g}, weight decay {optim.weight_decay:g}"),
        ("projection head, left out here", f"{config.head.layers} layers to {config.head.dim}"),
        ("precision", _precision(run)),
        ("seed", str(config.seed)),
    ]
    return _table(("", ""), rows)


def _precision(run: Run) -> str:
    if not run.sittings_file.is_file():
        return "not recorded"
    sittings = [json.loads(line) for line in run.sittings_file.read_text().splitlines()]
    return ", ".join(dict.fromkeys(f"{sitting['precision']} on {sitting['device']}" for sitting in sittings))


def _results(run: Run) -> str:
    names = {"linear": "linear probe", "few_shot": "few-shot probe", "knn": "kNN"}
    columns = ("many", "medium", "few", "all", "std")
    rows, notes = [], []
    for file in sorted(run.results.glob("*.json")):
        result = read_json(file)
        if result.get("branch", "dense") != "dense" or not all(name in result for name in names):
            continue
        for name, title in names.items():
            figures = [result[name]["balance"].get(column) for column in columns]
            rows.append((title, *("-" if figure is None else f"{figure:.1f}" for figure in figures)))
        sets = [result.get(part, {}) for part in ("train", "test")]
        notes.append(
            "Accuracy in percent, by how frequent a class was in training; Std is the spread of the three groups. "
            "Probes: "
            + ", ".join(f"{part.get('images', 0):,} images of `{_plain(part.get('name', ''))}`" for part in sets)
            + " (train, test)."
        )
    if not rows:
        return "None yet: `sdclr evaluate` measures how evenly an encoder serves frequent and rare classes."
    return "\n\n".join([_table(("", "Many", "Medium", "Few", "All", "Std"), rows), *notes])


def _use(encoder: Encoder, architecture: Architecture, formats: Sequence[str]) -> str:
    size, shorter = encoder.image_size, round(encoder.image_size * 256 / 224)
    views = (
        f"Images become RGB, upright, transparency laid over white. Those with both sides up to {SMALL_SIDE} px are "
        f"resized whole to {size} x {size}; of others the shorter side becomes {shorter} px and the centre is cut out. "
        "`preprocessing.json` says the same to programs. In the folder of this card:"
    )
    parts = [views, _code(_PREPARE.format(small=SMALL_SIDE, size=size, shorter=shorter))]
    mean, std = (list(values) for values in (encoder.config.mean, encoder.config.std))
    features = f"""\
mean = torch.tensor({mean}).view(1, 3, 1, 1)
std = torch.tensor({std}).view(1, 3, 1, 1)

with torch.inference_mode():
    images = (prepare(Image.open("image.jpg")) / 255 - mean) / std
    features = model.eval()(images)  # (1, {encoder.num_features})"""
    if "timm" in formats:
        parts += ["### timm", _code(_timm_lines(architecture) + "\n\n" + features)]
        if architecture.plain:
            call = '`timm.create_model("local-dir:FOLDER", pretrained=True)`'
            parts.append(f"Or {call}, with this folder's path for FOLDER; on a hub, `hf-hub:` and its name there.")
    if "torchvision" in formats:
        lines = (
            f"import torchvision\nfrom safetensors.torch import load_file\n\n"
            f"model = torchvision.models.{architecture.name}()\n"
            'model.load_state_dict(load_file("model.safetensors"), strict=False)  # all but fc\n'
            "model.fc = torch.nn.Identity()"
        )
        parts += ["### torchvision", _code(lines + "\n\n" + features)]
    if "onnx" in formats:
        lines = (
            'import onnxruntime\n\nsession = onnxruntime.InferenceSession("encoder.onnx")\n'
            'images = prepare(Image.open("image.jpg")).numpy()  # uint8; normalisation is inside\n'
            f'(features,) = session.run(None, {{"images": images}})  # (1, {encoder.num_features})'
        )
        parts += ["### ONNX Runtime", _code(lines)]
    return "\n\n".join(parts)


_PREPARE = """\
import torch
from PIL import Image, ImageOps
from torchvision.transforms import v2


def prepare(image):
    image = ImageOps.exif_transpose(image).convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    bicubic = v2.InterpolationMode.BICUBIC
    if max(image.size) <= {small}:
        view = v2.Resize(({size}, {size}), bicubic)(image)
    else:
        view = v2.CenterCrop({size})(v2.Resize({shorter}, bicubic)(image))
    return v2.functional.pil_to_tensor(view)[None]  # uint8 (1, 3, {size}, {size})"""


def _timm_lines(architecture: Architecture) -> str:
    arguments = "".join(f", {name}={value!r}" for name, value in architecture.arguments.items())
    call = f"timm.create_model({architecture.name!r}, num_classes=0{arguments}"
    if architecture.plain:
        return f'import timm\n\nmodel = {call}, checkpoint_path="model.safetensors")'
    lines = ["import timm", "from safetensors.torch import load_file", "from torch import nn"]
    width = architecture.narrow or 64
    if architecture.narrow is not None:
        lines.append("from timm.models.resnet import make_blocks")
    lines += ["", f"model = {call})"]
    kernel, stride = (3, 1) if architecture.small_stem else (7, 2)
    lines.append(f"model.conv1 = nn.Conv2d(3, {width}, {kernel}, stride={stride}, padding={kernel // 2}, bias=False)")
    if architecture.small_stem:
        lines.append("model.maxpool = nn.Identity()")
    if architecture.narrow is not None:
        lines += [
            "block, depth = type(model.layer1[0]), len(model.layer1)",
            f"model.layer1 = make_blocks((block,), ({width},), (depth,), {width})[0][0][1]",
            f"model.bn1 = nn.BatchNorm2d({width})",
        ]
    lines.append('model.load_state_dict(load_file("model.safetensors"))')
    return "\n".join(lines)


def _code(lines: str) -> str:
    return f"```python\n{lines}\n```"


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _plain(text: Any, *, forbidden: str = "`|<>*_[]#&\\") -> str:
    """A name that came from outside, without what Markdown or HTML would make something of."""
    return "".join(character for character in str(text) if character.isprintable() and character not in forbidden)


def _started_from(start: Start) -> str:
    """The weights by name, their license, and what taught them. Underscores stay: names of models are full of them."""
    return _plain(start.words, forbidden="`|<>*[]#&\\")
