"""The variance-preserving SDE: Song et al. 2021 (2011.13456), eq. 33; linear beta(t)."""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.path import VariancePreserving
from vidiff.registry import PATHS
from vidiff.types import Positive


@PATHS.register("vp")
class Vp(VariancePreserving):
    """beta(t) = beta_min + t (beta_max - beta_min), the limit of DDPM's linear betas."""

    def __init__(self, beta_min: Positive = 0.1, beta_max: Positive = 20.0):
        self.beta_min, self.beta_max = beta_min, beta_max

    def beta(self, t: Tensor) -> Tensor:
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def total_beta(self, t: Tensor) -> Tensor:
        return self.beta_min * t + (self.beta_max - self.beta_min) / 2 * t**2

    def time_of_total(self, total: Tensor) -> Tensor:
        root = torch.sqrt(self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * total)
        return 2 * total / (self.beta_min + root)  # the quadratic formula that does not cancel
