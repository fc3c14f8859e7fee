"""The predictor of asymmetric frameworks (BYOL, SimSiam, MoCo v3)."""

from torch import Tensor, nn


class Predictor(nn.Module):
    """Two linear layers `dim → hidden → dim` with batch normalization and ReLU between.

    It follows a branch's projection head. Like the head, it has separate normalization for a damaged branch.

    Args:
        dim: Dimension of the projections.
        hidden: Dimension between the layers.
        twin: Add a second normalization for a damaged second branch.

    Raises:
        ValueError: If a dimension is below 1.
    """

    def __init__(self, dim: int, hidden: int, *, twin: bool = False) -> None:
        if dim < 1 or hidden < 1:
            raise ValueError(f"a predictor has layers of 1 or more, not of {dim} and {hidden}")
        super().__init__()
        self.first = nn.Linear(dim, hidden, bias=False)
        self.norm = nn.BatchNorm1d(hidden)
        self.twin_norm = nn.BatchNorm1d(hidden) if twin else None
        self.last = nn.Linear(hidden, dim)

    def forward(self, projections: Tensor, *, twin: bool = False) -> Tensor:
        """Predictions `(N, dim)`; `twin` selects the normalization of the damaged branch."""
        norm = self.twin_norm if twin and self.twin_norm is not None else self.norm
        predictions: Tensor = self.last(norm(self.first(projections)).relu())
        return predictions
