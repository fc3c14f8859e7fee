"""The version, in a place that everything can read."""

__version__ = "0.1.0"
