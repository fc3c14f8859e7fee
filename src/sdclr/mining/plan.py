"""The encoder, networks and output folder of a pass over images, from an encoder's name and the settings."""

from pathlib import Path

from sdclr.data.sources import Source
from sdclr.encoders import Encoder
from sdclr.errors import InputError
from sdclr.features.embeddings import EmbeddedImages, Embeddings
from sdclr.mining.config import MineConfig
from sdclr.mining.forgetting import Networks, load_networks, pruned_copies
from sdclr.mining.reading import Plan
from sdclr.training.resolve import ResolvedEncoder
from sdclr.views.config import ViewConfig


def default_folder(source: Source, used: ResolvedEncoder | Embeddings) -> Path:
    """Default result folder by collection name: in the run's folder, otherwise `mined/NAME` in the current folder."""
    if isinstance(used, ResolvedEncoder) and used.run is not None:
        trained_on = used.run.source["name"] if used.run.source_file.is_file() else source.name
        other = "" if source.name == trained_on else "-" + source.name.replace("/", "-")
        return used.run.path / f"mine{other}"
    name = Path(source.name).stem if isinstance(source, EmbeddedImages) else source.name
    return Path("mined") / (name.replace("/", "-") or "images")


def passes(used: ResolvedEncoder | Embeddings, config: MineConfig) -> int:
    """Forward passes per image: more than one if pruned copies of the encoder are compared with it."""
    ratios = () if isinstance(used, Embeddings) else ratios_of(used, config)
    return config.views * (1 + len(ratios)) if ratios else 1


def ratios_of(used: ResolvedEncoder, config: MineConfig) -> tuple[float, ...]:
    """Pruning ratios to measure forgetting at.

    Raises:
        InputError: The settings need a run or a ratio, and there is none.
    """
    wish = config.needs_run()
    if wish is not None:
        used.require_run(wish)
    own = (
        (used.run.pruned_fraction,) if used.run is not None and used.run.pruned_fraction else ()
    )  # an adaptive ratio may end at 0
    ratios = own if config.ratios is None else tuple(dict.fromkeys(config.ratios))
    if config.score == "forgetting" and not ratios:
        raise InputError(
            f"{used.name} was not pruned in training: give --ratios 0.5, or another --score than forgetting"
        )
    return ratios


def networks_of(used: ResolvedEncoder, config: MineConfig) -> tuple[Encoder, list[Networks], Plan]:
    """The encoder, its pruned copies, and the plan for one pass over the images; errors are those of `ratios_of`."""
    ratios = ratios_of(used, config)
    loss = config.loss or config.score == "loss"
    if used.run is None:
        states = [pruned_copies(used.encoder, ratios)] if ratios else []
        views = ViewConfig(image_size=used.preprocessing.image_size)
    else:
        states = load_networks(used.run, ratios, config.checkpoints if ratios else 1) if ratios or loss else []
        views = used.run.config.views
    plan = Plan(
        preprocessing=used.preprocessing,
        views=views,
        forgetting_views=config.views if ratios else 1,
        pairs=max(1, (config.views - 1) // 2) if loss else 0,
        projection=config.projection and bool(ratios),
        batch_size=config.batch_size,
        amp=config.amp,
        seed=config.seed,
    )
    return states[0].dense.encoder if states else used.encoder, states, plan
