"""Batches for training: order, views, and the cache of decoded images."""
