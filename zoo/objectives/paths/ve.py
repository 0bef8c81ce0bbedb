"""The variance-exploding path of EDM: Karras et al. 2022 (2206.00364), table 1; sigma proportional to time."""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.path import Path, level_label
from vidiff.registry import PATHS
from vidiff.types import Positive


@PATHS.register("ve")
class Ve(Path):
    """alpha = 1, sigma = sigma_max t; the label is the noise level, log(sigma) / 4.

    x_t has a standard deviation of up to sigma_max: use the `edm` prediction, which scales it for the network.
    """

    def __init__(self, sigma_max: Positive = 80.0):
        self.sigma_max = sigma_max

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_max * t

    def alpha_dot(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return torch.full_like(t, self.sigma_max)

    def time(self, logsnr: Tensor) -> Tensor:
        return (torch.exp(-logsnr / 2) / self.sigma_max).clamp(max=1)

    def label(self, t: Tensor) -> Tensor:
        """log(sigma) / 4: in t itself nearly all noise levels would look like 0."""
        return level_label(self, t)
