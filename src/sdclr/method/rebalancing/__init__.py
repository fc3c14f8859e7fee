"""Label-free rebalancers: what is added to a framework to serve rare images better."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
