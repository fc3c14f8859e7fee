"""Self-damaging contrastive learning for unlabelled, long-tailed images."""

__version__ = "0.1.0"
