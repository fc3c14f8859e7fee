"""Complete configurations by name."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from sdclr import encoders
from sdclr.encoders import SMALL_IMAGE, EncoderConfig, HeadConfig
from sdclr.method.frameworks import BYOLConfig, MoCoConfig, MoCoV3Config, SimSiamConfig
from sdclr.training.config import DamageConfig, DamageKind, FrameworkName, PretrainConfig
from sdclr.training.optim_config import OptimConfig
from sdclr.views.config import ViewConfig

Method = Literal["simclr", "sdclr", "random_pruning", "dropout", "focal", "moco"]
"""Methods of the paper: SimCLR, SDCLR, two controls of the damage, and two other baselines (§4.8)."""

HeadKind = Literal["matched", "reference"]
"""Matched: two layers for every method. Reference: three layers for damaged methods and two for the others, as in the
paper's reference implementation, which mixes the effect of the damage with that of the head."""


def cifar_lt(method: Method = "sdclr", head: HeadKind = "matched") -> PretrainConfig:
    """CIFAR-10-LT and CIFAR-100-LT as in Jiang et al. (ICML 2021): ResNet-18, 2000 epochs, 90% of weights pruned.

    On the full, balanced sets the paper trains 1000 epochs. MoCo has its authors' queue, momentum and temperature for
    CIFAR-10.
    """
    config = PretrainConfig(
        encoder=EncoderConfig(name="resnet18", stem="small"),
        views=ViewConfig(image_size=32),
        damage=DamageConfig(ratio=0.9),
        optim=OptimConfig(lr=0.5, weight_decay=1e-4),
        temperature=0.2,
        batch_size=512,
        epochs=2000,
    )
    config = with_method(config, method, head)
    return with_framework(config, "moco") if method == "moco" else config


def imagenet100_lt(method: Method = "sdclr", head: HeadKind = "matched") -> PretrainConfig:
    """ImageNet-100-LT as in Jiang et al. (ICML 2021): ResNet-50 at 224 px, 500 epochs, 30% of weights pruned."""
    config = PretrainConfig(
        encoder=EncoderConfig(name="resnet50", stem="default"),
        views=ViewConfig(image_size=224, crop_scale=(0.08, 1.0), blur=0.5),
        damage=DamageConfig(ratio=0.3),
        optim=OptimConfig(lr=0.5, weight_decay=1e-4),
        temperature=0.3 if method == "sdclr" else 0.2,
        batch_size=256,
        epochs=500,
    )
    return with_method(config, method, head)


def imagenet_lt(method: Method = "sdclr", head: HeadKind = "matched") -> PretrainConfig:
    """ImageNet-LT and ImageNet-LT-exp as in Jiang et al. (ICML 2021): the same settings as for ImageNet-100-LT."""
    return imagenet100_lt(method, head)


def with_method(config: PretrainConfig, method: Method, head: HeadKind = "matched") -> PretrainConfig:
    """A configuration with the damage, framework and head of another method. The pruning ratio stays."""
    kind: dict[Method, DamageKind] = {"sdclr": "prune", "random_pruning": "random", "dropout": "dropout"}
    damage = replace(config.damage, kind=kind.get(method, "none"))
    layers: Literal[2, 3] = 3 if head == "reference" and damage.kind != "none" else 2
    return replace(
        config,
        damage=damage,
        head=replace(config.head, layers=layers),
        framework="moco" if method == "moco" else "simclr",
        rebalance=("focal",) if method == "focal" else (),
    )


def digits_demo() -> PretrainConfig:
    """Handwritten digits of 8 px with a quarter-width ResNet-18: seconds on a CPU core. Digits are not mirrored."""
    return PretrainConfig(
        encoder=EncoderConfig(name="resnet18", stem="small", width=16),
        views=ViewConfig(image_size=8, crop_scale=(0.3, 1.0), flip=0.0, gray=0.0),
        damage=DamageConfig(ratio=0.5),
        optim=OptimConfig(lr=0.25),
        temperature=0.2,
        batch_size=128,
        epochs=120,
    )


def with_framework(config: PretrainConfig, name: FrameworkName) -> PretrainConfig:
    """A configuration in another framework, with the heads and hyperparameters of its paper, scaled to the encoder.

    The papers train a ResNet-50 with 2,048 features on large batches. Here the dimensions of heads scale with the
    number of features. The learning rate is 0.06 for every 128 images with SGD, which is usual for these frameworks on
    CIFAR, as is MoCo v3's temperature of 0.2 there; its paper uses 1 for a ResNet-50. SimSiam's head has two layers for
    small images, as its authors use on CIFAR-10. BYOL's initial momentum depends on the number of epochs. A run from
    trained weights keeps its learning rate, because those of the papers would destroy the weights.

    Args:
        config: A configuration; its damage stays.
        name: The framework. "simclr" changes nothing else.
    """
    if name == "simclr":
        return replace(config, framework=name)
    small = config.views.image_size <= SMALL_IMAGE
    if name == "moco":
        # Its authors' settings for CIFAR, where the queue for ImageNet would contain every image several times.
        moco = MoCoConfig(queue=4096, momentum=0.99) if small and config.moco == MoCoConfig() else config.moco
        return replace(config, framework=name, moco=moco, temperature=0.1 if small else 0.2)
    features = encoders.feature_length(config.encoder, config.views.image_size)
    heads = {
        "moco_v3": HeadConfig(layers=3, hidden=2 * features, dim=256, last="plain"),
        "byol": HeadConfig(layers=2, hidden=2 * features, dim=256, last="none"),
        "simsiam": HeadConfig(layers=2 if small else 3, hidden=features, dim=features, last="plain"),
        "barlow_twins": HeadConfig(layers=3, hidden=4 * features, dim=4 * features, last="none"),
        "vicreg": HeadConfig(layers=3, hidden=4 * features, dim=4 * features, last="none"),
    }
    return replace(
        config,
        framework=name,
        head=heads[name],
        optim=config.optim if config.start else replace(config.optim, lr=0.06 * config.batch_size / 128),
        moco_v3=MoCoV3Config(hidden=2 * features),
        byol=BYOLConfig(hidden=2 * features, momentum=_byol_momentum(config.epochs, small=small)),
        simsiam=SimSiamConfig(hidden=max(1, features // 4)),
        temperature=(0.2 if small else 1.0) if name == "moco_v3" else config.temperature,
    )


def _byol_momentum(epochs: int, *, small: bool) -> float:
    """Initial momentum of BYOL's authors for a number of epochs; at most 0.99 for small images."""
    if epochs <= 40:
        return 0.97
    return 0.99 if small or epochs <= 300 else 0.996


RECIPES: dict[str, Callable[[], PretrainConfig]] = {
    "cifar_lt": cifar_lt,
    "imagenet100_lt": imagenet100_lt,
    "imagenet_lt": imagenet_lt,
    "digits_demo": digits_demo,
}
"""Recipes by name, each for one data set."""
