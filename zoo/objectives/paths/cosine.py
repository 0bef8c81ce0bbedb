"""The cosine schedule in continuous time: Nichol & Dhariwal 2021 (2102.09672), eq. 17."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vidiff.diffusion.path import Path
from vidiff.registry import PATHS
from vidiff.types import Positive


@PATHS.register("cosine")
class Cosine(Path):
    """alpha = cos(angle(t)) / cos(angle(0)) with angle = pi/2 (t + s)/(1 + s), variance preserving; s = `offset`.

    Not capped, so alpha is 0 at t = 1; `ddpm_cosine` is the capped discrete one.
    """

    def __init__(self, offset: Positive = 0.008):
        self.rate = math.pi / 2 / (1 + offset)
        self.first = self.rate * offset

    def alpha(self, t: Tensor) -> Tensor:
        return torch.sin(self.rate * (1 - t)) / math.cos(self.first)  # cos(angle), and exactly 0 at t = 1

    def sigma(self, t: Tensor) -> Tensor:
        angle = self.first + self.rate * t  # cos^2 a - cos^2 b as a product: no digits lost near t = 0
        return torch.sqrt(torch.sin(self.rate * t) * torch.sin(angle + self.first)) / math.cos(self.first)

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -self.rate * torch.cos(self.rate * (1 - t)) / math.cos(self.first)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return -self.alpha(t) * self.alpha_dot(t) / self.sigma(t)

    def time(self, logsnr: Tensor) -> Tensor:
        cos = math.cos(self.first) * torch.sigmoid(logsnr).sqrt()
        sin = torch.sqrt(math.sin(self.first) ** 2 + math.cos(self.first) ** 2 * torch.sigmoid(-logsnr))
        return ((torch.atan2(sin, cos) - self.first) / self.rate).clamp(0, 1)
