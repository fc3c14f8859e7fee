"""The card of an exported encoder: architecture, training, use and limits."""

from collections.abc import Mapping, Sequence
from typing import Any

from sdclr.config import to_json
from sdclr.encoders import SMALL_SIDE, Encoder
from sdclr.files import read_json
from sdclr.training.card_usage import Architecture, how_to_use
from sdclr.training.config import CONTRASTIVE, FRAMEWORK_NAMES, REBALANCER_NAMES, FrameworkName
from sdclr.training.resolve import ResolvedEncoder
from sdclr.training.run import Run, read_evaluation
from sdclr.training.start import Start, start_of
from sdclr.version import __version__


def preprocessing(encoder: Encoder) -> dict[str, Any]:
    """The preprocessing of images for the encoder, as plain JSON."""
    size, seen = encoder.image_size, encoder.preprocessing
    return {
        "format": "sdclr-preprocessing-1",
        "image_size": size,
        "mode": "RGB, upright (EXIF orientation applied), transparency laid over white",
        **({"intensities": to_json(seen.intensities)} if seen.intensities else {}),
        "small_images": {
            "up_to_side": SMALL_SIDE,
            "resize": [size, size],
            "interpolation": f"{seen.interpolation}, antialiased",
        },
        "other_images": {
            "resize_shorter_side": seen.resized_side,
            "interpolation": f"{seen.interpolation}, antialiased",
            "center_crop": [size, size],
        },
        "range": [0.0, 1.0],
        "mean": list(encoder.config.mean),
        "std": list(encoder.config.std),
        "onnx_input": f"images: uint8 (N, 3, {size}, {size}); range, mean and std are inside the graph",
        "features": encoder.num_features,
    }


def model_card(resolved: ResolvedEncoder, architecture: Architecture, *, formats: Sequence[str]) -> str:
    """The card as Markdown, with metadata for model hubs.

    Args:
        resolved: The encoder, and its run if it has one.
        architecture: Architecture of its backbone.
        formats: The exported formats.
    """
    run, encoder = resolved.run, resolved.encoder
    head = ["---"]
    if "timm" in formats and architecture.plain:
        head.append("library_name: timm")
    tags = ["sdclr"] if run is None else ["self-supervised", "long-tailed", "sdclr"]
    head += ["pipeline_tag: image-feature-extraction", "tags:", *(f"- {tag}" for tag in tags), "---"]
    sections = [
        "\n".join(head),
        f"# {_plain(resolved.short_name)}",
        *(_pretrained(encoder, architecture) if run is None else _of_run(run, encoder, architecture)),
        "## Use\n\n" + how_to_use(encoder, architecture, formats),
        "## Limits\n\n" + (_pretrained_limits(encoder) if run is None else _limits(run)),
        "## License\n\n" + (_license(encoder) if run is None else _run_license(run)),
        f"Exported by sdclr {__version__}.",
    ]
    return "\n\n".join(sections) + "\n"


def _of_run(run: Run, encoder: Encoder, architecture: Architecture) -> list[str]:
    """Sections for an encoder that a run trained."""
    return [
        _introduction(run, encoder, architecture),
        "## Training images\n\n" + _training_set(run),
        "## Training\n\n" + _training(run),
        "## Results\n\n" + _results(run),
    ]


def _pretrained(encoder: Encoder, architecture: Architecture) -> list[str]:
    """Sections for a pretrained encoder without a run."""
    size, weights = encoder.image_size, sum(parameter.numel() for parameter in encoder.parameters())
    origin = "Weights of unknown origin." if encoder.origin is None else f"Weights: {_plain(encoder.origin.sentence)}."
    introduction = (
        f"A pretrained image encoder, unchanged. `{architecture.name}`; {weights:,} weights. It maps RGB "
        f"images of {size} x {size} px to {encoder.num_features} features."
    )
    return [
        introduction,
        f"## Origin\n\n{origin}",
    ]


def _pretrained_limits(encoder: Encoder) -> str:
    labels = None if encoder.origin is None else encoder.origin.labels
    return f"{_LABELS[labels]}\n{_PRETRAINED_LIMITS}"


def _license(encoder: Encoder) -> str:
    stated = None if encoder.origin is None else encoder.origin.license
    if stated is None:
        return "Unknown: check the terms before you use or publish these weights."
    return (
        f"Of the published weights: {_plain(stated)}. This card does not state whether the terms of the training "
        "images allow a use."
    )


def _run_license(run: Run) -> str:
    start = start_of(run)
    if start is None:
        return "Not stated: choose a license when you publish this encoder, and check the terms of the training images."
    license_ = f"the license {_plain(start.license)}" if start.license else "an unknown license"
    return (
        "Not stated: choose a license when you publish this encoder, and check the terms of the training images. The "
        f"start weights are under {license_}, which still applies."
    )


def _limits(run: Run) -> str:
    start = start_of(run)
    taught = "Trained without labels" if start is None or start.labels is False else _TAUGHT[start.labels]
    carried = "The encoder inherits the bias of its training images"
    if start is not None:
        carried += " and of the training images of its start weights"
    return _LIMITS.format(taught=taught, carried=carried)


_TAUGHT: Mapping[bool | None, str] = {
    True: "The start weights were trained with labels of other images; the encoder was adapted without labels",
    None: "The start weights may have been trained with labels of other images; the encoder was adapted without labels",
}

_LABELS: Mapping[bool | None, str] = {
    True: "- Trained with labels: features separate the classes of the training set best, other images less well.",
    False: "- Trained without class labels: features describe visual similarity, not the content of an image.",
    None: "- It is not known whether the weights were trained with class labels.",
}

_PRETRAINED_LIMITS = """\
- Test the encoder on the images of your application. To predict classes, train a probe with your own labels.
- The encoder inherits the bias of its training images. It has not learned groups of people or places that are missing
  from them.
- It was trained on images of the size above; at another size features change."""

_LIMITS = """\
- {taught}: features describe visual similarity, not the content of an image. To predict classes, train a probe with
  your own labels, and test it on the images of your application.
- Features of rare classes are worse than those of frequent classes; see the results, if there are any. Training against
  a pruned copy aims to reduce this difference and does not remove it.
- {carried}. It has not learned groups of people or places that are missing from them.
- It was trained on images of the size above; at another size features change."""


_FRAMEWORKS: Mapping[FrameworkName, tuple[str, str]] = {
    "simclr": ("Chen et al., ICML 2020", "NT-Xent"),
    "moco": ("Chen et al., 2020", "InfoNCE over a queue"),
    "moco_v3": ("Chen et al., ICCV 2021", "InfoNCE within a batch, keys of a momentum network"),
    "byol": ("Grill et al., NeurIPS 2020", "cosine distance to the outputs of a momentum network"),
    "simsiam": ("Chen and He, CVPR 2021", "cosine distance with a stopped gradient"),
    "barlow_twins": ("Zbontar et al., ICML 2021", "cross-correlation of features against the identity"),
    "vicreg": ("Bardes et al., ICLR 2022", "invariance, variance and covariance"),
}
"""Source and loss of each framework."""


def _introduction(run: Run, encoder: Encoder, architecture: Architecture) -> str:
    damage, name = run.config.damage, run.config.framework
    framework = f"{FRAMEWORK_NAMES[name]} ({_FRAMEWORKS[name][0]})"
    method = {
        "none": framework,
        "prune": "self-damaging contrastive learning (SDCLR; Jiang et al., ICML 2021), contrasted with a copy of "
        f"itself with {damage.share} of its weights pruned"
        + ("" if run.config.framework == "simclr" else f", in the framework of {framework}"),
        "random": f"{framework}, contrasted with a copy of itself with {damage.share} of its weights removed at random",
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
    """The encoder's initial weights, and the use of labels."""
    if start is None:
        return "An image encoder trained without labels"
    return f"An image encoder that started from the weights {_started_from(start)} and was adapted without labels"


def _training_set(run: Run) -> str:
    source = run.source if run.source_file.is_file() else {}
    if not source:
        return "Not recorded."
    rows = [("name", f"`{_plain(source.get('name', ''))}`"), ("images", f"{source.get('images', 0):,}")]
    if source.get("bad_images"):
        rows.append(("left out because they could not be decoded", f"{source.get('bad_images', 0):,}"))
    rows.append(("labels used in training", "none"))
    start = start_of(run)
    if start is not None:
        rows.append(("start weights", _started_from(start)))
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
    norm = {
        True: "separate normalization",
        False: "shared normalization",
        "statistics": "separate normalization statistics",
    }
    own = norm[damage.independent_norm]
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
        ("batch-norm statistics of the encoder", "fixed" if config.fixes_statistics else "of its batches"),
        ("loss", loss),
        ("rebalancers", ", ".join(REBALANCER_NAMES[name] for name in config.rebalance) or "none"),
        ("length", config.length),
        ("images per step", f"{config.batch_size:,}"),
        ("optimizer", f"{optim.name}, learning rate {optim.lr:g}, weight decay {optim.weight_decay:g}"),
        ("projection head, not included", f"{config.head.layers} layers to {config.head.dim}"),
        ("precision", _precision(run)),
        ("seed", str(config.seed)),
    ]
    return _table(("", ""), rows)


def _precision(run: Run) -> str:
    told = dict.fromkeys(
        f"{session['precision']} on {session.get('device', 'an unknown device')}" for session in run.sessions()
    )
    return ", ".join(told) or "not recorded"


def _results(run: Run) -> str:
    names = {"linear": "linear probe", "few_shot": "few-shot probe", "knn": "kNN"}
    columns = ("many", "medium", "few", "all", "std")
    rows, notes = [], []
    for file in sorted(run.results.glob("*.json")):
        result = read_json(file)
        if result.get("branch", "dense") != "dense" or not all(name in result for name in names):
            continue
        read_evaluation(file)  # checks the file
        for name, title in names.items():
            figures = [result[name]["balance"][column] for column in columns]
            rows.append((title, *("-" if figure is None else f"{figure:.1f}" for figure in figures)))
        sets = [result.get(part, {}) for part in ("train", "test")]
        notes.append(
            "Accuracy in percent, by the frequency of a class in training; Std is the spread of the three groups. "
            "Probes: "
            + ", ".join(f"{part.get('images', 0):,} images of `{_plain(part.get('name', ''))}`" for part in sets)
            + " (train, test)."
        )
    if not rows:
        return "None yet: `sdclr evaluate` measures the accuracy for frequent and rare classes."
    return "\n\n".join([_table(("", "Many", "Medium", "Few", "All", "Std"), rows), *notes])


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _plain(text: Any, *, forbidden: str = "`|<>*_[]#&\\") -> str:
    """Remove characters that Markdown or HTML would interpret from an untrusted name."""
    return "".join(character for character in str(text) if character.isprintable() and character not in forbidden)


def _started_from(start: Start) -> str:
    """The weights by name, with license and use of labels. Underscores stay, because names of models contain them."""
    return _plain(start.words, forbidden="`|<>*[]#&\\")
