"""Noise levels uniform in their logarithm: Song et al. 2021 (2011.13456), the VE-SDE's; k-diffusion's "loguniform"."""

from __future__ import annotations

import math

from torch import Tensor

from vidiff.diffusion.path import Path
from vidiff.diffusion.times import Interval, Times
from vidiff.registry import TIMES
from vidiff.types import Positive


@TIMES.register("loguniform_sigma")
class LoguniformSigma(Times):
    """log(sigma/alpha) uniform from sigma_min to sigma_max; levels beyond the interval fall on its ends.

    Raises ValueError unless sigma_min < sigma_max.
    """

    def __init__(self, sigma_min: Positive = 0.02, sigma_max: Positive = 100.0):
        if sigma_min >= sigma_max:
            raise ValueError(f"sigma_min {sigma_min:g} must be below sigma_max {sigma_max:g}.")
        self.low, self.high = math.log(sigma_min), math.log(sigma_max)

    def quantile(self, u: Tensor, path: Path, interval: Interval) -> Tensor:
        return path.time(-2 * (self.low + (self.high - self.low) * u)).clamp(*interval)
