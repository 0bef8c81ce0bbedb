"""The noise levels of EDM: Karras et al. 2022 (2206.00364), eq. 5."""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.sampler import LevelSpacing
from vidiff.registry import SPACINGS
from vidiff.types import Positive


@SPACINGS.register("karras")
class Karras(LevelSpacing):
    """(sigma/alpha)^(1/rho) in equal steps from sigma_max to sigma_min, then clean."""

    def __init__(self, rho: Positive = 7.0, sigma_min: Positive | None = None, sigma_max: Positive | None = None):
        super().__init__(sigma_min, sigma_max)
        self.rho = rho

    def ramp(self, high: float, low: float, steps: int) -> Tensor:
        return torch.linspace(high ** (1 / self.rho), low ** (1 / self.rho), steps, dtype=torch.float64) ** self.rho
