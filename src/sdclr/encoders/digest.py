"""Which network it is: a digest of its weights and statistics."""

import hashlib

import torch
from torch import nn


def network_digest(*modules: nn.Module) -> str:
    """SHA-256 over the names and values of all weights and statistics, in hexadecimal.

    Args:
        modules: One network or several, whose order counts.
    """
    digest = hashlib.sha256()
    for module in modules:
        for name, tensor in module.state_dict().items():
            values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(name.encode())
            digest.update(values.numpy().data)
    return digest.hexdigest()
