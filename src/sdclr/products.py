"""Fast matrix products of float32 on a CPU.

`torch.mm` calls MKL, which does not use the widest instructions of AMD processors. oneDNN, which torch uses for
convolutions, does, and is two to three times as fast there (docs/speed.md).
"""

import torch
from torch import Tensor


def product(rows: Tensor, others: Tensor, bias: Tensor | None = None) -> Tensor:
    """`rows @ others.T + bias`, equal to `torch.addmm` up to rounding, without gradients.

    Args:
        rows: (N, D).
        others: (M, D), with the same type and device; it may be the transpose of a (D, M) tensor.
        bias: (M,).

    Returns:
        (N, M).

    Examples:
        >>> product(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0], [5.0, 6.0]]))
        tensor([[11., 17.]])
    """
    if rows.device.type == "cpu" and rows.dtype == torch.float32 and _has_onednn():
        found: Tensor = torch.ops.mkldnn._linear_pointwise(rows.contiguous(), others, bias, "none", [], "")  # noqa: SLF001
        return found
    return rows @ others.T if bias is None else torch.addmm(bias, rows, others.T)


def _has_onednn() -> bool:
    """Whether torch has the operator, which is not public."""
    return bool(torch._C._has_mkldnn) and hasattr(torch.ops.mkldnn, "_linear_pointwise")  # noqa: SLF001
