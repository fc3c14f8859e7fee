"""Find the rare images of unlabeled, long-tailed collections, and train encoders that serve rare classes better.

`mine` ranks the images of a folder by rarity with a pretrained encoder, `diagnose` describes the collection, and
`select` chooses images to label next. `pretrain` trains an encoder on the images by self-damaging contrastive learning,
`evaluate` measures its accuracy for frequent and rare classes, and `export` writes it for other tools. `load_encoder`
loads any encoder: a run, an export, or a pretrained timm model.

For the method alone, `SelfCompetitor` runs a network as its own pruned twin, and `nt_xent` contrasts the two.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
