"""Two-branch frameworks: each takes two branches and two views and returns a loss for every sample."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
