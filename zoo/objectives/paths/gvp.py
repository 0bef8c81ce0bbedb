"""The trigonometric interpolant: Albergo et al. 2023 (2303.08797); "GVP" in SiT (2401.08740)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vidiff.diffusion.path import Path
from vidiff.registry import PATHS

QUARTER = math.pi / 2


@PATHS.register("gvp")
class Gvp(Path):
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2): a quarter of a circle at constant speed."""

    def alpha(self, t: Tensor) -> Tensor:
        return torch.sin(QUARTER * (1 - t))  # cos, and exactly 0 at t = 1

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(QUARTER * t)

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -QUARTER * self.sigma(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return QUARTER * self.alpha(t)

    def time(self, logsnr: Tensor) -> Tensor:
        return torch.atan(torch.exp(-logsnr / 2)) / QUARTER
