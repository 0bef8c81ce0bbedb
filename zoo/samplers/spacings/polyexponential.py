"""A power of equal steps in log sigma: k-diffusion's get_sigmas_polyexponential."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vidiff.diffusion.sampler import LevelSpacing
from vidiff.registry import SPACINGS
from vidiff.types import Positive


@SPACINGS.register("polyexponential", tiny=dict(rho=1.5))
class Polyexponential(LevelSpacing):
    """log(sigma/alpha) = log sigma_min + (1 - i/(S-1))^rho log(sigma_max/sigma_min), then clean; rho 1 is `logsnr`."""

    def __init__(self, rho: Positive = 1.0, sigma_min: Positive | None = None, sigma_max: Positive | None = None):
        super().__init__(sigma_min, sigma_max)
        self.rho = rho

    def ramp(self, high: float, low: float, steps: int) -> Tensor:
        fraction = torch.linspace(1, 0, steps, dtype=torch.float64) ** self.rho
        return torch.exp(math.log(low) + fraction * math.log(high / low))
