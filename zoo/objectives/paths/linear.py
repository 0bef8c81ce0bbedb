"""The straight line of rectified flow: Liu et al. 2022 (2209.03003), eq. 1; CondOT in flow matching (2210.02747)."""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.path import Path
from vidiff.registry import PATHS


@PATHS.register("linear")
class Linear(Path):
    """alpha = 1 - t, sigma = t: data and noise interpolated on a straight line."""

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def time(self, logsnr: Tensor) -> Tensor:
        return torch.sigmoid(-logsnr / 2)
