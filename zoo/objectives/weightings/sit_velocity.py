"""The "velocity" weight of SiT on noise and score losses: Ma et al. 2024 (2401.08740), transport code."""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.path import Path
from vidiff.diffusion.weighting import Weighting
from vidiff.registry import WEIGHTINGS


@WEIGHTINGS.register("sit_velocity")
class SitVelocity(Weighting):
    """|velocity - velocity_hat|^2: the flow-matching loss behind any prediction."""

    space = "velocity"

    def weight(self, path: Path, t: Tensor) -> Tensor:
        return torch.ones_like(t)
