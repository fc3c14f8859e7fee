"""Features of a trained encoder, probes on them, and how balanced they are."""
