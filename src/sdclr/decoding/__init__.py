"""Image files to pixels: formats, limits, and the worker processes that decode."""
