"""Classifiers made of a pre-trained encoder, or from scratch, on labeled long-tailed images."""
