"""Log-normal noise levels: Karras et al. 2022 (2206.00364), table 1 (P_mean, P_std)."""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.path import Path
from vidiff.diffusion.times import Interval, Times
from vidiff.registry import TIMES
from vidiff.types import Positive


@TIMES.register("lognormal_sigma")
class LognormalSigma(Times):
    """sigma/alpha = exp(mean + std z), z ~ N(0,1); levels beyond the interval fall on its ends."""

    def __init__(self, mean: float = -1.2, std: Positive = 1.2):
        self.mean, self.std = mean, std

    def quantile(self, u: Tensor, path: Path, interval: Interval) -> Tensor:
        log_level = self.mean + self.std * torch.special.ndtri(u)
        return path.time(-2 * log_level).clamp(*interval)
