"""The "cosmap" weights of SD3 training: Esser et al. 2024 (2403.03206), sec. 3.1; diffusers' training scripts."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vidiff.diffusion.path import Path
from vidiff.diffusion.weighting import Weighting
from vidiff.registry import WEIGHTINGS


@WEIGHTINGS.register("sd3_cosmap")
class Sd3Cosmap(Weighting):
    """2 / (pi (1 - 2s + 2s^2)) |velocity - velocity_hat|^2, s = sigma / (alpha + sigma), the linear path's time.

    With uniform times on the linear path it is the plain flow loss with times of density `cosmap`.
    """

    space = "velocity"

    def weight(self, path: Path, t: Tensor) -> Tensor:
        s = torch.sigmoid(-path.logsnr(t) / 2)
        return 2 / (math.pi * (1 - 2 * s + 2 * s**2))
