"""Equal steps in log-SNR: Lu et al. 2022 (DPM-Solver, 2206.00927), sec. 3; "exponential" in k-diffusion."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vidiff.diffusion.sampler import LevelSpacing
from vidiff.registry import SPACINGS
from vidiff.types import Positive


@SPACINGS.register("logsnr")
class Logsnr(LevelSpacing):
    """log(sigma/alpha) in equal steps from sigma_max to sigma_min, then clean."""

    def __init__(self, sigma_min: Positive | None = None, sigma_max: Positive | None = None):
        super().__init__(sigma_min, sigma_max)

    def ramp(self, high: float, low: float, steps: int) -> Tensor:
        return torch.linspace(math.log(high), math.log(low), steps, dtype=torch.float64).exp()
