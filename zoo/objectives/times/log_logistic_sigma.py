"""Log-logistic noise levels: Crowson et al. 2024 (2401.11605, Hourglass), k-diffusion's "loglogistic"."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vidiff.diffusion.path import Path
from vidiff.diffusion.times import Interval, Times
from vidiff.registry import TIMES
from vidiff.types import Positive


@TIMES.register("log_logistic_sigma")
class LogLogisticSigma(Times):
    """log(sigma/alpha) logistic about `mean` with `scale`, cut at sigma_min and sigma_max, then at the interval's ends.

    Raises ValueError unless sigma_min < sigma_max.
    """

    def __init__(
        self,
        mean: float = math.log(0.5),
        scale: Positive = 0.5,
        sigma_min: Positive = 1e-3,
        sigma_max: Positive = 1e3,
    ):
        if sigma_min >= sigma_max:
            raise ValueError(f"sigma_min {sigma_min:g} must be below sigma_max {sigma_max:g}.")
        self.mean, self.scale, self.ends = mean, scale, (math.log(sigma_min), math.log(sigma_max))

    def quantile(self, u: Tensor, path: Path, interval: Interval) -> Tensor:
        low, high = (1 / (1 + math.exp((self.mean - end) / self.scale)) for end in self.ends)
        log_level = self.mean + self.scale * torch.logit(low + (high - low) * u)
        return path.time(-2 * log_level).clamp(*interval)
