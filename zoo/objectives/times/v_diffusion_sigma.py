"""The noise levels of v-diffusion: Salimans & Ho 2022 (2202.00512) with uniform angles; k-diffusion's "v-diffusion"."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vidiff.diffusion.path import Path
from vidiff.diffusion.times import Interval, Times
from vidiff.registry import TIMES
from vidiff.types import Positive


@TIMES.register("v_diffusion_sigma")
class VDiffusionSigma(Times):
    """sigma/alpha = sigma_data tan(angle), angles uniform between those of sigma_min and sigma_max: a half-Cauchy law.

    Levels beyond the interval fall on its ends. Raises ValueError unless sigma_min < sigma_max.
    """

    def __init__(self, sigma_data: Positive = 1.0, sigma_min: Positive = 1e-3, sigma_max: Positive = 1e3):
        if sigma_min >= sigma_max:
            raise ValueError(f"sigma_min {sigma_min:g} must be below sigma_max {sigma_max:g}.")
        self.sigma_data = sigma_data
        self.low, self.high = math.atan(sigma_min / sigma_data), math.atan(sigma_max / sigma_data)

    def quantile(self, u: Tensor, path: Path, interval: Interval) -> Tensor:
        level = self.sigma_data * torch.tan(self.low + (self.high - self.low) * u)
        return path.time(-2 * level.log()).clamp(*interval)
