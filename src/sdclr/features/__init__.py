"""Features of images under a frozen encoder, and their nearest neighbors."""
