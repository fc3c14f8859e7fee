"""Features of a trained encoder, probes on them, and the balance of accuracy between groups of classes."""
