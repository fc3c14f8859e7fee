"""What a view of an image is, and two renderers that draw it."""
