"""Label-free rebalancers, which make a framework emphasize rare images."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
