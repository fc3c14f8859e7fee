"""Self-damaging contrastive learning, which contrasts a network with its pruned copy. Imports only torch and itself."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
