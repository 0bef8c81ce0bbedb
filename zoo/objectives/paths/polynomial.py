"""The polynomial interpolant: Lipman et al. 2024, Flow Matching Guide and Code (2412.06264)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from vidiff.diffusion.path import Path
from vidiff.registry import PATHS
from vidiff.types import Positive


@PATHS.register("polynomial")
class Polynomial(Path):
    """alpha = (1 - t)^power, sigma = 1 - alpha: the straight line of `linear` (power 1) at another speed.

    With a power above 1 the velocity at t = 1 is 0 and says nothing; with one below 1 it is infinite there.
    """

    def __init__(self, power: Positive = 3.0):
        self.power = power

    def alpha(self, t: Tensor) -> Tensor:
        return (1 - t) ** self.power

    def sigma(self, t: Tensor) -> Tensor:
        return -torch.expm1(self.power * torch.log1p(-t))  # no digits lost near t = 0

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -self.power * (1 - t) ** (self.power - 1)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return -self.alpha_dot(t)

    def time(self, logsnr: Tensor) -> Tensor:
        return -torch.expm1(logsigmoid(logsnr / 2) / self.power)  # alpha = sigmoid(logsnr / 2)
