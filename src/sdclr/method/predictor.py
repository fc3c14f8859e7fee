"""The predictor of asymmetric frameworks (BYOL, SimSiam, MoCo v3)."""

from torch import Tensor, nn


class Predictor(nn.Module):
    """Two linear layers `dim → hidden → dim` with batch normalisation and ReLU between.

    It follows a branch's projection head and has, like that, normalisation of its own for a damaged branch.

    Args:
        dim: Length of the projections.
        hidden: Length between the layers.
        twin: Keep a second normalisation, for a damaged second branch.
    """

    def __init__(self, dim: int, hidden: int, *, twin: bool = False) -> None:
        super().__init__()
        self.first = nn.Linear(dim, hidden, bias=False)
        self.norm = nn.BatchNorm1d(hidden)
        self.twin_norm = nn.BatchNorm1d(hidden) if twin else None
        self.last = nn.Linear(hidden, dim)

    def forward(self, projections: Tensor, *, twin: bool = False) -> Tensor:
        """Predictions `(N, dim)`; `twin` says that the projections are those of the damaged branch."""
        norm = self.twin_norm if twin and self.twin_norm is not None else self.norm
        predictions: Tensor = self.last(norm(self.first(projections)).relu())
        return predictions
