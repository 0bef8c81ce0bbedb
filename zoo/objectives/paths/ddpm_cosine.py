"""The discrete cosine schedule: Nichol & Dhariwal 2021 (2102.09672), eq. 17, betas capped."""

from __future__ import annotations

import math

import torch

from vidiff.diffusion.table import BetaTable, ramp
from vidiff.registry import PATHS
from vidiff.types import Count, Fraction, Positive


@PATHS.register("ddpm_cosine", tiny=dict(num_timesteps=40))
class DdpmCosine(BetaTable):
    """betas 1 - cos^2(angle(i+1)) / cos^2(angle(i)), at most `cap`: squaredcos_cap_v2.

    lucidrains' code caps at 0.9999; with a cap of 1 nothing is left of the signal at t = 1.
    """

    def __init__(self, num_timesteps: Count = 1000, offset: Positive = 0.008, cap: Fraction = 0.999):
        t = ramp(0.0, 1.0, num_timesteps + 1)
        signal = torch.cos((t + offset) / (1 + offset) * math.pi / 2) ** 2
        super().__init__((1 - signal[1:] / signal[:-1]).clamp(max=cap))
