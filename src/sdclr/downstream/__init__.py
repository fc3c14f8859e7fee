"""Classifiers made of a pre-trained encoder, or from scratch, on labelled long-tailed images."""
