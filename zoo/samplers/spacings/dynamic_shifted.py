"""More noise for more tokens: Esser et al. 2024 (2403.03206), sec. 5.3.2, as in Flux and LTX-Video (2501.00103)."""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.path import Path
from vidiff.diffusion.sampler import Spacing
from vidiff.diffusion.times import Interval
from vidiff.registry import SPACINGS
from vidiff.types import Count, Positive


@SPACINGS.register("dynamic_shifted", parts={"spacing": "spacing"})
class DynamicShifted(Spacing):
    """`shifted` by the factor e^mu, mu linear in the number of tokens: `low` at `low_tokens`, `high` at `high_tokens`.

    The defaults are LTX-Video's; Flux and diffusers have 0.5 at 256 and 1.15 at 4096 tokens. `mu` given is mu itself.
    `power` is the exponent of diffusers' time_shift: t' = e^mu / (e^mu + (1/t - 1)^power).
    """

    def __init__(
        self,
        tokens: Count = 1024,
        low: float = 0.95,
        high: float = 2.05,
        low_tokens: Count = 1024,
        high_tokens: Count = 4096,
        mu: float | None = None,
        power: Positive = 1.0,
        spacing: Spacing | str = "uniform",
    ):
        if low_tokens >= high_tokens:
            raise ValueError(f"low_tokens {low_tokens} must be below high_tokens {high_tokens}.")
        slope = (high - low) / (high_tokens - low_tokens)
        self.mu = low + slope * (tokens - low_tokens) if mu is None else mu
        self.power, self.spacing, self.fixed = power, spacing, spacing.fixed

    def __call__(self, steps: int, path: Path, interval: Interval) -> Tensor:
        times = self.spacing(steps, path, interval)
        fraction, factor = times / interval[1], torch.tensor(self.mu, dtype=torch.float64, device="cpu").exp()
        return interval[1] * factor / (factor + (1 / fraction - 1) ** self.power)
