"""KoLeo: outputs move away from their nearest neighbors (Sablayrolles et al., *Spreading vectors …*, ICLR 2019)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from sdclr.method.losses import gather
from sdclr.method.rebalancing.config import KoLeoConfig
from sdclr.method.rebalancing.rebalancer import Outputs, Rebalancer, of_all


class KoLeo(Rebalancer):
    """Adds `-λ log min_j |z_i - z_j|` to the loss of each sample i.

    `z` are the dense branch's outputs for view 1, scaled to length 1 as in DINOv2 (Oquab et al., 2023), and j runs over
    the other images in the batch of all processes. The mean over samples is the negative Kozachenko-Leonenko estimate
    of the outputs' entropy, up to constants. It is lowest if outputs are spread evenly.

    An image that occurs twice in a batch is not its own neighbor. A sample without a neighbor gets no term.

    Args:
        config: The term's weight.
    """

    def __init__(self, *, config: KoLeoConfig | None = None) -> None:
        super().__init__()
        self.config = config or KoLeoConfig()

    def forward(self, losses: Tensor, outputs: Outputs, samples: Tensor) -> Tensor:
        """Losses `(n,)` with the term, from outputs `(n, D)`. Uses the whole matrix of cosines."""
        # Autocast would run the products below in half precision, whatever the type of their inputs.
        with torch.autocast(losses.device.type, enabled=False):
            rows = outputs[0] if outputs[0].dtype == torch.float64 else outputs[0].float()
            own = F.normalize(rows, dim=1)
            others, _ = gather(own)  # with gradient: neighbors also move away from the sample
            with torch.no_grad():
                itself = samples[:, None] == of_all(samples)[None]
                closeness, nearest = (own @ others.T).masked_fill_(itself, -torch.inf).max(1)
            # From the difference: 2 - 2 cos loses all digits if two outputs are close.
            distance = (own - others[nearest]).norm(dim=1)
            # The direction of a distance of the size of rounding errors is meaningless.
            term = -distance.clamp_min(torch.finfo(own.dtype).eps).log()
            return losses + self.config.weight * torch.where(closeness.isinf(), 0, term)
