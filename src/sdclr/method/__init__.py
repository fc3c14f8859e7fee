"""The idea: prune a network, contrast it with its pruned self, refresh. Imports torch and itself only."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
