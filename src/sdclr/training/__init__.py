"""Pre-training: the loop, optimizers, checkpoints and process groups."""
