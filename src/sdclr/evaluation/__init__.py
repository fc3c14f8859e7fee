"""Features of a trained encoder, probes on them, and their balance between groups of classes."""
