"""A split of the paper's shape over embedded digits, and runs of a second.

A module of its own, and not a conftest, so that spawned processes can import it.
"""

from dataclasses import replace

import numpy as np

from sdclr.data.sources import SubsetSource, digits
from sdclr.encoders import EncoderConfig, HeadConfig
from sdclr.longtail.published import PaperSplit
from sdclr.longtail.splits import long_tail_split
from sdclr.paper.tasks import Job, Task
from sdclr.training.config import DamageConfig, PretrainConfig, Runtime
from sdclr.training.optim import OptimConfig
from sdclr.views.parameters import ViewConfig

TINY = PretrainConfig(
    encoder=EncoderConfig(width=4),
    head=HeadConfig(dim=8),
    views=ViewConfig(image_size=8),
    damage=DamageConfig(ratio=0.3),
    optim=OptimConfig(lr=0.1, warmup_epochs=0),
    epochs=2,
    batch_size=32,
)
RUNTIME = Runtime(device="cpu", workers=0, progress=False, amp="none")


def tiny_split(job: Job) -> PaperSplit:
    train, test = digits("train"), digits("test")
    drawn = long_tail_split(
        train.labels, max_count=40, imbalance=10, seed=job.split, pool=np.arange(1000), few_shot_fraction=0.03
    )
    return PaperSplit(
        name=job.dataset,
        split=job.split,
        long_tail=SubsetSource(train, drawn.long_tail),
        balanced=SubsetSource(train, drawn.balanced),
        few_shot=SubsetSource(train, drawn.few_shot),
        full=SubsetSource(train, np.arange(400)),
        validation=SubsetSource(train, np.arange(1000, 1297)),
        test=test,
        counts=drawn.counts,
        rule="thirds",
    )


def second_is_broken(job: Job) -> PaperSplit:
    if job.split == 2:
        raise RuntimeError("the disk is on fire")
    return tiny_split(job)


def tiny_task(split: int = 1, **changes) -> Task:
    config = replace(TINY, seed=split, **changes)
    return Task(dataset="cifar10_lt", split=split, subset="long_tail", config=config, scale="cpu")
