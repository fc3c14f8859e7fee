"""The pre-training loop and what it needs: optimisers, checkpoints, processes."""
