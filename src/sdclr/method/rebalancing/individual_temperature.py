"""A learned temperature for each image (iSogCLR: Qiu et al., *Not All Semantics are Created Equal …*, ICML 2023)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sdclr.method.losses import gather
from sdclr.method.rebalancing.config import IndividualTemperatureConfig
from sdclr.method.rebalancing.rebalancer import Outputs, Rebalancer, mean_by_sample, of_all


class IndividualTemperature(Rebalancer):
    """Replaces SimCLR's losses by `F_i = τ_i log E exp(h / τ_i) + τ_i ρ` and also optimizes each image's τ_i.

    `h = cos(v, v⁻) - cos(v, v⁺)` over the 2N - 2 negatives of an anchor: the outputs of both branches for all other
    images of all processes. The mean over negatives is a running mean, `s ← (1 - γ) s + γ E exp(h / τ)`, so gradients
    estimate those of the mean over the whole set, not over a batch. Both anchors of an image share τ and s.

    A sample's loss is the mean over its two anchors, divided by the initial temperature τ₀. With γ = 1 and all
    temperatures at τ₀ its gradient equals that of the decoupled NT-Xent, so the same learning rates apply. The
    published losses are sums over both anchors, not divided.

    Args:
        samples: Images in the set.
        config: Temperatures and learning rates.
    """

    temperatures: Tensor  # (samples,): τ
    gradients: Tensor  # (samples,): running means of dF/dτ
    estimates: Tensor  # (samples,): log of the running mean over negatives of exp(cos / τ)
    seen: Tensor  # (samples,): whether there is an estimate

    def __init__(self, samples: int, *, config: IndividualTemperatureConfig | None = None) -> None:
        super().__init__()
        self.config = config or IndividualTemperatureConfig()
        self.register_buffer("temperatures", torch.full((samples,), self.config.initial))
        self.register_buffer("gradients", torch.zeros(samples))
        self.register_buffer("estimates", torch.zeros(samples))
        self.register_buffer("seen", torch.zeros(samples, dtype=torch.bool))

    def forward(self, losses: Tensor, outputs: Outputs, samples: Tensor) -> Tensor:
        """Losses `(n,)` from outputs `(n, D)`. Uses the whole matrix of cosines.

        Raises:
            ValueError: If the batch has a single image, which has no negatives.
        """
        # Autocast would run the products below in half precision, whatever the type of their inputs.
        with torch.autocast(losses.device.type, enabled=False):
            anchors = torch.cat([_normalized(branch) for branch in outputs])  # (2n, D)
            candidates, own = gather(anchors)  # (2N, D): of all processes; anchor i is candidate own + i
            if len(candidates) < 4:
                raise ValueError("one image has no negatives: a batch needs 2 or more")
            cosines = anchors @ candidates.T  # (2n, 2N)
            itself = own + torch.arange(len(anchors), device=anchors.device)
            positive = cosines.gather(1, itself.roll(len(samples))[:, None]).squeeze(1)
            temperature = self.temperatures[samples].repeat(2).to(cosines)
            weights, estimate = self._weights(cosines.detach(), temperature, itself, samples)
            similarity = (weights * cosines).sum(1)  # has the gradient of τ log s, with the estimate of s
            value = (temperature * (estimate + self.config.rho) - positive).detach()
            slope = estimate + self.config.rho - similarity.detach() / temperature  # dF/dτ
            self._learn(of_all(samples), of_all(torch.stack([*slope.view(2, -1), *estimate.view(2, -1)], 1)))
            loss = similarity - positive
            loss = loss + (value - loss).detach()  # the value becomes F, the gradient stays
            return loss.view(2, -1).mean(0) / self.config.initial

    @torch.no_grad()
    def _weights(self, cosines: Tensor, temperature: Tensor, itself: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
        """For each anchor, `exp(cosine / τ) / s` divided by the number of negatives, `(2n, 2N)`, and log s, `(2n,)`."""
        logits = cosines / temperature[:, None]
        for excluded in (itself, itself.roll(len(samples))):
            logits.scatter_(1, excluded[:, None], -torch.inf)
        count = math.log(logits.shape[1] - 2)
        of_batch = logits.logsumexp(1) - count
        rate = self.config.estimate_rate
        kept = self.estimates[samples].repeat(2).to(logits) + (math.log1p(-rate) if rate < 1 else -math.inf)
        running = torch.logaddexp(kept, of_batch + math.log(rate))
        estimate = torch.where(self.seen[samples].repeat(2), running, of_batch)
        return logits.sub_(estimate[:, None] + count).exp_(), estimate

    @torch.no_grad()
    def _learn(self, samples: Tensor, found: Tensor) -> None:
        """One step of each sample's temperature, from slopes and estimates `(n, 4)` of its two anchors."""
        slope = found[:, :2].mean(1).clamp(-self.config.clip, self.config.clip)
        estimate = found[:, 2:].logsumexp(1) - math.log(2)
        once, mean = mean_by_sample(samples, torch.stack([slope, estimate], 1).to(self.gradients))
        gradient = torch.lerp(self.gradients[once], mean[:, 0], self.config.gradient_rate)
        temperature = self.temperatures[once] - self.config.rate * gradient
        self.gradients[once] = gradient
        self.temperatures[once] = temperature.clamp(self.config.low, self.config.high)
        self.estimates[once] = mean[:, 1]
        self.seen[once] = True


def _normalized(outputs: Tensor) -> Tensor:
    return F.normalize(outputs if outputs.dtype == torch.float64 else outputs.float(), dim=1)
