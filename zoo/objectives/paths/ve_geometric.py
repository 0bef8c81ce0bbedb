"""The variance-exploding SDE with geometric noise levels: Song et al. 2021 (2011.13456), eq. 30 and app. C."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vidiff.diffusion.path import Path
from vidiff.registry import PATHS
from vidiff.types import Positive


@PATHS.register("ve_geometric")
class VeGeometric(Path):
    """alpha = 1, sigma^2 = sigma_min^2 (r^(2t) - 1) with r = sigma_max / sigma_min.

    This is the exact kernel of dx = sigma_min r^t sqrt(2 log r) dw from clean data; the paper writes
    sigma_min r^t, the same to within sigma_min, which never becomes clean. Raises ValueError unless
    sigma_min < sigma_max.
    """

    def __init__(self, sigma_min: Positive = 0.01, sigma_max: Positive = 50.0):
        if sigma_min >= sigma_max:
            raise ValueError(f"sigma_min {sigma_min:g} must be below sigma_max {sigma_max:g}.")
        self.sigma_min, self.growth = sigma_min, 2 * math.log(sigma_max / sigma_min)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min * torch.expm1(self.growth * t).sqrt()

    def alpha_dot(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return self.sigma_min**2 * self.growth / 2 * torch.exp(self.growth * t) / self.sigma(t)

    def time(self, logsnr: Tensor) -> Tensor:
        variance = torch.exp(-logsnr) / self.sigma_min**2
        return (torch.log1p(variance) / self.growth).clamp(max=1)
