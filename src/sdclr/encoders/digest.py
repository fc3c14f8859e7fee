"""Digests of networks, which identify them by their weights and statistics."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn


def network_digest(*modules: nn.Module) -> str:
    """SHA-256 over the names and values of all weights and statistics, in hexadecimal.

    Args:
        modules: One or more networks; their order matters.
    """
    return tensors_digest(*(module.state_dict() for module in modules))


def tensors_digest(*groups: Mapping[str, Tensor]) -> str:
    """SHA-256 over names and values, in hexadecimal.

    Args:
        groups: Tensors by name; their order matters.
    """
    digest = hashlib.sha256()
    for group in groups:
        for name, tensor in group.items():
            values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(name.encode())
            digest.update(values.numpy().data)
    return digest.hexdigest()
