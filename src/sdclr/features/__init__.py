"""Features of images from a frozen encoder, and their nearest neighbors."""
